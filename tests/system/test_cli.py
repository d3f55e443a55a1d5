"""The `combcn` command on real files: exit codes, messages, and what is left behind.

Most runs call `cli.main` in this process, because a new one takes seconds to start; those where
the process matters run the installed command.
"""

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from combcn_core import cli, demo
from combcn_core.clips.video import open_reader
from combcn_core.networks.checkpoint import save_model
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.version import __version__

from ..helpers import write_video

HEIGHT, WIDTH, COUNT = 48, 64, 12
COMMAND = Path(sys.executable).with_name("combcn")


def moving_frames(count=COUNT):
    noise = np.random.default_rng(0).integers(0, 256, (8, 20, 3), np.uint8)
    picture = cv2.resize(noise, (WIDTH + 2 * count, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.stack([picture[:, 2 * i : 2 * i + WIDTH] for i in range(count)])


def write_pngs(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), image[..., ::-1])
    return folder


def write_mask(path, left, top, width, height, size=(WIDTH, HEIGHT)):
    mask = np.zeros((size[1], size[0], 3), np.uint8)
    mask[top : top + height, left : left + width] = 255
    assert cv2.imwrite(str(path), mask)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with clip.mkv, mask.png and whole.png in it."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mkv", moving_frames())
    write_mask(tmp_path / "mask.png", 20, 12, 16, 14)
    write_mask(tmp_path / "whole.png", 0, 0, WIDTH, HEIGHT)
    return tmp_path


