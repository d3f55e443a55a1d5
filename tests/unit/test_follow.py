"""Masks carried along: on rendered objects whose masks are known."""

import cv2
import numpy as np
import pytest
import torch

from combcn_core import cli
from combcn_core.fill.follow import _guided, _strays, describe_followed, follow, follow_masks

from ..helpers import write_pngs

HEIGHT, WIDTH, COUNT = 90, 141, 13


def texture(seed, height, width, scale=3.0):
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), scale)
    return np.uint8((smooth / np.abs(smooth).max() * 0.5 + 0.5) * 255)


def moving_disk(count=COUNT, step=3, height=HEIGHT, width=WIDTH):
    """A textured disk over a textured ground: frames, and where it is."""
    ground = texture(0, height, width)
    thing = texture(1, 2 * height, 2 * width) // 2 + np.uint8([90, 20, 0])
    frames, masks = [], []
    rows, columns = np.mgrid[:height, :width]
    for t in range(count):
        x, y = 30 + step * t, 40 + t
        mask = (rows - y) ** 2 + (columns - x) ** 2 < 18**2
        moved = np.roll(thing, (t, step * t), (0, 1))[:height, :width]
        frames.append(np.where(mask[..., None], moved, ground))
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


def overlap(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize("drawn", [(0, 12), (6,), (0,), (12,)])
def test_follow_masks_finds_what_moves(drawn):
    frames, masks = moving_disk()
    found, confidence = follow_masks(
        torch.from_numpy(frames), torch.from_numpy(masks[list(drawn)]), drawn
    )
    assert found.shape == masks.shape
    assert found.dtype == torch.bool
    for number in range(COUNT):
        if number in drawn:
            assert np.array_equal(found[number], masks[number])
            assert confidence[number] == 1
        else:
            # A rim of half a pixel around a disk of 18 is 5 % of it.
            assert overlap(found[number].numpy(), masks[number]) > 0.93
            assert 0.8 < confidence[number] <= 1


def test_follow_masks_is_less_sure_where_the_object_turns_into_another():
    frames, masks = moving_disk()
    other, _ = moving_disk()
    other[6] = texture(5, HEIGHT, WIDTH)
    _, sure = follow_masks(torch.from_numpy(frames), torch.from_numpy(masks[[0, 12]]), (0, 12))
    _, unsure = follow_masks(torch.from_numpy(other), torch.from_numpy(masks[[0, 12]]), (0, 12))
    assert unsure[6] < sure[6] - 0.1


def test_follow_masks_leaves_what_is_like_the_object_but_apart_from_it():
    frames, masks = moving_disk(width=241)
    # The same colours fall from above onto the place that the object goes by.
    like = frames[0][40 - 9 : 40 + 9, 30 - 9 : 30 + 9].copy()
    for t, frame in enumerate(frames):
        frame[6 * t : 6 * t + 18, 150:168] = like[: max(0, min(18, 90 - 6 * t))]
    strays = _strays(_with_squares((20, 20, 30), (60, 100, 8)))
    assert strays.sum() == 8**2
    assert strays[60:68, 100:108].all()
    assert not _strays(_with_squares((20, 20, 30), (20, 55, 8))).any()  # near enough
    assert not _strays(_with_squares((20, 20, 30), (60, 100, 20))).any()  # large enough
    assert not _strays(_with_squares()).any()
    found, _ = follow_masks(torch.from_numpy(frames), torch.from_numpy(masks[[0]]), [0])
    for number in range(COUNT):
        assert not found[number, :, 140:].any()


def _with_squares(*squares):
    mask = np.zeros((90, 141), bool)
    for top, left, side in squares:
        mask[top : top + side, left : left + side] = True
    return mask


def test_follow_masks_keeps_pieces_that_were_drawn():
    frames, masks = moving_disk(width=241)
    frames[:, 60:72, 200:212] = (200, 30, 30)
    masks[:, 60:72, 200:212] = True
    found, _ = follow_masks(torch.from_numpy(frames), torch.from_numpy(masks[[0]]), [0])
    for number in range(COUNT):
        assert overlap(found[number, 55:77, 195:217].numpy(), masks[number, 55:77, 195:217]) > 0.8


def test_follow_masks_takes_all_kinds_of_images():
    frames, masks = moving_disk(5)
    bytes_ = torch.from_numpy(frames)
    drawn = torch.from_numpy(masks[[0]])
    expected, _ = follow_masks(bytes_, drawn, [0])
    deep = torch.from_numpy(frames.astype(np.uint16) * 257)
    for images in (bytes_.float() / 255, deep):
        found, _ = follow_masks(images, drawn, [0])
        assert torch.equal(found, expected)


def test_follow_stops_at_a_cut():
    frames, masks = moving_disk(6)
    after = 255 - texture(7, HEIGHT, WIDTH, 9.0)
    clip = [*frames, *[after] * 4]
    found = list(follow(clip, {0: masks[0]}))
    assert all(mask.any() for mask, _ in found[:6])
    assert not any(mask.any() for mask, _ in found[6:])
    assert [confidence for _, confidence in found[6:]] == [0] * 4


def test_follow_masks_at_a_bounded_size():
    frames, masks = moving_disk(5, step=2)
    large = [cv2.resize(frame, None, fx=10, fy=10) for frame in frames]
    truth = [np.kron(mask, np.ones((10, 10), bool)) for mask in masks]
    found = list(follow(large, {0: truth[0]}))
    assert found[4].mask.shape == truth[4].shape
    assert overlap(found[4].mask, truth[4]) > 0.93


def test_follow_masks_of_nothing_and_of_tiny_frames():
    frames = torch.from_numpy(texture(0, 9, 11))[None].expand(3, -1, -1, -1)
    found, _ = follow_masks(frames, torch.zeros(9, 11), [1])
    assert not found.any()
    drawn = torch.zeros(9, 11)
    drawn[3:6, 4:8] = 1
    found, _ = follow_masks(frames, drawn, [1])
    assert torch.equal(found, (drawn > 0).expand(3, -1, -1))  # nothing moves


@pytest.mark.parametrize(
    ("masks", "frames", "match"),
    [
        (torch.ones(2, 9, 11), [0, 3], "for frames 0, 3 of a clip of 3; give a number from 0 to 2"),
        (torch.ones(2, 9, 11), [1, 1], "each mask, once"),
        (torch.ones(2, 9, 11), [], "for frames none"),
        (torch.ones(2, 9, 11), [0, 1, 2], "2 masks and the numbers of 3 frames"),
        (torch.ones(2, 8, 11), [0, 1], "mask is 11x8 pixels but images are 11x9"),
    ],
)
def test_follow_masks_rejects(masks, frames, match):
    with pytest.raises(ValueError, match=match):
        follow_masks(torch.zeros(3, 9, 11, 3), masks, frames)


def test_describe_followed_names_frames_that_lie_apart():
    sure = dict.fromkeys(range(60), 0.9) | {0: 1.0, 20: 0.5, 21: 0.4, 22: 0.45, 40: 0.6}
    assert describe_followed(sure, []).startswith(
        "least sure in frames 1 (0.90), 6 (0.90), 11 (0.90), 21 (0.40), 40 (0.60): "
    )
    lost = [20, *range(30, 60)]
    text = describe_followed(sure | dict.fromkeys(lost, 0.0), lost)
    assert (
        "no mask in frames 20, 30 to 59: draw one there if the object, or its shadow, is in it"
        in text
    )
    assert "(0.00)" not in text
    assert describe_followed({0: 1.0, 1: 1.0}, []) == "sure everywhere"


def test_guided_filter_against_least_squares():
    # In each window, values as an affine function of colours, by the normal equations.
    rng = np.random.default_rng(3)
    guide = rng.random((21, 23, 3)).astype(np.float32)
    values = rng.random((21, 23)).astype(np.float32)
    radius, epsilon = 4, 3e-4
    slopes, intercepts = np.zeros((21, 23, 3)), np.zeros((21, 23))
    inner = [(y, x) for y in range(radius, 21 - radius) for x in range(radius, 23 - radius)]
    for y, x in inner:
        window = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
        colors, wanted = guide[window].reshape(-1, 3), values[window].ravel()
        centred = colors - colors.mean(0)
        matrix = centred.T @ centred / len(centred) + epsilon * np.eye(3)
        slopes[y, x] = np.linalg.solve(matrix, centred.T @ (wanted - wanted.mean()) / len(centred))
        intercepts[y, x] = wanted.mean() - slopes[y, x] @ colors.mean(0)
    middle = 10, 11  # whose windows are all inner ones
    window = slice(10 - radius, 11 + radius), slice(11 - radius, 12 + radius)
    expected = slopes[window].mean((0, 1)) @ guide[middle] + intercepts[window].mean()
    # float32 sums of squares in windows of 81
    assert _guided(guide, values)[middle] == pytest.approx(expected, abs=1e-3)


# Files


@pytest.fixture
def shot(tmp_path, monkeypatch):
    """frames/ with the numbers 100 to 112, and drawn/ with the masks of 102 and 110."""
    monkeypatch.chdir(tmp_path)
    frames, masks = moving_disk()
    write_pngs(tmp_path / "frames", frames[..., ::-1], "f{}.png", range(100, 113))
    write_pngs(tmp_path / "drawn", masks[[2, 10]].astype(np.uint8) * 255, "f{}.png", [102, 110])
    return tmp_path


def test_masks_command_writes_what_python_finds(shot, capsys):
    frames, masks = moving_disk()
    command = ["masks", "frames", "--mask", "drawn", "--follow", "--output", "masks"]
    assert cli.main([*command, "--preview", "shown"]) == 0
    said = capsys.readouterr()
    assert "masks: masks of 13 frames" in said.out
    assert "masks followed from frames 102, 110; " in said.err
    names = sorted(path.name for path in (shot / "masks").iterdir())
    assert names == [f"f{number}.png" for number in range(100, 113)]
    written = np.stack([cv2.imread(str(shot / "masks" / name), 0) > 0 for name in names])
    found, _ = follow_masks(torch.from_numpy(frames), torch.from_numpy(masks[[2, 10]]), [2, 10])
    assert np.array_equal(written, found)
    for name, frame, mask in zip(names, frames, found.numpy(), strict=True):
        shown = cv2.imread(str(shot / "shown" / name))[..., ::-1]
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert np.array_equal(shown[mask | ~near], frame[mask | ~near])  # but for the outline
        assert (shown[near & ~mask] != frame[near & ~mask]).any()
    # Any range of frames gives the same masks, also where no mask was drawn in it.
    command = [
        "masks",
        "frames",
        "--mask",
        "drawn",
        "--follow-masks",
        "--frames",
        "4-7",
        "--output",
        "some",
    ]
    assert cli.main(command) == 0
    for number in range(104, 108):
        name = f"f{number}.png"
        assert (shot / "some" / name).read_bytes() == (shot / "masks" / name).read_bytes()


def test_inpaint_follows_masks(shot):
    command = ["frames", "--mask", "drawn", "--output"]
    options = ["--follow-masks", "--grow-pixels", "2"]
    assert cli.main(["masks", *command, "masks", "--follow"]) == 0
    assert cli.main(["inpaint", *command, "one", *options]) == 0
    assert (
        cli.main(["inpaint", "frames", "--mask", "masks", "--output", "two", "--grow-pixels", "2"])
        == 0
    )
    for path in (shot / "one").iterdir():
        assert path.read_bytes() == (shot / "two" / path.name).read_bytes()


def test_masks_command_says_what_is_wrong(shot, capsys):
    write_pngs(shot / "other", np.full((1, HEIGHT, WIDTH), 255, np.uint8), "f007.png", [7])
    write_pngs(shot / "empty", np.zeros((1, HEIGHT, WIDTH), np.uint8), "f{}.png", [104])
    for mask, message in {
        "other": "mask f007 in other has no number of a frame of the clip, which are 100 to 112; "
        "give it the number of the frame it was drawn on, last in its name, such as mask_100.png",
        "empty": "the masks in empty are all empty; draw",
        "1,1,9,9": "1,1,9,9 does not exist; give a folder with the masks",
    }.items():
        code = cli.main(["masks", "frames", "--mask", mask, "--follow", "--output", "masks"])
        assert code == 2
        assert message in capsys.readouterr().err
    assert not (shot / "masks").exists()
    assert cli.main(["masks", "frames", "--mask", "drawn", "--output", "masks"]) == 2
    assert "carried to the other frames (--follow-masks)" in capsys.readouterr().err
