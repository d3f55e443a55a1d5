"""Memory that runs out: less at a time, said once, and no other error taken for it."""

import numpy as np
import pytest

LOGGED = "Out of memory; trying again with less at a time"


def run_out(client, fits, message=""):
    inputs = {"fits": fits, "message": message}
    return client.run(
        {
            "1": {"class_type": "Probe_RunOut", "inputs": inputs},
            "2": {"class_type": "Probe_Save", "inputs": {"value": ["1", 0], "name": "tried"}},
        }
    )


def test_less_is_tried_until_it_fits(server, client):
    before = server.log.count(LOGGED)

    run = run_out(client, 7)

    assert run.succeeded, run.error
    frames, shares = np.load(server.base / "output" / "tried.npy")[0].T
    assert frames[-1] <= 7 < frames[-2]
    assert (np.diff(frames) < 0).all()
    assert (np.diff(shares) < 0).all()
    assert server.log.count(LOGGED) == before + 1


def test_memory_that_never_suffices_is_said(client):
    run = run_out(client, 0)
    assert not run.succeeded
    assert "allocate memory" in run.error


@pytest.mark.parametrize("message", ["unsupported memory format option", "shapes differ"])
def test_other_errors_are_not_tried_again(server, client, message):
    before = server.log.count(LOGGED)
    assert message in run_out(client, 7, message).error
    assert server.log.count(LOGGED) == before


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_devices_say_it_in_many_ways(client, message):
    assert run_out(client, 7, message).succeeded
