"""The self-test: where areas are hidden, what it predicts, and what it says."""

import json
import math
import re
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from combcn_core import cli
from combcn_core.clips.frames import ClipInfo
from combcn_core.clips.video import open_writer
from combcn_core.measure import metrics
from combcn_core.measure.placements import Placement, find_placements
from combcn_core.measure.predict import HiddenScore, Prediction, describe_prediction, self_test
from combcn_core.shot import InpaintConfig, ShotInpainter, inpaint
from recipes import scenes


def picture(height=60, width=90, seed=0):
    """(H, W, 3) uint8, smooth and coloured."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def walk(num_frames=12, height=60, width=90, size=14, step=5):
    """(T, H, W) bool: a square that goes to the right at the bottom."""
    masks = torch.zeros(num_frames, height, width, dtype=torch.bool)
    for index in range(num_frames):
        left = 4 + step * index
        masks[index, height - size - 3 : height - 3, left : left + size] = True
    return masks


def still(num_frames=12):
    return torch.from_numpy(np.stack([picture()] * num_frames))


# Where areas are hidden


@pytest.mark.parametrize("shape", [(3, 17, 23), (2, 30, 16)])
def test_placements_against_brute_force(shape):
    rng = np.random.default_rng(5)
    holes = np.zeros(shape, np.bool_)
    for hole in holes:
        top, left = rng.integers(0, 8, 2)
        hole[top : top + 5, left : left + 4] = rng.random((5, 4)) < 0.7
    _, height, width = shape
    expected = set()
    for mirrored in (False, True):
        moving = holes[:, :, ::-1] if mirrored else holes
        for down in range(-height, height + 1):
            for right in range(-width, width + 1):
                fits = True
                for t, y, x in np.argwhere(moving):
                    y, x = y + down, x + right
                    inside = 0 <= y < height and 0 <= x < width
                    near = holes[t, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                    fits = fits and inside and not near.any()
                if fits:
                    expected.add((mirrored, down, right))
    assert set(find_placements(holes, holes)) == expected
    assert expected


def test_placements_never_touch_the_hole_in_large_frames():
    masks = np.zeros((3, 211, 403), np.bool_)
    for index, mask in enumerate(masks):
        cv2.circle(view := mask.astype(np.uint8), (60 + 30 * index, 90), 37, 1, -1)
        mask[:] = view
    near = np.stack([cv2.dilate(m.astype(np.uint8), np.ones((3, 3))) > 0 for m in masks])
    found = find_placements(masks, masks)
    assert {place.mirrored for place in found} == {False, True}
    for place in found[:: len(found) // 60]:
        moved = place.apply(masks)
        assert moved.sum() == masks.sum()
        assert not (moved & near).any()
        # Nothing came in at the other side: frame by frame the shape is one piece.
        assert all(cv2.connectedComponents(m.astype(np.uint8))[0] == 2 for m in moved)


def test_hidden_area_moves_as_the_hole_does():
    masks = walk().numpy()
    moved = Placement(False, -20, 3).apply(masks)
    for mask, other in zip(masks, moved, strict=True):
        offset = (
            other.nonzero()[0].min() - mask.nonzero()[0].min(),
            (other.nonzero()[1].min() - mask.nonzero()[1].min()),
        )
        assert offset == (-20, 3)


# What it predicts


def test_still_background_is_recovered():
    prediction = self_test(still(), walk())
    assert prediction.num_frames == 12
    assert len(prediction.scores) == 2
    # Every hidden pixel is seen in another frame, and nothing moves: no more than rounding is lost.
    assert prediction.expected("seen")[0] == 1
    assert prediction.expected("l1")[0] < 0.05
    assert prediction.expected("flicker")[0] < 0.05
    assert prediction.expected("psnr")[0] > 55
    assert prediction.doubt == ""


def test_prediction_is_that_of_the_filled_area():
    """One area: its figures, recomputed by hand from the hole and the area as one hole."""
    images = torch.from_numpy(np.stack([np.roll(picture(), index, 1) for index in range(12)]))
    masks = walk()
    config = InpaintConfig(grow_pixels=2)
    prediction = self_test(images, masks, config=config, seeds=(7,))
    (score,) = prediction.scores
    # Grown by hand: a pixel within 2 of the hole.
    y, x = np.mgrid[-2:3, -2:3]
    disc = (x * x + y * y <= 4).astype(np.uint8)
    grown = np.stack([cv2.dilate(m.astype(np.uint8), disc) for m in masks.numpy()]) > 0
    hidden = score.placement.apply(grown)
    result = inpaint(images, torch.from_numpy(grown | hidden))
    where = torch.from_numpy(hidden)
    assert score.psnr == metrics.hole_psnr(result, images, where)
    error = np.abs(result.numpy().astype(float) - images.numpy())
    assert score.l1 == pytest.approx(error[hidden].mean(), rel=1e-6)  # metrics start from float32
    of_frames = [e[h].mean() for e, h in zip(error, hidden, strict=True)]
    assert prediction.worst[0][0] == int(np.argmax(of_frames))
    assert prediction.worst[0][1] == pytest.approx(max(of_frames), rel=1e-6)
    assert math.isnan(prediction.expected("l1")[1])


def test_prediction_does_not_see_the_object():
    images, masks = still(6), walk(6)
    other = torch.where(masks[..., None], 255 - images, images)
    assert self_test(images, masks) == self_test(other, masks)


def test_same_seeds_same_answer():
    images, masks = still(6), walk(6)
    first, again = (self_test(images, masks, seeds=(4, 9)) for _ in range(2))
    assert first == again
    assert np.array_equal(first.picture, again.picture)
    places = [score.placement for score in first.scores]
    assert places != [s.placement for s in self_test(images, masks, seeds=(5, 6)).scores]


def test_same_place_is_tested_once():
    # A band as wide as the frame fits right below itself only, mirrored or not.
    masks = torch.zeros(2, 24, 20, dtype=torch.bool)
    masks[:, 1:11] = True
    images = torch.from_numpy(np.stack([picture(24, 20)] * 2))
    prediction = self_test(images, masks, seeds=tuple(range(40)))
    places = [score.placement for score in prediction.scores]
    assert len(places) == len(set(places))
    assert {place.right for place in places} == {0}
    assert {place.down for place in places} == {11, 12, 13}


def test_part_of_the_mask_is_hidden_where_all_has_no_room():
    # Two things at opposite edges, where any move of both takes one out or onto the other.
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[:, 2:38, :4] = True
    for index in range(3):
        masks[index, 12:24, 47 - index : 60 - index] = True
    images = torch.from_numpy(np.stack([picture(40, 60)] * 3))
    assert find_placements(masks.numpy(), masks.numpy()) == []
    prediction = self_test(images, masks, seeds=(0, 1))
    large, small = 12 * 13, 36 * 4
    assert prediction.share == pytest.approx(large / (large + small))
    for score in prediction.scores:
        moved = score.placement.apply(masks.numpy() & (np.arange(60) >= 40))
        assert moved.sum() == 3 * large
        assert not (moved & masks.numpy()).any()
    assert "a part of the mask (52% of it" in describe_prediction(prediction)[0]


@pytest.mark.parametrize(("peak", "first"), [(0, 0), (11, 7), (19, 12)])
def test_frames_around_the_largest_hole_are_tested(peak, first):
    masks = torch.zeros(20, 40, 50, dtype=torch.bool)
    masks[:, 30:34, 20:24] = True
    masks[peak, 28:36, 20:24] = True
    images = torch.from_numpy(np.stack([picture(40, 50)] * 20))
    prediction = self_test(images, masks, seeds=(0,), max_frames=8)
    assert (prediction.first_frame, prediction.num_frames) == (first, 8)
    assert prediction.total_frames == 20
    assert all(first <= frame < first + 8 for frame, _ in prediction.worst)


def test_prediction_is_near_the_truth_where_noise_decides():
    scene = scenes.render_scene(scenes.SCENES["noise"], num_frames=8, height=81, width=145)
    result = inpaint(scene.images, scene.masks)
    true = metrics.hole_psnr(result, scene.truth, scene.masks)
    predicted, _ = self_test(scene.images, scene.masks, seeds=(0, 1)).expected("psnr")
    # A still camera: what is left is the noise, the same in the sky as on the road but where
    # 8 bits cut it off, and whether it was averaged.
    assert predicted == pytest.approx(true, abs=3)


def test_small_part_of_the_mask_says_nothing_about_the_rest():
    # A player with no room, and a ball that has some, in one frame.
    masks = torch.zeros(5, 40, 60, dtype=torch.bool)
    masks[:, 2:38, 4:50] = True
    masks[2, 10:13, 53:56] = True
    images = torch.from_numpy(np.stack([picture(40, 60)] * 5))
    with pytest.raises(ValueError, match=r"only 0\.1% of the mask has room"):
        self_test(images, masks)


def test_figure_that_cannot_be_measured_is_unknown():
    # One frame has a hole, so nothing can flicker.
    masks = walk(6)
    masks[:3] = masks[4:] = False
    prediction = self_test(still(6), masks)
    assert math.isnan(prediction.expected("flicker")[0])
    text = "\n".join(describe_prediction(prediction))
    assert "flicker unknown" in text
    assert "nan" not in text


def test_each_area_is_filled_once(monkeypatch):
    """What is seen of it is taken from the same run."""
    calls = []
    restore = ShotInpainter.restore
    monkeypatch.setattr(
        ShotInpainter,
        "restore",
        lambda self, seen, **options: calls.append(seen) or restore(self, seen, **options),
    )
    assert len(self_test(still(6), walk(6)).scores) == len(calls) == 2


# What it says


def prediction_of(seen, hole_seen):
    scores = tuple(
        HiddenScore(Placement(False, 1, 2), psnr, l1, 0.5, seen, hole_seen)
        for psnr, l1 in ((30.0, 2.0), (32.0, 4.0))
    )
    return Prediction(
        10, 40, 300, 1, scores, ((17, 6.25), (12, 5.0)), np.zeros((1, 1, 3), np.uint8)
    )


def test_description_states_mean_spread_and_span():
    text = "\n".join(describe_prediction(prediction_of(0.9, 0.95)))
    assert "frames 10 to 49 of 300" in text
    assert "PSNR 31.00 ± 1.41 dB, l1 3.00 ± 1.41, flicker 0.50 ± 0.00" in text  # sqrt(2)
    assert "90.0% of the hidden areas, 95.0% of the hole" in text
    assert "17 (6.2), 12 (5.0)" in text


@pytest.mark.parametrize(
    ("seen", "hole_seen", "word"), [(0.95, 0.4, "less"), (0.3, 0.9, "more"), (0.9, 0.85, "")]
)
def test_doubt_says_which_way(seen, hole_seen, word):
    doubt = prediction_of(seen, hole_seen).doubt
    assert (f"expect {word} than predicted" in doubt) if word else doubt == ""


@pytest.mark.parametrize(
    ("masks", "settings", "message"),
    [
        (torch.zeros(12, 60, 90), {}, "mask is empty"),
        (torch.ones(60, 90), {}, "leaves no room in frames of 90x60"),
        (walk(), {"max_frames": 1}, "max_frames is 1"),
        (walk(), {"seeds": ()}, "one seed or more"),
        (walk(11), {}, "mask has 11 frames"),
    ],
)
def test_self_test_rejects(masks, settings, message):
    with pytest.raises(ValueError, match=message):
        self_test(still(), masks, **settings)


# The command


def write_video(path, frames):
    info = ClipInfo(width=frames.shape[2], height=frames.shape[1], fps=Fraction(25))
    with open_writer(path, info) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mkv", still().numpy())  # lossless
    masks = walk().numpy()[..., None].repeat(3, axis=3)
    write_video(tmp_path / "mask.mkv", masks * np.uint8(255))
    return tmp_path


def predict(*arguments):
    return cli.main(["predict", *arguments])


def test_command_predicts(folder, capfd):
    arguments = ["clip.mkv", "--mask", "mask.mkv", "--output", "out", "--grow-pixels", "2"]
    assert predict(*arguments, "--test-frames", "8", "--seeds", "2", "5") == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    expected = self_test(
        still(), walk(), config=InpaintConfig(grow_pixels=2), seeds=(2, 5), max_frames=8
    )
    assert output.splitlines()[:-1] == describe_prediction(expected)
    assert "frames 0 to 7 of 12" in output
    figures = json.loads((folder / "out/prediction.json").read_text())
    assert figures["l1"]["mean"] == expected.expected("l1")[0]
    assert [tuple(row["placement"].values()) for row in figures["scores"]] == [
        score.placement for score in expected.scores
    ]
    page = (folder / "out/index.html").read_text()
    assert re.search(r'<img src="prediction.jpg"', page)
    drawn = cv2.imread(str(folder / "out/prediction.jpg"))
    assert drawn.shape == expected.picture.shape
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "index.html",
        "prediction.jpg",
        "prediction.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mask 1,1,80,55", "leaves no room"),
        ("--mask lost.png", "lost.png does not exist"),
        ("--mask mask.mkv --test-frames 1", "max_frames is 1"),
        ("--mask mask.mkv --weights big", "no weights are called 'big'"),
        ("--mask mask.mkv --reach 0", "reach is 0"),
    ],
)
def test_mistake_is_said_in_one_sentence(folder, capfd, arguments, message):
    before = sorted(folder.rglob("*"))
    assert predict("clip.mkv", *arguments.split()) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("combcn: ")
    assert message in line
    assert sorted(folder.rglob("*")) == before


def test_old_flag_still_works_and_says_its_new_name(folder, capfd):
    arguments = ["clip.mkv", "--self-test", "--mask", "mask.mkv", "--output", "out"]
    assert cli.main(["evaluate", *arguments, "--test-frames", "6", "--seeds", "2"]) == 0
    output, errors = capfd.readouterr()
    assert "is now `combcn predict`" in errors
    assert "frames 0 to 5 of 12" in output
    assert (folder / "out/index.html").is_file()
