"""Runs that are interrupted, killed or refused by the disk, and then go on."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from combcn_core import CombCN, InpaintConfig, NetworkConfig, inpaint_file
from combcn_core.clips.video import open_reader
from combcn_core.fill import early
from combcn_core.fill.keys import LevelChain
from combcn_core.fill.propagate import Propagation
from combcn_core.fill.settle import SETTLE_ROUNDS
from combcn_core.pixels import Box
from combcn_core.shot import ShotInpainter
from combcn_core.stream import memory
from combcn_core.stream.store import SegmentStore
from combcn_core.stream.work import WorkStore

NUM_FRAMES, HEIGHT, WIDTH = 26, 40, 56
CONFIG = InpaintConfig(segment_frames=4, reach=6)


@pytest.fixture
def clip(tmp_path):
    """A folder of frames that drift over a texture, and one of masks with a moving hole."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (80, 140, 3), np.uint8), (0, 0), 2)
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
    for t in range(NUM_FRAMES):
        frame = texture[10 : 10 + HEIGHT, 2 * t : 2 * t + WIDTH]
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[12:26, 20 + t // 3 : 36 + t // 3] = 255
        cv2.imwrite(str(tmp_path / "frames" / f"{t:03d}.png"), frame)
        cv2.imwrite(str(tmp_path / "masks" / f"{t:03d}.png"), mask)
    return tmp_path


def run(clip, output, *, stop_after=None, config=CONFIG, model=None, resume=True):
    """Inpaint; Ctrl-C comes after so many written frames."""

    def progress(now):
        if now.frames == stop_after:
            raise KeyboardInterrupt

    return inpaint_file(
        clip / "frames",
        clip / "masks",
        output,
        config=config,
        model=model,
        resume=resume,
        progress=progress,
    )


def read_folder(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt(clip, output, **settings):
    with pytest.raises(KeyboardInterrupt):
        run(clip, output, stop_after=18, **settings)


def leftovers(clip):
    return sorted(path.name for path in clip.iterdir() if path.name.startswith("."))


def test_resume_goes_on_after_an_interruption(clip):
    whole = run(clip, clip / "whole", resume=False)
    interrupt(clip, clip / "out")
    assert not (clip / "out").exists()
    assert leftovers(clip) == [".out.segments"]

    report = run(clip, clip / "out")

    assert report.resumed_frames == 20  # of five segments, the last one under way
    assert read_folder(clip / "out") == read_folder(clip / "whole")
    assert leftovers(clip) == []
    counted = ("frames", "hole_pixels", "propagated_pixels", "filled_pixels")
    assert [getattr(report, name) for name in counted] == [getattr(whole, name) for name in counted]
    assert whole.resumed_frames == 0


def test_resume_is_not_what_happens_unasked(clip):
    with pytest.raises(KeyboardInterrupt):
        run(clip, clip / "out", stop_after=10, resume=False)
    assert leftovers(clip) == []


def test_resume_survives_kill_at_random_points(clip):
    command = [
        *(sys.executable, "-m", "combcn_core", "inpaint", str(clip / "frames")),
        *("--mask", str(clip / "masks"), "--output", str(clip / "out.mp4"), "--fps", "25"),
        *("--segment-frames", "3", "--reach", "6", "--no-network", "--resume"),
    ]
    rng = np.random.default_rng(11)
    for target in sorted(rng.choice(np.arange(1, 8), 3, replace=False)):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(clip.glob(".out.mp4.segments/*.safetensors"))) >= target:
                time.sleep(float(rng.uniform(0, 0.05)))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        assert process.wait() in (0, -signal.SIGKILL)
        # A kill may come between the appearance of the result and the end of the process.
        if process.returncode == 0 or (clip / "out.mp4").exists():
            break
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    undisturbed = [part.replace("out.mp4", "whole.mp4") for part in command if part != "--resume"]
    assert subprocess.run(undisturbed, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert (clip / "out.mp4").read_bytes() == (clip / "whole.mp4").read_bytes()
    assert leftovers(clip) == []  # the killed runs' half-written files are gone too


@pytest.mark.parametrize("unseen", ["texture", "smooth"])
@pytest.mark.parametrize("stage", ["motion", "fill"])
def test_resume_goes_on_within_a_segment(clip, monkeypatch, unseen, stage):
    """A run that dies in its only segment keeps what it has found of its frames."""
    config = InpaintConfig(segment_frames=NUM_FRAMES, reach=6, unseen=unseen)
    run(clip, clip / "whole", config=config, resume=False)
    keep = WorkStore.keep

    def dies(store, what, t, frames, value):
        if what == stage and t == 16:
            raise KeyboardInterrupt
        keep(store, what, t, frames, value)

    with monkeypatch.context() as patch:
        patch.setattr(WorkStore, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            run(clip, clip / "out", config=config)
    measured = []
    find = early.find_motion
    monkeypatch.setattr(early, "find_motion", lambda *pair: measured.append(pair) or find(*pair))

    report = run(clip, clip / "out", config=config)

    assert read_folder(clip / "out") == read_folder(clip / "whole")
    assert leftovers(clip) == []
    assert report.resumed_frames == 0
    if stage == "motion":
        assert report.resumed_motion_frames == 16
        # Pairs that the frames which were not settled depend on.
        assert len(measured) == NUM_FRAMES - 16 + SETTLE_ROUNDS
    else:
        assert report.resumed_motion_frames == NUM_FRAMES
        assert measured == []


def test_resume_finds_sources_again(panned, tmp_path, monkeypatch):
    """A wide hole is filled from frames registered to key frames; those are kept, too."""
    frames, holes, _ = panned(18)
    for name, pictures in (("frames", frames), ("masks", [255 * hole for hole in holes])):
        (tmp_path / name).mkdir()
        for t, picture in enumerate(pictures):
            cv2.imwrite(str(tmp_path / name / f"{t:03d}.png"), picture.astype(np.uint8))
    config = InpaintConfig(segment_frames=18, reach=16)
    run(tmp_path, tmp_path / "whole", config=config, resume=False)
    keep, kept = WorkStore.keep, []

    def dies(store, what, t, frames, value):
        if what == "fill" and t == 11:
            raise KeyboardInterrupt
        kept.append((what, value))
        keep(store, what, t, frames, value)

    with monkeypatch.context() as patch:
        patch.setattr(WorkStore, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, tmp_path / "out", config=config)
    keys = [value[0] for what, value in kept if what == "key"]
    assert any(key is not None and key.sources is not None for key in keys)
    monkeypatch.setattr(Propagation, "_choose_sources", None)  # none are looked for again

    run(tmp_path, tmp_path / "out", config=config)

    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")


def test_result_is_the_same_where_memory_is_short(clip, monkeypatch):
    """What a machine under load does: segments in parts, other ones in each run."""
    config = InpaintConfig(segment_frames=13, reach=6)
    run(clip, clip / "whole", config=config, resume=False)
    rng = np.random.default_rng(5)
    parts = []

    def exceeds(budget, job):
        parts.append(job.segment.num_frames > rng.choice([1, 3, 6, 13]))
        return parts[-1]

    monkeypatch.setattr(memory.Budget, "exceeds", exceeds)
    for stop in (4, 9, 15, 20):
        with pytest.raises(KeyboardInterrupt):
            run(clip, clip / "out", config=config, stop_after=stop)
    run(clip, clip / "out", config=config)
    assert any(parts)
    assert read_folder(clip / "out") == read_folder(clip / "whole")


def test_sums_of_levels_do_not_depend_on_where_a_window_begins():
    rng = np.random.default_rng(1)
    gains = rng.normal(0, 0.1, (40, 2, 3))
    motions = {
        t: tuple(
            SimpleNamespace(log_gain=gain, outward=gain[0] / 4, log_detail=gain[1])
            for gain in gains[t]
        )
        for t in range(40)
    }
    whole, part = (LevelChain(motions, start, 40) for start in (0, 7))
    for t in range(7, 40):
        for other in range(7, 40):
            first, second = (chain.log_gain(t, other, -0.3) for chain in (whole, part))
            assert np.array_equal(first, second)
            assert whole.log_detail(t, other) == part.log_detail(t, other)
    sums = gains[9:12, 0].sum(0)
    np.testing.assert_allclose(whole.log_gain(9, 12), sums, atol=1e-9)
    # What a lens explains is no change of light.
    np.testing.assert_allclose(whole.log_gain(9, 12, -0.3), sums + 0.3 * sums[0] / 4, atol=1e-9)


def test_absurd_reach_takes_no_longer(clip):
    config = InpaintConfig(reach=2**63, segment_frames=13)
    run(clip, clip / "whole", config=config, resume=False)
    run(clip, clip / "out", config=config)
    assert read_folder(clip / "out") == read_folder(clip / "whole")


def test_resume_does_not_trust_damaged_work(clip, monkeypatch):
    config = InpaintConfig(segment_frames=NUM_FRAMES, reach=6)
    run(clip, clip / "whole", config=config, resume=False)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentStore, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(clip, clip / "out", config=config)
    kept = sorted((clip / ".out.segments").glob("*.work"))
    assert len(kept) > 2 * NUM_FRAMES
    for path in kept[::2]:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    for path in kept[::5]:
        path.write_bytes(path.read_bytes()[:30])
    run(clip, clip / "out", config=config)
    assert read_folder(clip / "out") == read_folder(clip / "whole")


def test_work_that_no_segment_needs_any_more_goes(clip):
    config = InpaintConfig(segment_frames=2, reach=1, unseen="smooth")
    with pytest.raises(KeyboardInterrupt):
        run(clip, clip / "out", stop_after=25, config=config)
    halo = ShotInpainter(config).halo
    kept = list((clip / ".out.segments").glob("*.work"))
    assert 0 < len(kept) <= 3 * (2 * halo + 2)


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, -2, (3.0, float("nan")), np.float64(0.1), np.float32(0.1)),
        ({1: np.arange(3, dtype=np.float16), -4: np.zeros((0, 2), np.int32)}, Box(1, 2, 3, 4)),
    ],
)
def test_values_come_back_as_they_were(tmp_path, value):
    store = WorkStore(tmp_path, "context")
    store.show({3: b"a", 4: b"b"}, 0)
    store.keep("key", 3, range(2, 5), (value,))
    (found,) = store.find("key", 3, range(2, 5))
    assert repr(found) == repr(value)  # with all types
    assert type(found) is type(value)
    store.show({3: b"a", 4: b"c"}, 0)
    assert store.find("key", 3, range(2, 5)) is None


