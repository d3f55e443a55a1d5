"""What the recipes draw."""

import runpy
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from combcn_core.training.footage import scan_footage

FOOTAGE = Path(__file__).parents[2] / "recipes" / "footage.py"


@pytest.fixture
def gathered(tmp_path):
    """DATA as footage.py wants it: eight clips of 480x360, one not for weights; 40 photographs."""
    (tmp_path / "train").mkdir()
    (tmp_path / "photos").mkdir()
    rows = ["clip,source,commit,licence,shot,weights_ok"]
    for number in range(8):
        with av.open(str(tmp_path / f"train/clip{number}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
            for brightness in range(6):
                pixels = np.full((360, 480, 3), 20 * number + brightness, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            file.mux(stream.encode())
        ok = "no" if number == 5 else "yes"
        rows.append(
            f"clip{number}.mp4,someone/films:{number}.mp4,0123456789abcdef,CC0,{number},{ok}"
        )
    (tmp_path / "train/metadata.csv").write_text("\n".join(rows) + "\n")
    rows = ["photo,source,commit_or_version,author,licence"]
    for number in range(40):
        shape = (60, 40, 3) if number % 2 else (500, 600, 3)
        cv2.imwrite(str(tmp_path / f"photos/p{number}.jpg"), np.full(shape, number, np.uint8))
        source = "codrops/Demo:img" if number % 2 else "someone/pictures:img"
        rows.append(f"p{number}.jpg,{source},1,A. N. Other,CC BY 4.0")
    (tmp_path / "photos/photos.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_footage_is_small_and_split_as_training_splits_it(gathered, tmp_path, monkeypatch):
    output = tmp_path / "footage"
    monkeypatch.setattr("sys.argv", ["footage.py", str(gathered), str(output)])
    for _ in range(2):  # the second run finds all done
        runpy.run_path(str(FOOTAGE), run_name="__main__")
    found = {name: scan_footage(output / name, clip_length=6) for name in ("all", "clips")}
    files = {
        source.path.name
        for side in (found["all"].train, found["all"].validation)
        for source in side
    }
    assert "clip5.mp4" not in files
    assert {"clip0.mp4", "clip3.mp4"} <= files
    with av.open(str(output / "all/clip0.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert [frame.shape for frame in frames] == [(240, 320, 3)] * 6
    heights = {cv2.imread(str(path)).shape[0] for path in (output / "all").glob("*.jpg")}
    assert heights == {60, 360}
    portraits = [name for name in files if name[0] == "p" and int(name[1:-4]) % 2]
    others = [name for name in files if name[0] == "p" and not int(name[1:-4]) % 2]
    assert 0 < len(portraits) <= len(others) / 2
    held = {name: {source.path.name for source in side.validation} for name, side in found.items()}
    assert held["clips"] == held["all"] & {path.name for path in (output / "clips").iterdir()}
    table = (output / "footage.md").read_text().splitlines()
    marked = {line.split(" | ")[0][2:] for line in table if line.endswith("| held back |")}
    assert marked == held["all"]
    named = {line.split(" | ")[0][2:] for line in table if line.startswith("| p")}
    assert named == {"photograph", *(f"p{number}.jpg" for number in range(40))}
    first = {line.split(" | ")[0][2:] for line in table if "| first stages only |" in line}
    assert first == {name for name in named if name.endswith(".jpg")} - files
    assert "| clip3.mp4 | someone/films:3.mp4 | 0123456789 | CC0 |" in "\n".join(table)


THUMBNAILS = Path(__file__).parents[2] / "recipes" / "thumbnails.py"


def test_thumbnail_is_half_a_square_and_leaves_the_frame_as_it_is():
    captioned = runpy.run_path(str(THUMBNAILS))["captioned"]
    frame = np.full((270, 480, 3), 200, np.uint8)
    panel = captioned(frame, "before")
    assert panel.shape == (240, 480, 3)
    assert (frame == 200).all()
    changed = (panel != 200).any(axis=2)
    assert changed[200:, 320:].any()
    assert not changed[:200].any()
