"""Rendered removals: the truth is exact, and each scene has the difficulty that it is there for."""

import cv2
import numpy as np
import pytest
import torch

from combcn_core.masks import composite
from combcn_core.measure import metrics
from recipes import scenes

Camera, paint_scenery, render_frame = scenes.Camera, scenes.paint_scenery, scenes.render_frame

SMALL = {"num_frames": 4, "height": 81, "width": 145}
CUT_SHADOW = {name for name, scene in scenes.SCENES.items() if scene.faintest}


@pytest.fixture(scope="module")
def rendered():
    return {name: scenes.render_scene(scene, **SMALL) for name, scene in scenes.SCENES.items()}


@pytest.mark.parametrize("name", scenes.SCENES)
def test_source_is_the_truth_outside_the_mask(rendered, name):
    images, truth, again, masks = rendered[name]
    assert images.shape == truth.shape == again.shape == (4, 81, 145, 3)
    assert masks.shape == (4, 81, 145)
    loss = truth.int() - images.int()
    if name not in CUT_SHADOW:
        assert (loss[~masks] == 0).all()
    else:
        # What is left of the shadow only darkens, by less than a fifth of the lightest pixel.
        assert (loss[~masks] >= 0).all()
        assert 0 < loss[~masks].max() < 50
    assert (images != truth).any(dim=3)[masks].float().mean() > 0.85  # the mask holds little else
    assert (masks.float().mean(dim=(1, 2)) > 0.03).all()
    assert (masks.float().mean(dim=(1, 2)) < 0.25).all()
    assert (truth.sum(dim=3) > 0).all()  # nowhere does the painting end


@pytest.mark.parametrize("name", sorted(set(scenes.SCENES) - CUT_SHADOW))
def test_perfect_answer_scores_as_perfect(rendered, name):
    images, truth, _, masks = rendered[name]
    answer = composite(truth.float() / 255, images, masks)
    assert torch.equal(answer, truth)
    assert metrics.hole_psnr(answer, truth, masks) == float("inf")
    assert metrics.l1(answer, truth, masks) == metrics.flicker(answer, truth, masks) == 0
    assert metrics.gradient_energy_ratio(answer, truth, masks) == 1


def test_scene_is_deterministic():
    scene = scenes.SCENES["everything"]
    first, same = (scenes.render_scene(scene, **SMALL) for _ in range(2))
    assert all(map(torch.equal, first, same))
    other = scenes.render_scene(scene, **SMALL, seed=1)
    assert (other.truth != first.truth).float().mean() > 0.5


def test_still_camera_sees_one_picture(rendered):
    truth = rendered["still"].truth
    assert (truth == truth[:1]).all()
    assert not torch.equal(rendered["still"].masks[0], rendered["still"].masks[1])


def test_truth_with_other_noise_differs_by_the_noise(rendered):
    quiet = rendered["still"]
    assert torch.equal(quiet.truth, quiet.again)
    _, truth, again, _ = rendered["noise"]
    noise = truth.float() - quiet.truth
    other = again.float() - quiet.truth
    lit = (quiet.truth > 40) & (quiet.truth < 215)  # where 8 bits do not cut it off
    assert noise[lit].std() > 3
    assert abs(noise[lit].std() / other[lit].std() - 1) < 0.03  # 10^5 samples of each
    assert abs(np.corrcoef(noise[lit], other[lit])[0, 1]) < 0.02
    frames = np.corrcoef(noise[0][lit[0]], noise[1][lit[0]])
    assert abs(frames[0, 1]) < 0.03


def test_light_changes_by_the_gain(rendered):
    still, light = rendered["still"].truth.double(), rendered["light"].truth.double()
    dark = still[0] < 150  # below the shoulder of the film, where light is proportional
    ratios = [
        [(lit[..., c] / plain[..., c])[dark[..., c]].median() for c in range(3)]
        for lit, plain in ((light[0], still[0]), (light[3], still[3]))
    ]
    np.testing.assert_allclose(
        ratios, scenes.SCENES["light"].gain, atol=0.02
    )  # medians of whole numbers


def test_mask_without_penumbra_lies_within_the_whole(rendered):
    whole, cut = rendered["still"], rendered["penumbra"]
    assert torch.equal(whole.images, cut.images)
    left_out = whole.masks & ~cut.masks
    assert (cut.masks <= whole.masks).all()
    assert 0.01 < left_out.sum() / whole.masks.sum() < 0.2
    loss = (whole.truth.int() - whole.images.int())[left_out]
    assert 0 < loss.float().mean() < 20


def test_shutter_smears_what_moves(rendered):
    blurred = scenes.SCENES["blur"]
    sharp = scenes.Scene(**{**vars(blurred), "shutter": 0})
    ours, theirs = (scenes.render_scene(scene, **SMALL).truth.float() for scene in (blurred, sharp))
    # The camera goes sideways: the street loses vertical edges, and the far sky nearly nothing.
    change = ours.diff(dim=2).square().mean(dim=(0, 2, 3)) / theirs.diff(dim=2).square().mean(
        dim=(0, 2, 3)
    )
    assert change[50:].mean() < 0.5
    np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=0.01)  # and no light


def see(**looks):
    """The truth of a frame, as this camera sees it."""
    scenery = paint_scenery(145 / 81, 162, 0)
    camera = Camera(81, 145, **{"travel": 0.2, "tilt": 0, "zoom": 1.2, **looks})
    return render_frame(scenery, camera, 0.5, rear=0.6)[1]


def test_pan_moves_the_whole_picture():
    pixels = 7
    moved = see(pan=pixels / (81 * 1.2))
    error = np.abs(moved[:, :-pixels] - see()[:, pixels:])
    assert error.mean() < 0.001  # of 255
    assert error.max() <= 1  # layers are laid over each other in 8 bits


def test_roll_turns_the_picture_about_its_middle():
    turn = cv2.getRotationMatrix2D((72, 40), np.degrees(0.1), 1)
    turned = cv2.warpAffine(see(), turn, (145, 81), flags=cv2.INTER_CUBIC)
    error = np.abs(see(roll=0.1) - turned)[20:60, 30:110]
    assert error.mean() < 3  # resampled once more; a hundredth off in the angle and it is above 4
    assert np.abs(see() - turned)[20:60, 30:110].mean() > 10


def test_size_scales_the_van_about_the_ground():
    scenery = paint_scenery(145 / 81, 162, 0)
    camera = Camera(81, 145, travel=0.2, tilt=0, zoom=1.1)
    touched = [render_frame(scenery, camera, 0, 0.6, size=size)[2] for size in (1, 0.5)]
    widths, bottoms = zip(
        *((np.ptp(t.nonzero()[1]), t.nonzero()[0].max()) for t in touched), strict=True
    )
    assert widths[1] == pytest.approx(widths[0] / 2, abs=2)  # edges are soft
    assert bottoms[1] < bottoms[0]  # a smaller shadow ends nearer to the wheels
