"""What the nodes compute is what the library computes, bit for bit, wired in whatever way."""

import numpy as np
import pytest
import torch

from combcn_core import InpaintConfig, inpaint, load_model, save_model
from combcn_core.demo import load_demo
from combcn_core.networks.layers import CombCN, NetworkConfig

SETTINGS = {"grow_pixels": 0, "reach": 48, "feather_pixels": 0, "match_grain": True}


def make_model(fill):
    """Fresh networks of which every layer matters; a classical one would leave its fill alone."""
    torch.manual_seed(0)
    model = CombCN(NetworkConfig(input_fill=fill))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def clip(server):
    """(T, H, W, 3) and (T, H, W); the server has both as clip.npy and holes.npy."""
    demo = load_demo(5, 45)
    images = torch.from_numpy(demo.images).float() / 255
    masks = torch.from_numpy(demo.masks)
    for name, tensor in (("clip", images), ("holes", masks.float())):
        np.save(server.base / "input" / f"{name}.npy", tensor.numpy())
    return images, masks


@pytest.fixture(scope="module", params=["mean", "classical"])
def fill(request, server):
    folder = server.base / "models" / "combcn"
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / f"{request.param}.safetensors", make_model(request.param), facts={})
    return request.param


def sources(fill=None):
    prompt = {
        "images": {"class_type": "Probe_LoadImages", "inputs": {"name": "clip"}},
        "mask": {"class_type": "Probe_LoadMask", "inputs": {"name": "holes"}},
    }
    if fill:
        inputs = {"name": f"{fill}.safetensors", "precision": "auto"}
        prompt["model"] = {"class_type": "CombCN_LoadModel", "inputs": inputs}
    return prompt


def outcome(server, client, prompt, *ends):
    """The tensors at these outputs of a graph."""
    prompt = dict(prompt)
    for number, end in enumerate(ends):
        inputs = {"value": end, "name": f"end_{number}"}
        prompt[f"end_{number}"] = {"class_type": "Probe_Save", "inputs": inputs}
    run = client.run(prompt)
    assert run.succeeded, run.error
    return [
        torch.from_numpy(np.load(server.base / "output" / f"end_{number}.npy"))
        for number in range(len(ends))
    ]


@pytest.mark.parametrize("unseen", ["texture", "smooth"])
@pytest.mark.parametrize("propagates", [True, False], ids=["propagation", "paper"])
def test_stages_give_what_inpaint_gives(server, client, clip, fill, propagates, unseen):
    model, images, mask = ["model", 0], ["images", 0], ["mask", 0]
    prompt = sources(fill)
    inputs = {"model": model, "images": images, "mask": mask, "propagate": propagates, **SETTINGS}
    inputs["unseen"] = unseen
    prompt["one"] = {"class_type": "CombCN_Inpaint", "inputs": inputs}
    textured = unseen == "texture"  # then grain comes last, after texture
    detail = {"match_grain": not textured, "fill_first": not propagates}
    if propagates:
        inputs = {"images": images, "mask": mask, "reach": 48, "painted_frame": 0}
        prompt["propagated"] = {"class_type": "CombCN_Propagate", "inputs": inputs}
        images, mask = ["propagated", 0], ["propagated", 1]
        detail["removed"] = ["mask", 0]
    stage = {"model": model, "images": images, "mask": mask, "fill_first": not propagates}
    prompt["coarse"] = {"class_type": "CombCN_Temporal", "inputs": stage}
    inputs = {"coarse": ["coarse", 0], "reference": images, "ratio": 2}
    inputs |= {"method": "bicubic", "factor": 1.0}
    prompt["guidance"] = {"class_type": "CombCN_UpsampleGuidance", "inputs": inputs}
    inputs = {**stage, **detail, "guidance": ["guidance", 0]}
    prompt["detail"] = {"class_type": "CombCN_SpatialDetail", "inputs": inputs}
    if textured:
        inputs = {"images": images, "mask": mask, "start": ["detail", 0], "match_grain": True}
        inputs["removed"] = ["mask", 0]
        prompt["texture"] = {"class_type": "CombCN_SynthesizeTexture", "inputs": inputs}

    last = "texture" if textured else "detail"
    one, staged = outcome(server, client, prompt, ["one", 0], [last, 0])

    assert torch.equal(one, staged)
    known = ~clip[1]
    assert torch.equal(one[known], clip[0][known])
    path = server.base / "models" / "combcn" / f"{fill}.safetensors"
    config = InpaintConfig(propagate=propagates, unseen=unseen)
    assert torch.equal(one, inpaint(*clip, load_model(path), config))
    plain = inpaint(*clip, None, config)
    assert (one - plain).abs().max() > 1 / 255  # the networks did work
