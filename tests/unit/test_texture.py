import cv2
import numpy as np
import pytest

from combcn_core.fill import texture
from combcn_core.fill.smooth import fill_smoothly
from combcn_core.pixels import Patch


def grainy(height=97, width=131, seed=3):
    """(H, W, 3) uint8: coarse noise in two colours, left and right."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 1.2)
    noise *= 25 / noise.std()
    base = np.where(np.arange(width)[:, None] < width // 2, (60, 140, 60), (150, 90, 60))
    return np.clip(np.rint(base + noise[..., None]), 0, 255).astype(np.uint8)


def disk(height=97, width=131, radius=21):
    rows, columns = np.ogrid[:height, :width]
    return (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2


def synthesized(image, hole, seed=0):
    return texture.synthesize(fill_smoothly(Patch.of(image), hole), hole, seed=seed).whole()


def contrast(image, where):
    gray = image.mean(-1, dtype=np.float64)
    return (gray - cv2.blur(gray, (7, 7)))[where].std()


def test_the_hole_gets_the_contrast_of_its_surroundings():
    image, hole = grainy(), disk()
    inner, ring = disk(radius=15), disk(radius=35) & ~disk(radius=24)
    result = synthesized(image, hole)
    smooth = fill_smoothly(Patch.of(image), hole).whole()
    assert contrast(smooth, inner) < 0.2 * contrast(image, ring)
    assert 0.7 < contrast(result, inner) / contrast(image, ring) < 1.3


def test_the_hole_keeps_to_the_rough_colours_of_the_start():
    image, hole = grainy(), disk()
    result = synthesized(image, hole)
    left = disk(radius=15) & (np.arange(131) < 131 // 2 - 6)
    right = disk(radius=15) & (np.arange(131) > 131 // 2 + 6)
    # Sides differ by 90 and -50: within 12 each is of its own.
    np.testing.assert_allclose(result[left].mean(0), (60, 140, 60), atol=12)
    np.testing.assert_allclose(result[right].mean(0), (150, 90, 60), atol=12)


def test_stripes_go_on_through_the_hole():
    columns = np.arange(131)
    image = np.broadcast_to(np.rint(127 + 100 * np.sin(columns / 9 * 2 * np.pi)), (97, 131))
    image = np.repeat(image[..., None], 3, -1).astype(np.uint8)
    hole = disk()
    error = np.abs(synthesized(image, hole)[hole].astype(float) - image[hole])
    assert np.median(error) <= 3  # of an amplitude of 100
    assert np.quantile(error, 0.95) <= 30


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_known_pixels_pass_untouched(dtype):
    image = grainy().astype(dtype) * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    image, hole = image.astype(dtype), disk()
    result = synthesized(image, hole)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[~hole], image[~hole])
    assert (result[hole] != image[hole]).any()


def test_the_result_depends_on_the_seed_only_and_not_on_threads():
    image, hole = grainy(), disk()
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            results.append(synthesized(image, hole, seed=5))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*results)
    assert (synthesized(image, hole, seed=6) != results[0]).any()


def test_a_large_frame_is_searched_small_and_copied_from_known_pixels(monkeypatch):
    image, hole = grainy(), disk()
    monkeypatch.setattr(texture, "SEARCH_PIXELS", 60 * 60)
    monkeypatch.setattr(texture, "REFINED_HOLE_PIXELS", 0)
    monkeypatch.setattr(texture, "MAX_STEP", 0.0)  # no correction: what is copied is copied exactly
    result = synthesized(image, hole)
    known = {tuple(color) for color in image[~hole]}
    assert {tuple(color) for color in result[hole]} <= known
    assert 0.7 < contrast(result, disk(radius=15)) / contrast(image, ~disk(radius=24)) < 1.3


def test_a_step_between_two_pieces_is_taken_out():
    rng = np.random.default_rng(0)
    clean = np.repeat(rng.random((1, 64, 1), np.float32) * 0.2 + 0.4, 33, 0).repeat(3, -1)
    hole = np.zeros((33, 64), bool)
    hole[12:21, 30:60] = True
    stepped = clean.copy()
    rows, columns = np.nonzero(hole)
    source = np.where(columns < 50, (rows - 9) * 64 + columns, (rows + 9) * 64 + columns)
    # The right piece was copied from where it is a little brighter.
    stepped[hole] = clean.reshape(-1, 3)[source] + np.where(columns < 50, 0, 0.05)[:, None]
    result = texture._without_seams(stepped.astype(np.float32), hole, source)
    before, after = (
        np.abs(np.diff(x - clean, axis=1))[15:18, 49].mean() for x in (stepped, result)
    )
    assert before == pytest.approx(0.05, abs=1e-3)
    assert after < 0.01
    np.testing.assert_array_equal(result[~hole], stepped[~hole])


def test_a_frame_without_known_pixels_stays_as_it_was():
    image = grainy()
    hole = np.ones(image.shape[:2], bool)
    hole[:2, :2] = False
    result = texture.synthesize(Patch.of(image), hole, seed=0)
    np.testing.assert_array_equal(result.whole(), image)
    nothing = np.zeros_like(hole)
    np.testing.assert_array_equal(
        texture.synthesize(Patch.of(image), nothing, seed=0).whole(), image
    )
