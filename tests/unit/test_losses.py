"""The losses against the paper's equations, written out as loops over pixels."""

import numpy as np
import pytest
import torch

from combcn_core.training.losses import detail_loss, temporal_loss, total_loss

SHAPE = (2, 3, 4, 5, 7)  # B, C, T, H, W


def make_clips(seed=0):
    """Prediction, target and a mask with holes of unequal size in every frame."""
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(0.5, 0.4, (2, *SHAPE)).astype(np.float32)
    mask = rng.random((SHAPE[0], 1, *SHAPE[2:])) < rng.uniform(0.1, 0.9, (SHAPE[0], 1, 4, 1, 1))
    return torch.from_numpy(prediction), torch.from_numpy(target), torch.from_numpy(mask)


def norm_of_hole(values, mask):
    """|| M * values ||_1 of (C, T, H, W) values and (T, H, W) holes, in Python's doubles."""
    total = 0.0
    for channel in values:
        for t, y, x in np.ndindex(mask.shape):
            if mask[t, y, x]:
                total += abs(float(channel[t, y, x]))
    return total


def error_of_hole(prediction, target, mask):
    """One clip's fraction of Eq. 1; 0 where there is no hole."""
    difference = prediction.astype(np.float64) - target
    area = norm_of_hole(np.ones_like(difference), mask)
    return norm_of_hole(difference, mask) / area if area else 0.0


def test_temporal_loss_against_equation_1():
    prediction, target, mask = make_clips()
    clips = zip(prediction.numpy(), target.numpy(), mask[:, 0].numpy(), strict=True)
    expected = np.mean([error_of_hole(*clip) for clip in clips])
    # Sums of some 200 numbers in float32.
    assert temporal_loss(prediction, target, mask).item() == pytest.approx(expected, rel=1e-5)


def test_detail_loss_against_equation_2():
    prediction, target, mask = make_clips()
    errors = [
        error_of_hole(
            prediction[b, :, t : t + 1].numpy(),
            target[b, :, t : t + 1].numpy(),
            mask[b, 0, t : t + 1].numpy(),
        )
        for b in range(SHAPE[0])
        for t in range(SHAPE[2])
    ]
    loss = detail_loss(prediction, target, mask)
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-5)
    # Frames with small holes count as much as others: the two equations differ.
    assert loss.item() != pytest.approx(temporal_loss(prediction, target, mask).item(), rel=1e-3)


def test_total_loss_against_equation_3():
    temporal, detail = torch.tensor(0.25), torch.tensor(0.5)
    assert total_loss(temporal, detail).item() == 0.75
    assert total_loss(temporal, detail, alpha=3.0).item() == 1.75


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
def test_loss_is_the_error_per_pixel_and_channel(loss):
    # A constant error is the loss, whatever the size of the hole: the scale of the paper's tables.
    target = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        mask = make_clips(seed)[2]
        assert loss(target - 0.125, target, mask).item() == pytest.approx(0.125, rel=1e-5)


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
def test_known_pixels_count_for_nothing(loss):
    prediction, target, mask = make_clips()
    expected = loss(prediction, target, mask)
    elsewhere = torch.where(mask, prediction, 1e6)
    assert loss(elsewhere, target, mask) == expected
    elsewhere.requires_grad_()
    loss(elsewhere, target, mask).backward()
    assert not elsewhere.grad[(~mask).expand(SHAPE)].any()
    assert elsewhere.grad[mask.expand(SHAPE)].all()


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
def test_clip_without_a_hole_has_no_loss_and_no_gradient(loss):
    prediction, target, _ = make_clips()
    prediction.requires_grad_()
    value = loss(prediction, target, torch.zeros(2, 1, *SHAPE[2:], dtype=torch.bool))
    value.backward()
    assert value == 0
    assert torch.equal(prediction.grad, torch.zeros(SHAPE))


def test_frame_and_clip_without_a_hole_count_as_zero():
    prediction, target, mask = make_clips()
    mask[0, :, 1:] = False
    mask[1] = False
    clip = error_of_hole(prediction[0].numpy(), target[0].numpy(), mask[0, 0].numpy())
    assert temporal_loss(prediction, target, mask).item() == pytest.approx(clip / 2, rel=1e-5)
    assert detail_loss(prediction, target, mask).item() == pytest.approx(clip / 8, rel=1e-5)


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
def test_one_pixel_hole(loss):
    prediction, target, mask = make_clips()
    mask[:] = False
    mask[..., 2, 3] = True  # in every frame
    expected = (prediction - target)[..., 2, 3].abs().mean().item()
    assert loss(prediction, target, mask).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
def test_mask_may_be_of_any_type(loss):
    prediction, target, mask = make_clips()
    expected = loss(prediction, target, mask)
    for dtype in (torch.uint8, torch.float32):
        assert loss(prediction, target, mask.to(dtype)) == expected


@pytest.mark.parametrize("loss", [temporal_loss, detail_loss])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p, t, m: (p, t[:, :, :3], m),
        lambda p, t, m: (p, t, m[:, :, :3]),
        lambda p, t, m: (p, t, m[:1]),
        lambda p, t, m: (p, t, m.expand(SHAPE)),
        lambda p, t, m: (p[:, :, 0], t[:, :, 0], m[:, :, 0]),
    ],
    ids=["frames of target", "frames of mask", "clips of mask", "channels of mask", "no frames"],
)
def test_loss_rejects_shapes_that_do_not_fit(loss, spoil):
    with pytest.raises(ValueError, match=r"pass \(B, 3, T, H, W\) twice, and \(B, 1, T, H, W\)"):
        loss(*spoil(*make_clips()))
