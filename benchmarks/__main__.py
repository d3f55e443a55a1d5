"""Speed and memory of CombCN on this machine.

    python -m benchmarks [--output FOLDER] [--large] [--threads N] [--device D] [--only NAME ...]

Prints tables, and saves them as FOLDER/benchmarks.json with a plot, benchmarks.png: the networks
against the machine's own matrix rate (`benchmarks.networks`), and the whole command by size, hole
and length, beside cv2.inpaint (`benchmarks.speed`). --large adds a long clip, and 4K with networks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import networks, speed
from combcn_core.clips.pictures import draw_curves, save_picture
from combcn_core.networks.inference import fast_precision, prepare
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.version import __version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks_result"))
    parser.add_argument("--large", action="store_true", help="1,500 frames of 1080p, 60 of 4K")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases of the command by name")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    machine = describe_machine(arguments.device)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    rows = [] if arguments.only else measure_networks(arguments.device)
    results: list[speed.Result] = []
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases = speed.STANDARD + (speed.LARGE if arguments.large else ())
    for run in cases:
        if arguments.only and run.name not in arguments.only:
            continue
        options = (*run.options, "--device", arguments.device)
        results.append(speed.measure(dataclasses.replace(run, options=options)))
        table = speed.describe(results[-1:]).split("\n")
        print(*table[len(results) > 1 :], sep="\n", flush=True)
        save(arguments.output, machine, rows, results)


def describe_machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    name = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "combcn": f"{__version__} {commit}",
        "processor": f"{name}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "precision": fast_precision(torch.device(device)),
    }


def measure_networks(device: str) -> list[dict[str, Any]]:
    """Rows of `benchmarks.networks`, printed as they come."""
    torch.manual_seed(0)
    place = torch.device(device)
    precision = fast_precision(place)
    network = prepare(CombCN(NetworkConfig(input_fill="classical")), device=place)
    watch = networks.Stopwatch(place, networks.TYPES[precision], 2, time.perf_counter)
    rows = []
    for name in networks.CASES:
        for measure in (networks.measure_temporal, networks.measure_detail):
            row = measure(name, network, watch)
            rows.append(row._asdict())
            print(
                f"{row.case:12s}{row.stage:9s}{row.seconds:8.3f} s/frame "
                f"{row.flops / 1e9:8.1f} GFLOP/frame, {row.share_of_whole:.2f} of whole frames, "
                f"{row.share_of_rate:.2f} of the matrix rate",
                flush=True,
            )
    return rows


def save(
    folder: Path,
    machine: dict[str, Any],
    rows: list[dict[str, Any]],
    results: list[speed.Result],
) -> None:
    """Write benchmarks.json and benchmarks.png."""
    content = {
        "machine": machine,
        "networks": rows,
        "command": [dataclasses.asdict(result) for result in results],
    }
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=2) + "\n")
    curves: dict[str, list[tuple[float, float]]] = {"combcn inpaint": [], "cv2.inpaint": []}
    for result in sorted(results, key=lambda result: result.hole_pixels / result.run.frames):
        if result.run.options[: len(speed.NETWORKS)] != speed.NETWORKS:
            thousands = result.hole_pixels / result.run.frames / 1000
            curves["combcn inpaint"].append((thousands, result.seconds_per_frame))
            curves["cv2.inpaint"].append((thousands, result.telea_seconds_per_frame))
    picture = draw_curves(
        curves, x_label="thousand hole pixels", y_label="seconds a frame, without start-up"
    )
    save_picture(folder / "benchmarks.png", picture)


if __name__ == "__main__":
    main()
