"""`combcn batch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import Positional, arg

from combcn_core.cli.common import RunBar, bar
from combcn_core.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inpaint many shots; those that are finished are skipped, one that fails stops no other."""

    manifest: Positional[Annotated[Path, arg(metavar="MANIFEST")]]
    """One JSON object a line: input, mask, output, and options with what else `inpaint` takes."""
    engine: Literal["local", "ray"] = "local"
    """local: one shot after the other; ray: segments of all shots over a cluster, or this
    machine's cores."""
    workers: int = 0
    """Processes of the engine ray, with equal shares of the cores; 0: one for every four cores."""

    def run(self) -> int:
        from combcn_core.stream.batch import Outcome, Row, read_manifest, run_batch

        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; give a number of processes, or 0.")

        total = len(read_manifest(self.manifest))
        with logging_redirect_tqdm(), bar(self.manifest.name, "shot", total) as shots:
            under_way: RunBar | None = None

            def end() -> None:
                nonlocal under_way
                if under_way is not None:
                    under_way.tqdm.close()
                under_way = None

            def progress(row: Row, now: Progress) -> None:
                nonlocal under_way
                under_way = under_way or RunBar(Path(row.output).name, position=1)
                under_way(now)

            def say_outcome(outcome: Outcome) -> None:
                end()
                reason = outcome.reason and f", {outcome.reason}"
                tqdm.write(f"{outcome.row.output}: {outcome.status}{reason}")
                shots.update()

            try:
                outcomes = run_batch(
                    self.manifest,
                    engine=self.engine,
                    workers=self.workers,
                    on_outcome=say_outcome,
                    progress=progress,
                )
            finally:
                end()
        statuses = [outcome.status for outcome in outcomes]
        counts = ", ".join(
            f"{statuses.count(name)} {name}" for name in ("done", "skipped", "failed")
        )
        print(f"{len(statuses)} shots: {counts}.")
        return 1 if "failed" in statuses else 0
