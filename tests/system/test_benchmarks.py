"""The benchmarks of quality on small clips: what they write, and that it is what they measure."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import clips

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two clips of five frames: a still picture, and an object that crosses it high or low."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, top in (("one", 10), ("two", 54)):
        (folder / name / "frames").mkdir(parents=True)
        (folder / name / "masks").mkdir()
        picture = cv2.GaussianBlur(rng.normal(128, 150, (90, 131, 3)), (0, 0), 2).clip(0, 255)
        for t in range(5):
            mask = np.zeros((90, 131), np.uint8)
            mask[top : top + 24, 40 + 6 * t : 64 + 6 * t] = 255
            frame = np.where(mask[..., None] > 0, 240, picture).astype(np.uint8)
            cv2.imwrite(str(folder / name / "frames" / f"{t:03d}.png"), frame)
            cv2.imwrite(str(folder / name / "masks" / f"{t:03d}.png"), mask)
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return {row["clip"]: row for row in csv.DictReader(file)}


def test_real_removals_are_kept_and_measured(data, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    settings = ["--part", "real", "--grow-pixels", "4", "--no-match-grain"]
    done = run("benchmarks.removal", data, "--output", first, *settings)
    assert done.returncode == 0, done.stderr
    rows = rows_of(first / "appearance.csv")
    assert set(rows) == {"one", "two", "mean"}
    for name in ("one", "two"):
        assert f"{name:16s}{float(rows[name]['smear']):12.3f}" in done.stdout
        for t in range(5):
            images = [
                cv2.imread(str(folder / name / part / f"{t:03d}.png"))
                for folder, part in ((data, "frames"), (data, "masks"), (first, ""))
            ]
            source, mask, result = images
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))  # more than 4 pixels
            known = cv2.dilate(mask[..., 0], disc) == 0
            np.testing.assert_array_equal(result[known], source[known])
            assert (result[mask[..., 0] > 0] < 240).any(axis=-1).all()  # the object is gone
        strip = cv2.imread(str(first / "strips" / f"{name}.png"))
        assert strip.shape[1] == 4 * (131 + 8) + 8  # five frames in rows of four
    assert (first / "sheets" / "key.txt").read_text() == "00 one\n01 two\n"
    assert cv2.imread(str(first / "sheets" / "01.png")).shape[1] == 2 * (131 + 8) + 8

    # Frames that are there already come to the same figures, the time aside.
    done = run("benchmarks.removal", data, "--results", first, "--output", again, *settings[2:4])
    assert done.returncode == 0, done.stderr
    for name, row in rows_of(again / "appearance.csv").items():
        assert row.pop("ms") == row.pop("cpu_ms") == "nan"
        assert row == {column: rows[name][column] for column in row}


def test_propagation_takes_clips_and_videos(data, tmp_path):
    table = tmp_path / "table.csv"
    options = ["--frames", "4", "--reach", "3", "--unseen", "smooth", "--output", table]
    done = run("benchmarks.propagation", data, *options)
    assert done.returncode == 0, done.stderr
    rows = rows_of(table)
    assert set(rows) == {"one", "two", "mean", "median"}
    # The picture stands still and the hole moves: nearly all is seen, and no smooth fill knows it.
    assert float(rows["mean"]["gain"]) > 3
    assert float(rows["mean"]["texture"]) > 0

    videos = tmp_path / "videos"
    videos.mkdir()
    lines = ["clip,frames,shot,motion"]
    for number in range(4):
        name = f"clip{number}.mp4"
        writer = cv2.VideoWriter(str(videos / name), cv2.VideoWriter_fourcc(*"mp4v"), 25, (132, 90))
        for t in range(5):
            writer.write(
                cv2.imread(str(data / "one" / "frames" / f"{t:03d}.png"))[:, [*range(131), 0]]
            )
        writer.release()
        lines.append(f"{name},5,{number},{number}")
    (videos / "metadata.csv").write_text("\n".join(lines))
    options = ["--masks", data, "--clips", "2", "--frames", "5", "--output", table]
    done = run("benchmarks.propagation", videos, *options)
    assert done.returncode == 0, done.stderr
    assert set(rows_of(table)) == {"clip2", "clip3", "mean", "median"}


def write_metadata(folder, rows):
    text = "\n".join(["clip,frames,shot,motion", *(",".join(map(str, row)) for row in rows)])
    (folder / "metadata.csv").write_text(text)


def test_choice_of_videos_is_spread_and_repeats(tmp_path):
    rng = np.random.default_rng(1)
    rows = [(f"{k:02d}.mp4", 30, k // 2, round(float(rng.random()), 3)) for k in range(60)]
    rows += [("short.mp4", 23, 98, 9), ("photo.jpg", 30, 99, 9)]
    write_metadata(tmp_path, rows)
    chosen = clips.choose_videos(tmp_path, 5, 24, seed=3)
    assert chosen == clips.choose_videos(tmp_path, 5, 24, seed=3)
    assert chosen != clips.choose_videos(tmp_path, 5, 24, seed=4)
    by_name = {row[0]: row for row in rows}
    _, _, shots, motions = zip(*(by_name[path.name] for path in chosen), strict=True)
    assert len(set(shots)) == 5
    assert list(motions) == sorted(motions)
    assert min(motions) > 0.3  # about half of 30 move less
    assert {"short.mp4", "photo.jpg"}.isdisjoint(path.name for path in chosen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["removal", "DATA", "--clips", "three"], "no clips called three; there are "),
        (["removal", "DATA", "--results", "EMPTY"], "one; name it after its clip."),
        (["propagation", "EMPTY", "--masks", "DATA"], "metadata.csv; give a folder of videos"),
    ],
)
def test_mistakes_are_sentences(data, tmp_path, arguments, message):
    module, *rest = arguments
    places = {"DATA": data, "EMPTY": tmp_path}
    output = tmp_path / "output"
    words = [places.get(word, word) for word in rest]
    done = run(
        f"benchmarks.{module}", *words, *(["--output", output] if module == "removal" else [])
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not output.exists()


def test_levels_follow_a_fade_over_a_moving_picture(tmp_path):
    rng = np.random.default_rng(2)
    picture = cv2.GaussianBlur(rng.normal(128, 200, (150, 260, 3)), (0, 0), 2).clip(60, 200)
    for kind in ("frames", "masks"):
        (tmp_path / "fade" / kind).mkdir(parents=True)
    for t in range(17):
        frame = picture[10:130, 2 * t : 2 * t + 200] * (1 - 0.01 * t)
        mask = np.zeros((120, 200), np.uint8)
        mask[40:80, 60:110] = 255
        cv2.imwrite(str(tmp_path / "fade" / "frames" / f"{t:03d}.png"), frame.round())
        cv2.imwrite(str(tmp_path / "fade" / "masks" / f"{t:03d}.png"), mask)
    done = run("benchmarks.levels", tmp_path, "--apart", 8)
    assert done.returncode == 0, done.stderr
    name, pairs, *numbers = done.stdout.splitlines()[1].split()
    assert (name, pairs) == ("fade", "2")  # frames 0 and 8, 8 and 16
    levels = np.array(numbers, float)
    wanted = np.exp(np.mean(np.log([0.92 / 1, 0.84 / 0.92])))
    # Both sides to a hundredth: whole pixels, but values rounded to 8 bits.
    np.testing.assert_allclose(levels[:6], wanted, atol=0.01)
    assert (levels[6:] < 1.5).all()


def test_a_model_of_cores_splits_what_one_and_two_took():
    # 2 s that only one core can do and 8 s that all share: 10 s on one core, 6 s on two.
    code = "from benchmarks.cores import describe_model; print(describe_model(10, 6))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == (
        "on one core only: 20% of the work; model: 4.0 s on 4, 3.0 s on 8, 2.5 s on 16 cores"
    )
