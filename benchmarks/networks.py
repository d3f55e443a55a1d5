"""Speed of the two networks on this machine, beside its own rate of matrix products.

    python -m benchmarks.networks [--device D] [--precision P] [--threads N] [CASE ...]

A moving hole of a share of the frame is restored in frames of noise by networks with random
weights: neither changes the cost. Seconds are those of `infer_temporal` and `restore_detail`, from
tensors to tensors, per output frame of a segment of 32: the least of several runs. Operations are
counted from the layer tables, for what is computed; "of whole" compares them with whole frames.
"of rate" is operations a second over those of a product of two large square matrices in the same
type, timed between the runs.

On a machine that has other work, --threads 1 --cpu-clock counts the time of this process alone.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from combcn_core.masks import downsample_known
from combcn_core.networks.inference import FoldedNet, InferenceModel, fast_precision, prepare
from combcn_core.networks.jobs import (
    default_batch_frames,
    default_memory_bytes,
    plan_batches,
    plan_runs,
)
from combcn_core.networks.layers import CombCN, NetworkConfig, temporal_halo
from combcn_core.networks.regions import Span
from combcn_core.networks.restore import coarse_size, infer_temporal
from combcn_core.networks.scales import restore_detail

SEGMENT_FRAMES = 32
STEP_PIXELS = 2  # that the hole moves a frame
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Case(NamedTuple):
    """A size of frame, the share of it that is hole, and frames whose detail is restored.

    Named by size and percentage.
    """

    height: int
    width: int
    share: float
    detail_frames: int


CASES = {
    "432x240-8": Case(240, 432, 0.08, 8),
    "1080p-2": Case(1080, 1920, 0.02, 4),
    "1080p-10": Case(1080, 1920, 0.10, 2),
    "1080p-40": Case(1080, 1920, 0.40, 1),
}


class Row(NamedTuple):
    """What was found for a stage of a case; all numbers are per frame."""

    case: str
    stage: str
    seconds: float
    flops: float
    share_of_whole: float  # of the operations that whole frames take
    share_of_rate: float  # of operations a second that matrix products reach


class Stopwatch(NamedTuple):
    """Least seconds of several runs, and the matrix rate between them."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    clock: Callable[[], float]

    def time(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds, and operations a second of matrix products."""
        seconds, rate = math.inf, self.matrix_rate()
        work()
        for _ in range(self.repeats):
            seconds = min(seconds, self._once(work))
            rate = max(rate, self.matrix_rate())
        return seconds, rate

    def matrix_rate(self) -> float:
        """Operations a second of square matrix products."""
        sides = (4096, 8192) if self.device.type == "cuda" else (1024, 2048)
        rates = []
        for side in sides:
            one, two = (torch.rand(side, side).to(self.device, self.dtype) for _ in range(2))
            torch.mm(one, two)
            seconds = min(self._once(partial(torch.mm, one, two)) for _ in range(5))
            rates.append(2 * side**3 / seconds)
        return max(rates)

    def _once(self, work: Callable[[], object]) -> float:
        start = self.clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", *TYPES])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-clock", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = arguments.precision
    if precision == "auto":
        precision = fast_precision(device)
    clock = time.process_time if arguments.cpu_clock else time.perf_counter
    for name in sorted({"fp32", precision}):
        watch = Stopwatch(device, TYPES[name], arguments.repeats, clock)
        print(f"matrix rate in {name}: {watch.matrix_rate() / 1e9:.0f} GFLOP/s")

    torch.manual_seed(0)
    model = CombCN(NetworkConfig(input_fill="classical"))
    network = prepare(model, device=device, precision=precision)
    watch = Stopwatch(device, TYPES[precision], arguments.repeats, clock)
    columns = ("s/frame", "GFLOP/frame", "of whole", "GFLOP/s", "of rate")
    title = f"{precision}, {torch.get_num_threads()} threads"
    print(f"{title:24s}" + "".join(f"{column:>13s}" for column in columns))
    for name in arguments.cases or CASES:
        for row in (measure_temporal(name, network, watch), measure_detail(name, network, watch)):
            print(
                f"{row.case:14s}{row.stage:10s}{row.seconds:13.3f}{row.flops / 1e9:13.1f}"
                f"{row.share_of_whole:13.3f}{row.flops / row.seconds / 1e9:13.0f}"
                f"{row.share_of_rate:13.2f}"
            )


def measure_temporal(name: str, network: InferenceModel, watch: Stopwatch) -> Row:
    """3DCN for a segment, with its halo on either side."""
    case = CASES[name]
    halo = temporal_halo(network.config)
    images, holes = make_clip(case, SEGMENT_FRAMES + 2 * halo)
    frames = halo, halo + SEGMENT_FRAMES
    size = coarse_size(network, case.height, case.width)
    _, low_holes = downsample_known(images, holes, size=size)
    memory_bytes = default_memory_bytes(watch.device)
    jobs = plan_runs(network.temporal, low_holes, wanted=frames, memory_bytes=memory_bytes)
    flops = sum(network.temporal.flops(job.wanted, job.size) for job in jobs)
    whole = count_whole(network.temporal, (len(images), *size))
    seconds, rate = watch.time(lambda: infer_temporal(network, images, holes, frames=frames))
    return row_of(name, "temporal", SEGMENT_FRAMES, seconds, flops, whole, rate)


def measure_detail(name: str, network: InferenceModel, watch: Stopwatch) -> Row:
    """CombCN for some frames."""
    case = CASES[name]
    images, holes = make_clip(case, case.detail_frames)
    coarse = torch.rand(len(images), *coarse_size(network, case.height, case.width), 3)
    batches = plan_batches(
        network.detail,
        holes,
        memory_bytes=default_memory_bytes(watch.device),
        batch_frames=default_batch_frames(watch.device),
    )
    jobs = [job for batch in batches for job in batch]
    flops = sum(network.detail.flops(job.wanted[1:], job.size[1:]) for job in jobs)
    whole = len(images) * count_whole(network.detail, (case.height, case.width))
    seconds, rate = watch.time(lambda: restore_detail(network, images, holes, coarse))
    return row_of(name, "detail", len(images), seconds, flops, whole, rate)


def count_whole(net: FoldedNet, size: Sequence[int]) -> int:
    """Operations for all of a frame or clip."""
    return net.flops([Span(0, length) for length in size], size)


def row_of(
    name: str, stage: str, frames: int, seconds: float, flops: int, whole: int, rate: float
) -> Row:
    share = flops / seconds / rate
    return Row(name, stage, seconds / frames, flops / frames, flops / whole, share)


def make_clip(case: Case, num_frames: int) -> tuple[Tensor, Tensor]:
    """Frames of noise, and an ellipse in them that moves to and fro."""
    # An ellipse of the frame's proportions has pi / 4 of the area of its box.
    scale = math.sqrt(case.share / (math.pi / 4))
    images = torch.randint(0, 256, (num_frames, case.height, case.width, 3), dtype=torch.uint8)
    holes = torch.zeros(num_frames, case.height, case.width, dtype=torch.bool)
    rows = torch.arange(case.height)[:, None] - case.height / 2
    columns = torch.arange(case.width)[None] - case.width / 2
    for t in range(num_frames):
        moved = columns - STEP_PIXELS * (8 - abs(t % 32 - 16))
        radius = (rows / (scale * case.height / 2)) ** 2 + (moved / (scale * case.width / 2)) ** 2
        holes[t] = radius <= 1
    return images, holes


if __name__ == "__main__":
    main()
