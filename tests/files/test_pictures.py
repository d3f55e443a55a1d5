"""Pictures: where panels land, that the pixels in them are the caller's, and whole files only."""

import functools
import os

import cv2
import numpy as np
import pytest

from combcn_core.clips.pictures import (
    caption_pixels,
    draw_curves,
    outline_mask,
    save_picture,
    side_by_side,
    wipe,
    xt_slice,
)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("count", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (3, None, (1, 3)), (4, None, (2, 2)), (7, None, (3, 3)), (5, 2, (3, 2))],
)
def test_side_by_side_puts_every_panel_in_its_place(count, columns, rows_and_columns):
    height, width, gap = 61, 97, 5
    frames = [_noise(height, width, 3) + np.uint8(index) for index in range(count)]
    labels = [f"panel {index}\nPSNR 31.2 dB" for index in range(count)]
    sheet = side_by_side(frames, labels, columns=columns, gap=gap)

    rows, per_row = rows_and_columns
    tall = height + caption_pixels(height, 2) + gap
    assert sheet.shape == (gap + rows * tall, gap + per_row * (width + gap), 3)
    for index, frame in enumerate(frames):
        top, left = gap + index // per_row * tall, gap + index % per_row * (width + gap)
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], frame)
        caption = sheet[top + height : top + tall - gap, left : left + width]
        assert caption.max() > 150  # text
        assert sheet[top - 1, left].max() < 40  # gap


def test_side_by_side_without_labels_has_no_captions():
    sheet = side_by_side([_noise(20, 30, 3)] * 2, ["", ""], gap=3)
    assert sheet.shape == (20 + 2 * 3, 2 * 30 + 3 * 3, 3)
    assert caption_pixels(20, 0) == 0


def test_side_by_side_keeps_long_labels_inside_their_panel():
    frames = [_noise(80, 60, 3)] * 2
    sheet = side_by_side(frames, ["a label that is far too long for its panel", ""], gap=6)
    caption = sheet[6 + 80 : -6]
    assert caption[:, 6 : 6 + 60].max() > 100
    assert caption[:, 6 + 60 :].max() < 40


@pytest.mark.parametrize(
    ("frames", "labels", "message"),
    [
        ([], [], "0 frames with 0 labels"),
        ([_noise(4, 4, 3)], ["a", "b"], "1 frames with 2 labels"),
        ([_noise(4, 4, 3), _noise(4, 5, 3)], ["a", "b"], "one size"),
        ([_noise(4, 4)], ["a"], "pass uint8 RGB"),
        ([_noise(4, 4, 3) / 255], ["a"], "pass uint8 RGB"),
    ],
)
def test_side_by_side_rejects_unfit_panels(frames, labels, message):
    with pytest.raises(ValueError, match=message):
        side_by_side(frames, labels)


def test_xt_slice_against_numpy():
    images = _noise(5, 7, 11, 3)
    for row in range(7):
        expected = np.stack([frame[row] for frame in images])
        np.testing.assert_array_equal(xt_slice(images, row), expected)
    xt_slice(images, 0)[:] = 0
    assert images[:, 0].any()  # a copy
    with pytest.raises(ValueError, match="row is 7 but frames have 7 rows"):
        xt_slice(images, 7)


def test_outline_mask_draws_next_to_the_hole_only():
    image = _noise(90, 120, 3)
    mask = np.zeros((90, 120), bool)
    mask[30:60, 40:80] = True
    outlined = outline_mask(image, mask, color=(1, 2, 3))

    np.testing.assert_array_equal(outlined[mask], image[mask])
    line = (outlined == (1, 2, 3)).all(axis=2)
    assert line[29, 40:80].all()
    assert line[30:60, 80].all()
    changed = (outlined != image).any(axis=2)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    assert distance[changed].max() < 4
    np.testing.assert_array_equal(outline_mask(image, np.zeros_like(mask)), image)
    with pytest.raises(ValueError, match="pass the mask of this frame"):
        outline_mask(image, mask[:, :-1])


def test_save_picture_round_trip(tmp_path):
    image = _noise(13, 17, 3)
    path = tmp_path / "new" / "été.png"
    save_picture(path, image)
    read = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read[..., ::-1], image)

    smooth = cv2.resize(_noise(3, 3, 3), (64, 48), interpolation=cv2.INTER_LINEAR)
    save_picture(str(tmp_path / "b.JPG"), smooth)
    read = cv2.imread(str(tmp_path / "b.JPG"))[..., ::-1]
    assert np.abs(read.astype(int) - smooth).max() < 16  # JPEG at quality 92, smooth content
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.JPG", "new"]


