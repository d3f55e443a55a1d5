"""Manifests, and the engines that run them: serially, and on a real Ray with two workers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from combcn_core import InpaintConfig, inpaint_file
from combcn_core.stream.batch import Row, read_manifest, run_batch
from combcn_core.stream.files import keep_segments, list_segments

NUM_FRAMES, HEIGHT, WIDTH = 24, 40, 56
OPTIONS = {"segment_frames": 5, "reach": 6}


@pytest.fixture
def shots(tmp_path):
    """Two shots in one folder of frames, a folder of masks, and nothing else."""
    rng = np.random.default_rng(3)
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
    for t in range(NUM_FRAMES):
        if t in (0, 13):
            noise = cv2.GaussianBlur(rng.integers(0, 256, (80, 140, 3), np.uint8), (0, 0), 3)
            texture = 255 - noise // 2 if t else noise // 2
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[12:26, 20 + t // 3 : 36 + t // 3] = 255
        frame = texture[10 : 10 + HEIGHT, 2 * t : 2 * t + WIDTH]
        cv2.imwrite(str(tmp_path / "frames" / f"{t:03d}.png"), frame)
        cv2.imwrite(str(tmp_path / "masks" / f"{t:03d}.png"), mask)
    return tmp_path


def write_manifest(folder, *rows):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def row(output, **options):
    return {
        "input": "frames",
        "mask": "masks",
        "output": output,
        "options": OPTIONS | options,
    }


def read_folder(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def serial(shots, name="serial", **arguments):
    config = InpaintConfig(**OPTIONS)
    inpaint_file(shots / "frames", shots / "masks", shots / name, config=config, **arguments)
    return read_folder(shots / name)


# --- segments apart --------------------------------------------------------------------------


def test_list_segments_cuts_each_shot_apart(shots):
    config = InpaintConfig(**OPTIONS)
    listed = list_segments(shots / "frames", shots / "masks", config=config)
    assert listed == [(0, 4), (5, 9), (10, 12), (13, 17), (18, 22), (23, 23)]
    part = list_segments(shots / "frames", shots / "masks", config=config, frames=(7, 15))
    assert part == [(7, 11), (12, 12), (13, 15)]


def test_segments_kept_in_any_order_are_all_that_is_needed(shots):
    config = InpaintConfig(**OPTIONS)
    files = (shots / "frames", shots / "masks", shots / "out")
    for span in list_segments(*files[:2], config=config)[::-1]:
        assert keep_segments(*files, span, config=config) == span[1] - span[0] + 1
        assert keep_segments(*files, span, config=config) == 0  # kept already

    report = inpaint_file(*files, config=config, resume=True)

    assert report.resumed_frames == NUM_FRAMES
    assert read_folder(shots / "out") == serial(shots)


# --- manifests -------------------------------------------------------------------------------


def test_read_manifest_resolves_paths_by_its_own_folder(tmp_path):
    path = write_manifest(
        tmp_path,
        {"input": "a.mov", "mask": "1,2,3,4", "output": "out/a.mkv"},
        {
            "input": "/elsewhere/b.mov",
            "mask": "masks",
            "output": "b.mkv",
            "options": {"references": {"7": "plate.png"}, "frames": [3, 9], "fps": "24000/1001"},
        },
    )
    first, second = read_manifest(path)
    assert first == Row(str(tmp_path / "a.mov"), "1,2,3,4", str(tmp_path / "out/a.mkv"))
    assert (second.input, second.mask) == ("/elsewhere/b.mov", str(tmp_path / "masks"))
    arguments = second.arguments("frames", "references", "fps")
    assert arguments["references"] == {7: str(tmp_path / "plate.png")}
    assert arguments["frames"] == (3, 9)
    assert str(arguments["fps"]) == "24000/1001"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", "line 2"),
        ("[1]", "list"),
        ('{"input": "a", "mask": "b"}', "no output"),
        ('{"input": "a", "mask": "b", "output": 3}', "output is 3"),
        ('{"input": "a", "mask": "b", "output": "c", "outptu": "d"}', "outptu"),
        ('{"input": "a", "mask": "b", "output": "c", "options": {"raech": 3}}', "raech"),
        ('{"input": "a", "mask": "b", "output": "c", "options": {"reach": 0}}', "reach is 0"),
        ('{"input": "a", "mask": "b", "output": "c", "options": 4}', "line 2"),
        (
            '{"input": "a", "mask": "b", "output": "c", "options": {"mask_objects": "x"}}',
            "line 2 .*mask objects are x",
        ),
        ('{"input": "a", "mask": "b", "output": "first"}', "two rows"),
        ('{"input": "a", "mask": "b", "output": "x/../first"}', "two rows"),
        ('{"input": "a\\u0000", "mask": "b", "output": "c"}', r"input is 'a\\x00'; give a path"),
        ("[" * 100_000, "line 2 .*recursion"),
    ],
)
def test_read_manifest_rejects(tmp_path, line, says):
    path = tmp_path / "manifest.jsonl"
    path.write_text(f'{{"input": "a", "mask": "b", "output": "first"}}\n{line}\n')
    with pytest.raises(ValueError, match=says):
        read_manifest(path)


@pytest.mark.parametrize(
    "options",
    [
        *({"reach": value} for value in ("4", 4.0, True, None, [4])),
        *({"grow_pixels": value} for value in ("4", 1.5, None)),
        *({"propagate": value} for value in (1, "yes", None)),
        *({"device": value} for value in ("gpu", 0, [], "cpu\0")),
        *({"frames": value} for value in (3, [3], [1, 2, 3], ["1", "2"], [1.0, 2.0], "1-2", {})),
        *({"references": value} for value in (True, ["a.png"], {"x": "a.png"}, {"1": 2})),
        *({"fps": value} for value in ("x", "1/0", 0, -24, True, [24], "inf", 1e999)),
        *({"weights": value} for value in (1, "a\0.safetensors", [])),
        {"fit_mask": "false"},
        {"invert_mask": 1},
        {"mask_channel": "violet"},
        {"mask_missing": None},
        {"mask_objects": [1, 8]},
        {"allow_truncated": 0},
    ],
    ids=json.dumps,
)
def test_read_manifest_rejects_options_of_other_types(tmp_path, options):
    path = tmp_path / "manifest.jsonl"
    row = {"input": "a", "mask": "b", "output": "c", "options": options}
    path.write_text(json.dumps(row))
    (name,) = options
    with pytest.raises(ValueError, match=f"line 1 of .*: option {name} is .*; give what"):
        read_manifest(path)


@pytest.mark.parametrize(
    "options",
    [
        *({"network": None}, {"network": False}, {"references": {}}),
        *({"fps": 25}, {"fps": "24000/1001"}),
        {"mask_channel": "alpha", "mask_objects": "1,8", "mask_missing": "empty"},
        {"mask_objects": None, "invert_mask": True},
    ],
    ids=json.dumps,
)
def test_read_manifest_takes_options(tmp_path, options):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({"input": "a", "mask": "b", "output": "c", "options": options}))
    assert read_manifest(path)[0].options == options


def test_read_manifest_rejects_no_file_and_no_rows(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="no rows"):
        read_manifest(tmp_path / "empty.jsonl")


# --- engines ---------------------------------------------------------------------------------


def test_batch_skips_what_is_finished_and_outlives_failures(shots):
    path = write_manifest(
        shots,
        row("first"),
        {"input": "nothing.mov", "mask": "masks", "output": "second"},
        row("third", reach=4),
    )
    outcomes = run_batch(path)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert "does not exist" in outcomes[1].reason
    assert read_folder(shots / "first") == serial(shots)

    assert [outcome.status for outcome in run_batch(path)] == ["skipped", "failed", "skipped"]

    cv2.imwrite(str(shots / "masks" / "004.png"), np.full((HEIGHT, WIDTH), 9, np.uint8))
    for name in ("first", "third"):  # folders that are not empty are not overwritten
        for image in (shots / name).iterdir():
            image.unlink()
    assert [outcome.status for outcome in run_batch(path)] == ["done", "failed", "done"]


def test_batch_command_tells_by_its_exit_code(shots):
    command = [sys.executable, "-m", "combcn_core", "batch"]
    good = write_manifest(shots, row("out"))
    ended = subprocess.run([*command, good], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "1 shots: 1 done, 0 skipped, 0 failed." in ended.stdout
    bad = write_manifest(shots, row("out"), {"input": "no", "mask": "masks", "output": "other"})
    ended = subprocess.run([*command, bad], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "1 skipped, 1 failed" in ended.stdout
    ended = subprocess.run([*command, shots / "none"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


@pytest.mark.filterwarnings("ignore")  # of Ray's own making
def test_batch_on_ray_with_a_worker_killed_equals_the_serial_result(shots):
    ray = pytest.importorskip("ray") if "COMBCN_CI" not in os.environ else __import__("ray")
    path = write_manifest(
        shots, row("spread"), {"input": "nothing.mov", "mask": "masks", "output": "failed"}
    )
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    killed = []

    def kill_one():
        """The first worker that has begun a segment, once two have been finished."""
        while not killed and time.monotonic() < deadline:
            time.sleep(0.005)
            if len(list(shots.glob(".spread.segments/*.safetensors"))) < 2:
                continue
            found = subprocess.run(
                ["pgrep", "-f", "ray::Map.*_Keep"], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split()[:1]:
                os.kill(int(pid), signal.SIGKILL)
                killed.append(pid)

    deadline = time.monotonic() + 200
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        outcomes = run_batch(path, engine="ray", workers=2)
    finally:
        deadline = 0
        killer.join()
        ray.shutdown()
    assert killed, "no worker was killed: the test has shown nothing"
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    assert "does not exist" in outcomes[1].reason
    assert read_folder(shots / "spread") == serial(shots)