@pytest.mark.parametrize("changed", ["source", "mask", "setting", "weights"])
def test_resume_uses_nothing_stale(clip, changed):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(CombCN(NetworkConfig(guidance=False)))
    settings = {"model": models[0]} if changed == "weights" else {}
    interrupt(clip, clip / "out", **settings)
    if changed == "weights":
        settings = {"model": models[1]}
    if changed == "setting":
        settings = {"config": InpaintConfig(segment_frames=4, reach=5)}
    folder = {"source": "frames", "mask": "masks"}.get(changed)
    if folder:  # in the middle: what depends on the frames before stays good
        path = clip / folder / "013.png"
        image = cv2.imread(str(path))
        image[20, 30] = 255 - image[20, 30]
        cv2.imwrite(str(path), image)

    report = run(clip, clip / "out", **settings)

    run(clip, clip / "fresh", resume=False, **settings)
    assert read_folder(clip / "out") == read_folder(clip / "fresh")
    if folder is None:
        assert report.resumed_frames == 0
    else:
        assert report.resumed_frames < 20


def test_resume_does_not_trust_a_damaged_segment(clip):
    run(clip, clip / "whole", resume=False)
    interrupt(clip, clip / "out")
    segments = sorted((clip / ".out.segments").glob("*.safetensors"))
    content = bytearray(segments[0].read_bytes())
    content[-5] ^= 1
    segments[0].write_bytes(content)
    segments[1].write_bytes(content[:40])

    assert run(clip, clip / "out").resumed_frames == 20 - 2 * 4
    assert read_folder(clip / "out") == read_folder(clip / "whole")