def test_save_picture_leaves_the_old_one_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_picture(path, _noise(5, 5, 3))
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_picture(path, _noise(6, 6, 3))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_save_picture_rejects_other_endings(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png or \.jpg"):
        save_picture(tmp_path / "a.webp", _noise(5, 5, 3))


FIRST, SECOND = (255, 176, 64), (96, 190, 255)  # inks of the first and the second curve
draw = functools.partial(draw_curves, x_label="step", y_label="loss", width=400, height=300)


def _row_of(sheet, ink, column):
    return np.flatnonzero((np.abs(sheet[60:, column].astype(int) - ink) < 8).all(axis=1)).mean()


def test_curves_fall_where_their_values_fall():
    steps = np.arange(1, 401)
    falling, steady = 40 * np.exp(-steps / 120), np.full(400, 30.0)
    sheet = draw(
        {
            "3DCN": list(zip(steps, falling, strict=True)),
            "CombCN": list(zip(steps, steady, strict=True)),
        }
    )
    assert sheet.shape == (300, 400, 3)
    left, middle, right = (_row_of(sheet, FIRST, x) for x in (100, 200, 330))
    assert left < middle < right  # rows count downwards
    first, last = (_row_of(sheet, SECOND, x) for x in (100, 330))
    assert first == last < right


@pytest.mark.parametrize(
    "points",
    [
        [(1, 3.0)],
        [(1, 3.0), (2, 3.0), (3, 3.0)],
        [(7, 0.0), (8, 0.0)],
        [(1, 5.0), (2, float("nan")), (3, float("inf")), (4, 5.0)],
        [(10_000, 1e-7), (10_001, 1e6)],
    ],
    ids=["one", "constant", "zero", "nan", "steep"],
)
def test_curves_take_any_values(points):
    sheet = draw({"3DCN": points})
    assert (np.abs(sheet[60:].astype(int) - FIRST) < 8).all(axis=2).any()


def test_curves_may_be_empty_or_many():
    draw({})
    draw({"3DCN": [(1, float("nan"))]})
    draw({str(number): [(1, number), (2, 1)] for number in range(12)})


def test_curves_average_what_is_too_dense_to_draw():
    # Losses of single clips jump about: what shows is their mean, here half of the top.
    steps = np.arange(1, 100_001)
    jumping = np.where(steps % 2, 0.0, 20.0)
    sheet = draw({"jumping": list(zip(steps, jumping, strict=True)), "mean": [(1, 10), (1e5, 10)]})
    rows = [_row_of(sheet, SECOND, column) for column in (100, 200, 330)]
    assert len(set(rows)) == 1  # the steady curve covers the other: both are at 10
    assert not (np.abs(sheet[60:, 90:370].astype(int) - FIRST) < 8).all(axis=2).any()


def test_curves_share_the_axes():
    # The same values lie in the same place, whichever curve they are of and however long it is.
    long, short = [(step, step / 10) for step in range(1, 201)], [(100, 10.0), (101, 10.1)]
    sheet = draw({"long": long, "short": short})
    column = round(70 + (100.5 - 1) / 199 * (400 - 20 - 70))  # in the drawing area
    assert _row_of(sheet, SECOND, column) == pytest.approx(
        _row_of(draw({"long": long, "other": []}), FIRST, column), abs=1.5
    )


@pytest.mark.parametrize(("share", "column"), [(0, 0), (0.3, 6), (0.5, 10), (1, 21)])
def test_wipe_shows_one_picture_on_each_side_of_its_line(share, column):
    before, after = _noise(9, 21, 3) // 2, _noise(9, 21, 3) // 2 + np.uint8(100)
    after = np.minimum(after, 230).astype(np.uint8)
    given = before.copy(), after.copy()
    wiped = wipe(before, after, share)
    line = range(max(column - 1, 0), min(column + 1, 21))
    for x in range(21):
        if x in line:
            assert (wiped[:, x] == 240).all()
        else:
            np.testing.assert_array_equal(wiped[:, x], (before if x < column else after)[:, x])
    np.testing.assert_array_equal(before, given[0])
    np.testing.assert_array_equal(after, given[1])


def test_wipe_rejects_other_sizes():
    with pytest.raises(ValueError, match="give one size"):
        wipe(_noise(4, 5, 3), _noise(4, 6, 3), 0.5)
