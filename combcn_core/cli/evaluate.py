"""`combcn evaluate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import Positional, arg

from combcn_core.cli.common import Unchecked, bar, settings
from combcn_core.measure.evaluate import WEIGHTS, evaluate
from combcn_core.measure.trials import EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate(Unchecked, EvaluateConfig):
    """Compare methods on clips with synthetic holes: tables, a CSV file and a page of pictures."""

    data: Positional[Annotated[Path, arg(metavar="DATA")]]
    """Folder of videos and of clips as folders (NAME/frames/ or NAME/, with images)."""
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("combcn_evaluation")
    """Where scores.csv, index.html and pictures/ go. Rows that are there already are kept."""
    weights: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights of the networks: a name that comes with CombCN, or a .safetensors file. None named:
    the default ones."""
    weights_2dcn: Annotated[Path | None, arg(metavar="PATH")] = None
    """Weights for the method 2dcn: networks trained without guidance."""
    size: Annotated[str, arg(metavar="SIDE|WxH")] = "0"  # type: ignore[assignment]
    """Crop and resize frames, to a square of 128 or to 432x240, say; 0 leaves them as they are."""

    def config(self) -> EvaluateConfig:
        return settings(self, EvaluateConfig, size=_parse_size(self.size))

    def run(self) -> int:
        from combcn_core.measure.scores import describe_scores, format_table
        from combcn_core.networks import WEIGHTS_FOLDER
        from combcn_core.networks.checkpoint import load_model

        config = self.config()
        # Without methods named, those are taken that there are weights for.
        wanted = {WEIGHTS.get(method) for method in config.methods or WEIGHTS}
        is_there = (WEIGHTS_FOLDER / "default.safetensors").is_file()
        model = model_2dcn = None
        if "weights" in wanted and (self.weights is not None or is_there):
            model = load_model(self.weights or "default")
        if "weights-2dcn" in wanted and self.weights_2dcn is not None:
            model_2dcn = load_model(self.weights_2dcn)
        with logging_redirect_tqdm(), bar(self.data.name, "result") as results:

            def progress(done: int, total: int) -> None:
                results.total = total
                results.update(done - results.n)

            scores = evaluate(
                self.data,
                self.output,
                config,
                model=model,
                model_2dcn=model_2dcn,
                progress=progress,
            )
        print(f"{describe_scores(scores)}\n")
        for metric in ("l1", "hole_psnr", "flicker", "seconds_per_frame"):
            print(f"{format_table(scores, metric)}\n")
        print(
            f"{self.output / 'index.html'} shows the worst frames, and all else that was measured."
        )
        return 0


def _parse_size(text: str) -> tuple[int, int] | None:
    """(height, width)"""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise ValueError(f"--size is {text}; give one side, such as 128, or 432x240, or 0.")
    width, height = int(match[1]), int(match[2] or match[1])
    return (height, width) if width or height else None
