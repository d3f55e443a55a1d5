import pytest
import torch

from combcn_core.masks import bounding_box
from combcn_core.networks.inference import prepare
from combcn_core.networks.jobs import MIN_TILE_PIXELS, default_batch_frames, plan_batches, plan_runs
from combcn_core.networks.layers import CombCN, NetworkConfig

from ..helpers import shrink_networks


@pytest.fixture
def network(monkeypatch):
    """Both networks with few channels: jobs depend on what they cost only."""
    shrink_networks(monkeypatch, 4)
    return prepare(CombCN(NetworkConfig()), precision="fp32")


def forecast(net, job):
    axes = len(net.axes)
    return net.forecast_bytes(job.wanted[-axes:], job.size[-axes:])


def assert_depends_on_nothing_else(net, job, whole):
    """Every layer does for the job what it would do for this part of the whole."""
    axes = len(net.axes)
    alone = net.plan(job.wanted[-axes:], job.size[-axes:])
    within = net.plan(job.write[-axes:], whole)
    for pair in zip(alone, within, strict=True):
        for one, two in zip(*pair, strict=True):
            assert one.read.length == two.read.length
            assert one.zeros == two.zeros


def covered(masks, jobs):
    result = torch.zeros_like(masks)
    for job in jobs:
        result[tuple(slice(*span) for span in job.write)] = True
    return result


def test_batches_are_of_jobs_that_are_alike(network):
    masks = torch.zeros(9, 500, 900, dtype=torch.bool)
    for t in range(9):  # drifts inside the frame, by less than the grid and by more
        masks[t, 200 + t : 240 + t, 300 + 16 * t : 340 + 16 * t] = True
    masks[4] = False
    batches = plan_batches(network.detail, masks, memory_bytes=2**40, batch_frames=3)
    for batch in batches:
        assert len({(job.wanted, job.size) for job in batch}) == 1
    assert max(map(len, batches)) == 3
    jobs = [job for batch in batches for job in batch]
    assert sorted(job.write[0].start for job in jobs) == [0, 1, 2, 3, 5, 6, 7, 8]
    for job in jobs:
        assert_depends_on_nothing_else(network.detail, job, (500, 900))
    assert not (masks & ~covered(masks, jobs)).any()


def test_far_holes_are_boxes_of_their_own(network):
    masks = torch.zeros(1, 700, 1600, dtype=torch.bool)
    masks[0, 20:40, 30:50] = masks[0, 650:680, 1500:1540] = True
    batches = plan_batches(network.detail, masks, memory_bytes=2**40, batch_frames=1)
    assert len(batches) == 2
    masks[0, 20:40, 100:120] = True  # near the first
    assert len(plan_batches(network.detail, masks, memory_bytes=2**40, batch_frames=1)) == 2


@pytest.mark.parametrize("batch_frames", [1, 8])
def test_batches_and_tiles_fit_into_memory(network, batch_frames):
    masks = torch.zeros(3, 900, 1300, dtype=torch.bool)
    masks[:, 100:800, 90:1200] = True
    masks[:, 300:700, 300:900] = False  # nothing to do for a tile here
    net = network.detail
    limit = 2**24
    assert (
        max(
            forecast(net, batch[0])
            for batch in plan_batches(net, masks, memory_bytes=2**40, batch_frames=1)
        )
        > 2 * limit
    )
    batches = plan_batches(net, masks, memory_bytes=limit, batch_frames=batch_frames)
    assert all(len(batch) * forecast(net, batch[0]) <= limit for batch in batches)
    jobs = [job for batch in batches for job in batch]
    assert not (masks & ~covered(masks, jobs)).any()
    assert not covered(masks, jobs)[:, 450:550, 500:700].any()
    for job in jobs:
        assert_depends_on_nothing_else(net, job, (900, 1300))


def test_tiles_end_where_they_are_hardly_more_than_context(network):
    masks = torch.ones(1, 300, 300, dtype=torch.bool)
    batches = plan_batches(network.detail, masks, memory_bytes=1, batch_frames=1)
    jobs = [job for batch in batches for job in batch]
    assert {span.length for job in jobs for span in job.write[1:]} == {MIN_TILE_PIXELS, 300 % 128}


@pytest.mark.parametrize(("limit", "most"), [(2**40, 1), (48 * 2**20, 9)])
def test_runs_cover_the_holes_and_fit_into_memory(network, limit, most):
    masks = torch.zeros(60, 128, 228, dtype=torch.bool)
    for t in range(18, 50):
        masks[t, 30:50, 20 + 4 * t : 40 + 4 * t] = True
    masks[22:24] = False
    net = network.temporal
    jobs = plan_runs(net, masks, wanted=(13, 45), memory_bytes=limit)
    assert 1 <= len(jobs) <= most
    assert (len(jobs) == 1) == (limit == 2**40)
    for job in jobs:
        assert_depends_on_nothing_else(net, job, masks.shape)
        run = masks[slice(*job.write[0])]
        box = bounding_box(run)
        assert (job.write[1], job.write[2]) == ((box.top, box.bottom), (box.left, box.right))
        assert run[0].any()
        assert run[-1].any()
        assert forecast(net, job) <= limit
    everything = covered(masks, jobs)
    assert not (masks[13:45] & ~everything[13:45]).any()
    assert not everything[45:].any()


def test_no_holes_are_no_jobs(network):
    masks = torch.zeros(3, 40, 50, dtype=torch.bool)
    assert plan_batches(network.detail, masks, memory_bytes=1, batch_frames=1) == []
    assert plan_runs(network.temporal, masks, wanted=(0, 3), memory_bytes=1) == []


def test_a_gpu_gets_more_frames_than_a_cpu():
    assert default_batch_frames(torch.device("cpu")) == 1
    assert default_batch_frames(torch.device("cuda")) > 1