def everything(folder):
    """All files below a folder, with their content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def inpaint(*argv):
    return cli.main(["inpaint", *map(str, argv)])


# Mistakes of the caller


def not_there(folder):
    return "lost.mp4 --mask mask.png --output result.mp4", "lost.mp4 does not exist"


def not_a_video(folder):
    (folder / "notes.mp4").write_text("Dear diary, " * 100)
    return "notes.mp4 --mask mask.png --output result.mp4", "cannot be read as a video"


def a_text_file(folder):
    (folder / "notes.txt").write_text("Dear diary, " * 100)
    return "notes.txt --mask mask.png --output result.mp4", "no video in it"


def cut_short(folder):
    data = (folder / "clip.mkv").read_bytes()
    (folder / "part.mkv").write_bytes(data[: len(data) // 2])
    return "part.mkv --mask mask.png --output result.mp4", "cut short or damaged"


def mask_not_there(folder):
    return "clip.mkv --mask lost.png --output result.mp4", "lost.png does not exist"


def mask_of_other_length(folder):
    write_pngs(folder / "masks", moving_frames(COUNT - 2))
    return (
        "clip.mkv --mask masks --output result.mp4",
        f"mask has {COUNT - 2} frames but the clip has {COUNT}",
    )


def mask_of_other_size(folder):
    write_mask(folder / "small.png", 2, 2, 8, 8, size=(32, 24))
    return "clip.mkv --mask small.png --output result.mp4", "mask is 32x24 but the clip is 64x48"


def mask_that_is_dark(folder):
    write_pngs(folder / "dark", [(frame > 200) * np.uint8(100) for frame in moving_frames()])
    return "clip.mkv --mask dark --output result.mp4", "the largest value in mask dark is 100"


def mask_without_alpha(folder):
    return (
        "clip.mkv --mask mask.png --mask-channel alpha --output result.mp4",
        "mask mask.png has no alpha; leave --mask-channel out",
    )


def mask_objects_that_are_no_numbers(folder):
    return (
        "clip.mkv --mask mask.png --mask-objects van --output result.mp4",
        "mask objects are van; give numbers above 0",
    )


def masks_of_several_objects(folder):
    write_pngs(folder / "masks", np.concatenate([moving_frames(), moving_frames()]))
    return "clip.mkv --mask masks --output result.mp4", "merge the 2 of each frame into one"


def mask_over_everything(folder):
    return "clip.mkv --mask whole.png --output result.mp4", "covers the whole frame"


def mask_grown_over_everything(folder):
    return (
        "clip.mkv --mask mask.png --grow-pixels 80 --output result.mp4",
        "covers the whole frame",
    )


def box_outside(folder):
    return "clip.mkv --mask 60,0,9,9 --output result.mp4", "does not lie in the frame"


def empty_folder(folder):
    (folder / "frames").mkdir()
    return "frames --mask mask.png --output result", "has no images"


def empty_file(folder):
    (folder / "nothing.mp4").touch()
    return "nothing.mp4 --mask mask.png --output result.mp4", "cannot be read as a video"


def output_folder_not_there(folder):
    return "clip.mkv --mask mask.png --output lost/result.mp4", "does not exist"


def output_not_writable(folder):
    if os.geteuid() == 0:  # may write anywhere but where the kernel says no
        place = Path("/proc/self")
    else:
        place = folder / "locked"
        place.mkdir(mode=0o500)
    return f"clip.mkv --mask mask.png --output {place}/result.mkv", "cannot be written"


def output_is_input(folder):
    return "clip.mkv --mask mask.png --output clip.mkv", "is the input"


def output_is_mask(folder):
    write_video(folder / "mask.mkv", moving_frames() // 128 * 255)
    return "clip.mkv --mask mask.mkv --output mask.mkv", "is one of the inputs"


def output_of_unknown_ending(folder):
    return "clip.mkv --mask mask.png --output result.wmv", "ends in .wmv, which is not known"


def output_folder_not_empty(folder):
    write_pngs(folder / "frames", moving_frames(2))
    return "clip.mkv --mask mask.png --output frames", "is not empty"


def video_without_rate(folder):
    write_pngs(folder / "frames", moving_frames(2))
    return "frames --mask mask.png --output result.mp4", "--fps"


def frames_outside(folder):
    return f"clip.mkv --mask mask.png --output result --frames 3-{COUNT}", "has frames 0-11"


def frames_unreadable(folder):
    return "clip.mkv --mask mask.png --output result --frames 3..5", "--frames is 3..5"


def reference_unreadable(folder):
    return "clip.mkv --mask mask.png --output result --reference mask.png", "12=plate.png"


def reference_twice(folder):
    return (
        "clip.mkv --mask mask.png --output result --reference 1=mask.png --reference 1=whole.png",
        "names frame 1 twice",
    )


def reference_outside(folder):
    return (
        f"clip.mkv --mask mask.png --output result --reference {COUNT}=mask.png",
        "has frames 0 to 11",
    )


def reference_not_there(folder):
    return (
        "clip.mkv --mask mask.png --output result --reference 1=lost.png",
        "reference lost.png does not exist; give a picture of frame 1 without the object",
    )


def device_not_there(folder):
    missing = "mps" if sys.platform != "darwin" else "cuda"
    return (
        f"clip.mkv --mask mask.png --output result --device {missing}",
        f"device {missing} is not available here",
    )


def weights_not_there(folder):
    return "clip.mkv --mask mask.png --output result --weights big", "no weights are called 'big'"


def weights_without_network(folder):
    return "clip.mkv --mask mask.png --output result --weights a --no-network", "leave one out"


def memory_too_low(folder):
    return "clip.mkv --mask mask.png --output result --memory-limit 0.01", "raise the limit"


def rate_unreadable(folder):
    return "clip.mkv --mask mask.png --output result --fps fast", "--fps is fast"


def report_not_writable(folder):
    return "clip.mkv --mask mask.png --output result --report lost/report.json", "report lost"


def report_is_input(folder):
    return "clip.mkv --mask mask.png --output result --report mask.png", "also an input"


def setting_out_of_range(folder):
    return "clip.mkv --mask mask.png --output result --reach 0", "reach is 0"


MISTAKES = [
    not_there,
    not_a_video,
    a_text_file,
    cut_short,
    mask_not_there,
    mask_of_other_length,
    mask_of_other_size,
    mask_that_is_dark,
    mask_without_alpha,
    mask_objects_that_are_no_numbers,
    masks_of_several_objects,
    mask_over_everything,
    mask_grown_over_everything,
    box_outside,
    empty_folder,
    empty_file,
    output_folder_not_there,
    output_not_writable,
    output_is_input,
    output_is_mask,
    output_of_unknown_ending,
    output_folder_not_empty,
    video_without_rate,
    frames_outside,
    frames_unreadable,
    reference_unreadable,
    reference_twice,
    reference_outside,
    reference_not_there,
    device_not_there,
    weights_not_there,
    weights_without_network,
    memory_too_low,
    rate_unreadable,
    report_not_writable,
    report_is_input,
    setting_out_of_range,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistake_is_said_in_one_sentence_and_nothing_is_written(folder, capfd, mistake):
    arguments, message = mistake(folder)
    before = everything(folder)
    network = [] if "weights" in arguments else ["--no-network"]
    assert inpaint(*arguments.split(), *network) == 2
    assert everything(folder) == before
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("combcn: ")
    assert line.endswith(".")
    assert message in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing subcommand"),
        (["inpant", "clip.mkv"], "there is no command inpant; did you mean inpaint?"),
        (["x", "clip.mkv"], "there is no command x; there are inpaint, masks"),
        (["inpaint", "clip.mkv"], "--mask"),
        (["inpaint", "clip.mkv", "--mask", "m", "--output", "o", "--reach", "far"], "--reach"),
        (["inpaint", "clip.mkv", "--mask", "m", "--output", "o", "--bigger"], "--bigger"),
    ],
)
def test_wrong_flag_is_exit_code_2(folder, capfd, argv, message):
    before = everything(folder)
    assert cli.main(argv) == 2
    assert message in capfd.readouterr().err
    assert everything(folder) == before


# What works


def test_version(capfd):
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"combcn {__version__}\n"


def test_result_is_exact_outside_the_mask_and_reported(folder, capfd):
    arguments = "clip.mkv --mask mask.png --output result.mkv --grow-pixels 1 --report r.json"
    assert inpaint(*arguments.split()) == 0
    output, _ = capfd.readouterr()
    assert "by the networks" not in output
    assert "result.mkv: 12 frames" in output
    assert "0 pixels changed outside the mask" in output
    with av.open("result.mkv") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    hole = np.zeros((HEIGHT, WIDTH), np.uint8)
    hole[12:26, 20:36] = 1
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    hole = cv2.dilate(hole, cross) > 0
    for frame, source in zip(frames, moving_frames(), strict=True):
        np.testing.assert_array_equal(frame[~hole], source[~hole])
    report = json.loads(Path("r.json").read_text())
    assert report["frames"] == COUNT
    assert report["changed_outside_mask"] == 0
    assert report["hole_pixels"] == COUNT * hole.sum()
    assert report["propagated_pixels"] > 0
    assert report["settings"]["grow_pixels"] == 1
    assert report["settings"]["network"] is None
    assert {path.name for path in folder.iterdir()} == {
        "clip.mkv",
        "mask.png",
        "whole.png",
        "result.mkv",
        "r.json",
    }


def test_empty_mask_copies_and_says_so(folder, capfd):
    cv2.imwrite("empty.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert inpaint("clip.mkv", "--mask", "empty.png", "--output", "result", "--no-network") == 0
    output = capfd.readouterr().out
    assert "mask is empty" in output
    assert len(output.splitlines()) == 1
    for index, source in enumerate(moving_frames()):
        written = cv2.imread(f"result/{index:06d}.png")[..., ::-1]
        np.testing.assert_array_equal(written, source)


def test_flags_for_imperfect_inputs(folder, capfd):
    data = (folder / "clip.mkv").read_bytes()
    (folder / "part.mkv").write_bytes(data[: len(data) * 3 // 4])
    write_mask(folder / "small.png", 8, 6, 6, 6, size=(32, 24))
    arguments = "part.mkv --mask small.png --output result"
    flags = "--allow-truncated --fit-mask --no-propagate --no-network --report r.json"
    assert inpaint(*arguments.split(), *flags.split()) == 0
    assert "is damaged" in capfd.readouterr().err
    report = json.loads(Path("r.json").read_text())
    assert 0 < report["frames"] == len(list(Path("result").iterdir())) < COUNT
    assert report["hole_pixels"] == 144 * report["frames"] == report["filled_pixels"]
    assert report["settings"]["propagate"] is False
    assert report["settings"]["network"] is False


def test_images_become_a_video_with_fps(folder):
    write_pngs(folder / "frames", moving_frames(5))
    rate = ("--fps", "24000/1001")
    assert inpaint("frames", "--mask", "mask.png", "--output", "result.mp4", *rate) == 0
    with av.open("result.mp4") as container:
        assert container.streams.video[0].average_rate == Fraction(24000, 1001)
        assert len(list(container.decode(video=0))) == 5


def test_frames_and_reference(folder):
    plate = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    cv2.imwrite("plate.png", plate)
    arguments = "--mask mask.png --output result --frames 4-6 --reference 5=plate.png"
    assert inpaint("clip.mkv", *arguments.split(), "--memory-limit", "64") == 0
    assert sorted(os.listdir("result")) == ["000004.png", "000005.png", "000006.png"]
    written = cv2.imread("result/000005.png")[..., ::-1]
    assert (written[12:26, 20:36] == 77).all()
    np.testing.assert_array_equal(written[:12], moving_frames()[5, :12])


def test_flags_of_train_are_grouped_and_required_ones_come_first(capfd):
    assert cli.main(["train", "--help"]) == 0
    heads = re.split(r"╭─ (.*?) ─+╮", capfd.readouterr().out)[1:]
    groups = dict(zip(heads[::2], heads[1::2], strict=True))
    names = ["positional arguments", "options"]
    names += [f"{name} options" for name in ("data", "networks", "schedule", "saving")]
    assert list(groups) == names
    assert re.findall(r"│ (?:--)?([\w-]+)", groups["options"])[1] == "output"
    for name, flag in zip(names[2:], ("holes", "start", "steps", "save-every"), strict=True):
        assert re.search(rf"--{flag}\b", groups[name])


def test_much_that_no_frame_shows_is_said_with_what_helps(folder, capfd):
    # The first and last frames alone show no more than themselves.
    arguments = ("clip.mkv", "--mask", "mask.png", "--output")
    assert inpaint(*arguments, "one", "--no-propagate", "--frames", "0-0") == 0
    line = capfd.readouterr().out.splitlines()[-1]
    assert "100% of the hole was seen in no frame" in line
    assert all(way in line for way in ("--reach", "--reference", "another inpainter"))
    assert inpaint(*arguments, "all") == 0
    assert "made up" not in capfd.readouterr().out


def test_few_frames_say_what_they_cost(folder, capfd):
    arguments = ("clip.mkv", "--mask", "mask.png", "--frames", "4-5", "--output")
    assert inpaint(*arguments, "far") == 0
    assert "12 frames are looked through for the 2 that are" in (errors := capfd.readouterr().err)
    assert re.search(r"that takes \d+ % of the time of all 12", errors)
    assert "--reach, such as 12" in errors
    assert inpaint(*arguments, "near", "--reach", "1", "--unseen", "smooth") == 0
    assert "looked through" not in capfd.readouterr().err


def test_weights_run_the_networks(folder, capfd):
    import torch

    torch.manual_seed(0)
    save_model(folder / "tiny.safetensors", CombCN(NetworkConfig()), facts={})
    arguments = "clip.mkv --mask mask.png --output result --frames 0-2 --no-propagate"
    weights = ("--weights", "tiny.safetensors", "--device", "cpu", "--report", "r.json")
    assert inpaint(*arguments.split(), *weights) == 0
    assert "100.0% by the networks" in capfd.readouterr().out
    report = json.loads(Path("r.json").read_text())
    assert report["network_pixels"] == report["hole_pixels"] == 3 * 16 * 14
    assert report["changed_outside_mask"] == 0
    assert report["settings"]["model"] is True


def test_progress_bar_on_a_terminal(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert inpaint("clip.mkv", "--mask", "mask.png", "--output", "result", "--no-network") == 0
    shown = screen.getvalue().split("\r")
    assert "opening" in shown[2]  # from the first second
    assert f"{COUNT}/{COUNT} frames" in shown[-1]
    assert re.search(r"100%.*\d\d:\d\d<00:00", shown[-1])


def test_demo_writes_its_files_and_both_figures(tmp_path, monkeypatch, capfd):
    small = functools.partial(demo.load_demo, num_frames=10, height=96)
    monkeypatch.setattr(demo, "load_demo", small)
    for _ in range(2):  # the second time, what is there is replaced
        assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 0
    names = ["comparison.png", "input.mp4", "mask.mkv", "result.mp4", "truth.mp4"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    assert cv2.imread(str(tmp_path / "demo" / "comparison.png")).shape[1] > 2 * 170
    for name in ("input.mp4", "result.mp4"):
        with av.open(str(tmp_path / "demo" / name)) as container:
            assert len(list(container.decode(video=0))) == 10
        with av.open(str(tmp_path / "demo" / name)) as container:
            sound = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
            assert sound.shape[0] == 2
            assert np.abs(sound).max() > 0.01
    assert "CombCN" in capfd.readouterr().out


def test_demo_rejects_a_file_as_folder(folder, capfd):
    assert cli.main(["demo", "--output", "clip.mkv"]) == 2
    assert "give another one" in capfd.readouterr().err


# What is not the caller's mistake


def test_full_disk_is_exit_code_1(folder, monkeypatch, capfd):
    def write(*arguments):
        raise OSError(28, "No space left on device")

    before = everything(folder)
    monkeypatch.setattr(cv2, "imencode", write)
    assert inpaint("clip.mkv", "--mask", "mask.png", "--output", "result", "--no-network") == 1
    assert "No space left on device" in capfd.readouterr().err
    assert everything(folder) == before


# The installed command


def test_installed_command_says_what_it_does():
    result = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "inpaint" in result.stdout
    assert "demo" in result.stdout
    module = [sys.executable, "-m", "combcn_core", "inpaint", "lost.mp4"]
    arguments = ["--mask", "m.png", "--output", "o.mp4"]
    result = subprocess.run([*module, *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "lost.mp4 does not exist" in result.stderr


@pytest.mark.parametrize(
    ("output", "preview", "rate", "written"),
    [
        ("masks", "shown.mp4", "24000/1001", "shown.mp4"),
        ("masks.mkv", "shown", "25", "masks.mkv"),
    ],
)
def test_masks_of_images_become_a_video_at_the_rate_given(
    folder, capsys, output, preview, rate, written
):
    write_pngs(folder / "frames", moving_frames())
    command = ["masks", "frames", "--mask", "mask.png", "--output", output, "--preview", preview]
    before = everything(folder)
    assert cli.main(command) == 2
    assert f"{written} is a video but the clip has no frame rate; pass --fps" in (
        capsys.readouterr().err
    )
    assert everything(folder) == before
    assert cli.main([*command, "--fps", rate]) == 0
    assert open_reader(folder / written).info.fps == Fraction(rate)
    assert cli.main([*command[:4], "--output", "other", "--fps", "0"]) == 2
    assert "--fps is 0; give a rate such as" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--resume", "--grow-pixels", "2"), ("--follow-masks",)])
def test_without_networks_pytorch_is_not_imported(folder, flags):
    mask = "mask.png"
    if "--follow-masks" in flags:
        mask = "masks"
        (folder / "masks").mkdir()
        write_mask(folder / "masks" / "000003.png", 20, 12, 16, 14)
    arguments = ["inpaint", "clip.mkv", "--mask", mask, "--output", "result.mkv", *flags]
    script = (
        "import sys; from combcn_core import cli; code = cli.main(sys.argv[1:]);"
        "print(code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "0 False", result.stderr


@pytest.mark.parametrize("output", ["result.mp4", "result"])
def test_ctrl_c_leaves_nothing_and_gives_130(folder, output):
    write_video(folder / "long.mkv", moving_frames(400))
    before = everything(folder)
    process = subprocess.Popen(
        [COMMAND, "inpaint", "long.mkv", "--mask", "mask.png", "--output", output],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*.part")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)  # well within the work
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "combcn: stopped."
    assert everything(folder) == before