def test_resume_leaves_nothing_where_a_run_cannot_begin(clip):
    (clip / "out").mkdir()
    (clip / "out" / "mine.png").touch()
    with pytest.raises(ValueError, match="not empty"):
        run(clip, clip / "out")
    assert leftovers(clip) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX")
def test_resume_goes_on_after_the_disk_refused(clip):
    """A limit of file sizes stands in for a full disk: the write fails with an OSError."""
    command = [
        *("-m", "combcn_core", "inpaint", str(clip / "frames"), "--mask", str(clip / "masks")),
        *("--output", str(clip / "out.mkv"), "--fps", "25", "--segment-frames", "4"),
        *("--reach", "6", "--no-network", "--resume"),
    ]
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); sys.argv = ['combcn'] + "
        "sys.argv[3:]; runpy.run_module('combcn_core', run_name='__main__')"
    )
    refused = subprocess.run(
        [sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1, refused.stderr
    assert not (clip / "out.mkv").exists()

    allowed = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    assert allowed.returncode == 0
    run(clip, clip / "whole", resume=False, config=InpaintConfig(segment_frames=4, reach=6))
    with open_reader(clip / "out.mkv") as ours, open_reader(clip / "whole") as theirs:
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine.pixels, other.pixels)
    assert leftovers(clip) == []
