"""Runs that the world disturbs: a disk that fills up, inputs that vanish, another run beside it."""

import contextlib
import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from combcn_core.cli import main
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.shot import InpaintConfig
from combcn_core.stream.files import inpaint_file

from ..helpers import full_disk

NUM_FRAMES, HEIGHT, WIDTH = 84, 24, 32
# It reads 49 frames ahead, and some more wait in queues and in FFmpeg: fewer than the clip has.
SHORT = InpaintConfig(propagate=False, segment_frames=4)
OUTPUTS = ("out.mkv", "out.mp4", "out.mov", "out")


@pytest.fixture
def folder(tmp_path):
    """A clip that nothing compresses, as a file and as images, and masks for each frame."""
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    with open_writer(tmp_path / "clip.mkv", ClipInfo(WIDTH, HEIGHT, Fraction(24))) as writer:
        for frame in frames:
            writer.write(frame)
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
    for t, frame in enumerate(frames):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[8:14, 2 + t // 4 : 9 + t // 4] = 255
        cv2.imwrite(str(tmp_path / "frames" / f"{t:03d}.png"), frame)
        cv2.imwrite(str(tmp_path / "masks" / f"{t:03d}.png"), mask)
    return tmp_path


def inpaint(folder, source="clip.mkv", output="out.mkv", after=None, act=None, **settings):
    """Inpaint; after so many written frames something happens."""

    def progress(now):
        nonlocal after
        if now.frames == after:
            after = None
            act()

    fps = Fraction(24) if source == "frames" and "." in output else None
    return inpaint_file(
        folder / source, folder / "masks", folder / output, config=SHORT, fps=fps,
        progress=progress, **settings,
    )  # fmt: skip


def everything(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def pixels(path):
    with open_reader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


# The disk


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("limit_bytes", [0, 100, 1500])
def test_full_disk_leaves_what_was_there(folder, capsys, output, limit_bytes):
    if "." in output:
        (folder / output).write_bytes(b"an older result")
    before = everything(folder)
    command = [
        *("inpaint", str(folder / "clip.mkv"), "--mask", str(folder / "masks")),
        *("--output", str(folder / output), "--no-propagate"),
    ]
    with full_disk(limit_bytes):
        code = main(command)
    text = capsys.readouterr().err
    assert code == 1, text
    assert text.startswith("combcn: ")
    assert text.count("\n") == 1
    assert everything(folder) == before
    if "." in output:
        assert (folder / output).read_bytes() == b"an older result"

    if output == "out":
        assert main(command) == 0
        assert len(list((folder / "out").iterdir())) == NUM_FRAMES


# The inputs


@pytest.mark.parametrize("output", OUTPUTS)
def test_masks_that_vanish_on_the_way(folder, output):
    before = [path for path in everything(folder) if path.parts[0] != "masks"]
    with pytest.raises(OSError, match="masks"):
        inpaint(folder, output=output, after=2, act=lambda: shutil.rmtree(folder / "masks"))
    assert everything(folder) == before


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("source", ["clip.mkv", "frames"])
def test_source_that_is_cut_off_on_the_way(folder, source, output):
    before = everything(folder)

    def cut():
        last = folder / source
        last = last if last.is_file() else last / f"{NUM_FRAMES - 1:03d}.png"
        with open(last, "r+b") as file:
            file.truncate(last.stat().st_size // 4)

    with pytest.raises(ValueError, match=r"cut short or damaged|does not decode"):
        inpaint(folder, source, output, after=1, act=cut)
    assert everything(folder) == before


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.mkv"], ids=["too long", "zero byte"])
@pytest.mark.parametrize("place", ["input", "--mask", "--output"])
def test_name_that_no_file_can_have(folder, capsys, place, name):
    paths = {"input": str(folder / "clip.mkv"), "--mask": "1,1,8,8", "--output": str(folder / "o")}
    paths[place] = name
    source = paths.pop("input")
    before = everything(folder)
    assert main(["inpaint", source, *(part for pair in paths.items() for part in pair)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("combcn: ")
    assert text.count("\n") == 1
    assert everything(folder) == before


# Another run


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_run_within_a_run_to_the_same_output(folder, output, resume):
    """The second one begins and ends while the first is under way."""
    alone = inpaint(folder, output=f"alone{output[3:]}")
    before = [*everything(folder), (folder / output).relative_to(folder)]
    if output == "out":
        before += [path.relative_to(folder) for path in named_as(folder, "alone", "out")]
    finished = []

    def other():
        finished.append(inpaint(folder, output=output, resume=resume))

    # Of two that write one folder the first to end has it. With --resume, it also cleans up.
    with contextlib.suppress(OSError, ValueError):
        finished.append(inpaint(folder, output=output, after=5, act=other, resume=resume))
    assert finished
    assert {report.frames for report in finished} == {alone.frames}
    np.testing.assert_array_equal(pixels(folder / output), pixels(folder / f"alone{output[3:]}"))
    assert everything(folder) == sorted(before)


def named_as(folder, name, other):
    return [folder / other / path.name for path in (folder / name).iterdir()]


@pytest.mark.parametrize("output", ["out.mkv", "out"])
def test_two_processes_to_the_same_output(folder, output):
    """Which is faster is left to the system; whose result it is, the place of the hole tells."""
    commands = [
        [
            *(sys.executable, "-m", "combcn_core", "inpaint", str(folder / "clip.mkv")),
            *("--mask", mask, "--output", str(folder / output)),
            *("--no-propagate", "--frames", "0-3"),
        ]
        for mask in ("1,1,8,8", "20,12,8,8")
    ]
    before = everything(folder)
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [process.communicate(timeout=300)[1] for process in running]
    codes = [process.returncode for process in running]
    assert codes[0] == 0 or codes[1] == 0, errors
    assert {0, 2} >= set(codes), errors
    changed = (pixels(folder / "clip.mkv")[:4] != pixels(folder / output)).any(axis=(0, 3))
    places = {(bool(y < 10), bool(x < 10)) for y, x in np.argwhere(changed)}
    assert places in ({(True, True)}, {(False, False)})
    new = {path.parts[0] for path in everything(folder)} - {path.parts[0] for path in before}
    assert new == {output}
