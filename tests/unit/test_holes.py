import numpy as np
import pytest
import torch

from combcn_core.training.holes import HOLE_KINDS, make_holes


def sides(hole):
    """Height and width of the only box in an (H, W) mask; fails if it is not a full box."""
    rows, columns = hole.nonzero()
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert hole.sum() == height * width
    return height, width


def overlap(holes):
    """Intersection over union of each frame with the next one."""
    both = (holes[1:] & holes[:-1]).sum(axis=(1, 2))
    return both / (holes[1:] | holes[:-1]).sum(axis=(1, 2))


@pytest.mark.parametrize("kind", HOLE_KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (31, 9), (65, 117)])
def test_every_frame_has_hole_and_known_pixels(kind, height, width):
    for seed in range(12):
        holes = make_holes(kind, 7, height, width, seed)
        assert holes.shape == (7, height, width)
        assert holes.dtype == torch.bool
        share = holes.float().mean(dim=(1, 2))
        assert share.min() > 0
        assert share.max() < 0.7  # a box takes a quarter at most; bodies of 8 pixels are clumsy


@pytest.mark.parametrize("kind", HOLE_KINDS)
def test_seed_decides_and_nothing_else_does(kind):
    first = make_holes(kind, 9, 40, 52, 3)
    np.random.seed(0)
    torch.manual_seed(0)
    make_holes("blob", 2, 30, 30, 11)
    assert torch.equal(first, make_holes(kind, 9, 40, 52, 3))
    assert not torch.equal(first, make_holes(kind, 9, 40, 52, 4))
    assert not torch.equal(first, make_holes(kind, 9, 40, 52, (3, 1)))


@pytest.mark.parametrize("kind", HOLE_KINDS)
def test_short_clip_is_the_start_of_a_long_one(kind):
    for seed in range(5):
        long = make_holes(kind, 40, 45, 61, seed)
        for num_frames in (1, 2, 17):
            assert torch.equal(long[:num_frames], make_holes(kind, num_frames, 45, 61, seed))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 171)])
@pytest.mark.parametrize("kind", ["box", "random-box", "moving-box"])
def test_box_sides_cover_the_range_of_the_paper(kind, height, width):
    seen = set()
    for seed in range(300):
        holes = make_holes(kind, 1, height, width, seed).numpy()
        seen.update(sides(holes[0]))
    # 600 draws of 13 or 17 values miss one of them with p < 1e-14.
    assert seen == set(range(int(0.375 * min(height, width)), min(height, width) // 2 + 1))


def test_box_keeps_its_place_and_reaches_every_border():
    union = torch.zeros(33, 48, dtype=torch.bool)
    for seed in range(200):
        holes = make_holes("box", 5, 33, 48, seed)
        assert (holes == holes[0]).all()
        union |= holes[0]
    assert union[0].any()
    assert union[-1].any()
    assert union[:, 0].any()
    assert union[:, -1].any()


def test_random_box_differs_from_frame_to_frame():
    holes = make_holes("random-box", 16, 128, 128, 0).numpy()
    assert len({sides(hole) for hole in holes}) > 8
    assert overlap(holes).min() < 0.2  # boxes of half a side or less, dropped anywhere


def test_moving_box_keeps_its_size_and_moves_smoothly():
    for seed in range(20):
        holes = make_holes("moving-box", 60, 90, 128, seed).numpy()
        assert len({sides(hole) for hole in holes}) == 1
        corners = np.array([np.argwhere(hole)[0] for hole in holes])
        steps = np.diff(corners, axis=0)
        # At most 0.02 of 90 pixels a frame, and one more from rounding to whole pixels.
        assert abs(steps).max() <= 2
        assert abs(np.diff(steps, axis=0)).max() <= 2
        assert np.ptp(corners, axis=0).max() >= 8  # it does go somewhere


@pytest.mark.parametrize(("kind", "least"), [("blob", 0.8), ("object", 0.55)])
def test_shapes_move_and_deform_without_jumps(kind, least):
    # The thin limbs of a person of 40 pixels swing by a good part of their width in a frame.
    for seed in range(25):
        holes = make_holes(kind, 48, 128, 128, seed).numpy()
        assert overlap(holes).min() > least
        centres = np.array([np.argwhere(hole).mean(axis=0) for hole in holes])
        assert np.linalg.norm(np.diff(centres, axis=0), axis=1).max() < 0.05 * 128
        if kind == "blob":  # a silhouette may turn round and come back; a blob hardly in 48 frames
            assert overlap(holes[::47])[0] < 0.9


@pytest.mark.parametrize("kind", ["blob", "object"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (90, 160), (160, 90)])
def test_coverage_is_that_of_real_removals(kind, height, width):
    means = [make_holes(kind, 9, height, width, seed).float().mean().item() for seed in range(40)]
    assert min(means) > 0.035
    assert max(means) < 0.18  # cv2 fills outlines inclusively: half a pixel more on each side
    assert 0.07 < np.mean(means) < 0.12


def test_blob_is_one_piece():
    for seed in range(10):
        # One piece: every row between the first and the last has hole pixels.
        for row in make_holes("blob", 5, 128, 128, seed).any(dim=2):
            index = row.nonzero().flatten()
            assert len(index) == index[-1] - index[0] + 1


def test_blob_is_no_disk_and_deforms():
    y, x = np.mgrid[:128, :128] - 64

    def centred(hole):
        shift = 64 - np.argwhere(hole).mean(axis=0).round().astype(int)
        return np.roll(hole, shift, axis=(0, 1))

    roundness, sameness = [], []
    for seed in range(40):
        first, last = make_holes("blob", 31, 128, 128, seed).numpy()[[0, 30]]
        both = first | last
        if both.sum() > both[1:-1, 1:-1].sum():
            continue  # cut off by the frame
        first, last = centred(first), centred(last)
        disk = x**2 + y**2 <= first.sum() / np.pi
        roundness.append(overlap(np.stack([first, disk])))
        sameness.append(overlap(np.stack([first, last])))
    assert len(roundness) >= 5
    # A disk of 25 pixels that only moves keeps 0.95 of itself: half a pixel along its edge.
    assert np.median(roundness) < 0.85
    assert np.median(sameness) < 0.85


def test_object_silhouettes_are_not_convex():
    # Limbs, wheels and several bodies leave known pixels between hole pixels of a row.
    gaps = 0
    for seed in range(10):
        rows = make_holes("object", 1, 128, 128, seed)[0].int()
        gaps += ((rows.diff(dim=1) == 1).sum(dim=1) > 1).sum().item()
    assert gaps > 100


def test_make_holes_rejects_unknown_kind():
    with pytest.raises(ValueError, match="unknown kind of hole 'circle'; choose one of box, "):
        make_holes("circle", 2, 32, 32, 0)


def test_make_holes_rejects_no_frames():
    with pytest.raises(ValueError, match="num_frames is 0"):
        make_holes("box", 0, 32, 32, 0)


def test_make_holes_rejects_tiny_frames():
    with pytest.raises(ValueError, match="the frame is 40x7 pixels"):
        make_holes("box", 2, 7, 40, 0)
