import contextlib
import hashlib
import json
import os
import pickle
import random
import stat
import struct

import pytest
import safetensors.torch
import torch

from combcn_core.networks import checkpoint
from combcn_core.networks.checkpoint import ModelInfo, load_model, read_model_info, save_model
from combcn_core.networks.layers import CombCN, NetworkConfig

from ..helpers import assert_same_weights, shrink_networks

FACTS = {"training_steps": 1200, "data": {"name": "Zürich", "clips": [3, 4]}, "loss": 6.25}


@pytest.fixture(autouse=True)
def thin(request, monkeypatch):
    """Two channels per layer: a checkpoint of 100 kB instead of 60 MB."""
    if "full_size" not in request.fixturenames:
        shrink_networks(monkeypatch, 2)


@pytest.fixture
def full_size():
    """The paper's channels."""


def make_model(config=None, seed=0):
    """A model whose every tensor differs from a fresh one's."""
    model = CombCN(config or NetworkConfig(mean_pixel=(0.4, 0.3, 0.2)))
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 1, generator=generator)
        else:
            value.fill_(7)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved.safetensors"
    save_model(path, make_model(), facts=FACTS)
    return path


def read_by_hand(path):
    """The safetensors layout without the library: header length, JSON header, data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def describe(**changes):
    described = {"format_version": 1, "config": NetworkConfig().to_dict(), "facts": {}}
    described.update(changes)
    return {key: value for key, value in described.items() if value is not None}


def craft(path, tensors=None, described=None, digest=None):
    """A file as `save_model` would write it, of whatever content, with a right digest."""
    tensors = make_model(NetworkConfig()).state_dict() if tensors is None else tensors
    if not isinstance(described, str):
        described = json.dumps(describe() if described is None else described)
    expected = hashlib.sha256(described.encode())
    for name in sorted(tensors):
        value = tensors[name]
        expected.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        raw = safetensors.torch.save({"x": value})
        expected.update(raw[8 + struct.unpack("<Q", raw[:8])[0] :])
    metadata = {"combcn": described, "sha256": expected.hexdigest() if digest is None else digest}
    safetensors.torch.save_file(tensors, path, {k: v for k, v in metadata.items() if v})
    return path


# What goes in comes out


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(),
        NetworkConfig(ratio=4, mean_pixel=(0.1, 0.2, 0.3)),
        NetworkConfig(time_stride=True, guidance=False),
        NetworkConfig(input_fill="classical"),
    ],
)
def test_round_trip_is_exact(tmp_path, config):
    model = make_model(config)
    save_model(tmp_path / "m.safetensors", model, facts=FACTS)
    loaded = load_model(tmp_path / "m.safetensors")
    assert_same_weights(loaded, model)
    assert isinstance(loaded, CombCN)
    assert loaded.config == loaded.temporal.config == loaded.detail.config == config
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    clip, mask = torch.rand(1, 3, 2, 9, 8), torch.ones(1, 1, 2, 9, 8)
    with torch.no_grad():
        assert torch.equal(loaded.temporal(clip, mask), model.eval().temporal(clip, mask))


def test_round_trip_at_full_size(full_size, tmp_path):
    model = make_model()
    save_model(tmp_path / "m.safetensors", model, facts={})
    assert_same_weights(load_model(str(tmp_path / "m.safetensors")), model)


def test_channels_last_model_round_trips(tmp_path):
    model = make_model()
    model.detail.to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", model, facts={})
    assert_same_weights(load_model(tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_become_float32(tmp_path, dtype):
    model = make_model().to(dtype)
    save_model(tmp_path / "m.safetensors", model, facts={})
    assert next(model.parameters()).dtype == dtype
    header, _ = read_by_hand(tmp_path / "m.safetensors")
    stored = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    assert stored == {"F16" if dtype == torch.float16 else "BF16", "I64"}
    assert_same_weights(load_model(tmp_path / "m.safetensors"), model.float())


def test_metadata_against_hand_parser(saved):
    header, data = read_by_hand(saved)
    metadata = header.pop("__metadata__")
    assert set(metadata) == {"combcn", "sha256"}
    assert json.loads(metadata["combcn"]) == {
        "format_version": 1,
        "config": {
            "ratio": 2,
            "time_stride": False,
            "guidance": True,
            "input_fill": "mean",
            "mean_pixel": [0.4, 0.3, 0.2],
            "channel_divisor": 1,
            "steady_frames": 0,
        },
        "facts": FACTS,
    }
    state = make_model().state_dict()
    assert header.keys() == state.keys()
    start, end = header["detail.layers.17.conv.bias"]["data_offsets"]
    wanted = struct.pack("<3f", *state["detail.layers.17.conv.bias"].tolist())
    assert data[start:end] == wanted


def test_digest_against_hand_made_file(tmp_path):
    # `craft` has its own digest: if the format changed, old files would stop loading.
    assert_same_weights(load_model(craft(tmp_path / "m.safetensors")), make_model(NetworkConfig()))


def test_read_model_info(saved):
    config = NetworkConfig(mean_pixel=(0.4, 0.3, 0.2))
    assert read_model_info(saved) == ModelInfo(config=config, facts=FACTS, format_version=1)
    assert read_model_info(str(saved)).facts == FACTS


def test_read_model_info_does_not_read_weights(saved):
    content = bytearray(saved.read_bytes())
    content[-100:] = bytes(100)
    saved.write_bytes(content)
    assert read_model_info(saved).facts == FACTS
    with pytest.raises(ValueError, match="not what was written"):
        load_model(saved)


def test_names_resolve_to_the_weights_folder(tmp_path, monkeypatch):
    assert checkpoint.WEIGHTS_FOLDER.parent.name == "networks"
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", weights)
    for seed, name in enumerate(("default", "v1.5")):
        save_model(weights / f"{name}.safetensors", make_model(seed=seed), facts={"name": name})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").write_text("a file of that name here is not meant")
    assert_same_weights(load_model(), make_model(seed=0))
    assert_same_weights(load_model("v1.5"), make_model(seed=1))
    assert read_model_info("v1.5").facts == {"name": "v1.5"}

    save_model("default.safetensors", make_model(seed=2), facts={})
    assert_same_weights(load_model("default.safetensors"), make_model(seed=2))
    with pytest.raises(ValueError, match=r"'best'; pass one of .* \(default, v1\.5\) or the path"):
        load_model("best")


def test_loading_leaves_random_state_alone(saved):
    state = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_model_loaded_under_inference_mode_can_be_trained(saved, dtype):
    # ComfyUI runs its nodes so.
    save_model(saved, make_model().to(dtype), facts={})
    with torch.inference_mode():
        model = load_model(saved)
    model.train().temporal(torch.rand(1, 3, 2, 8, 8), torch.ones(1, 1, 2, 8, 8)).sum().backward()
    assert model.temporal.layers["1"].conv.weight.grad is not None


def test_loaded_model_does_not_hang_on_the_file(saved):
    model = load_model(saved)
    with open(saved, "r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert_same_weights(model, make_model())


def test_saving_leaves_the_model_alone(tmp_path):
    model = make_model().train()
    save_model(tmp_path / "m.safetensors", model, facts={})
    assert model.training
    assert_same_weights(model, make_model())


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_others_may_read_what_was_saved(tmp_path):
    previous = os.umask(0o022)
    try:
        save_model(tmp_path / "m.safetensors", make_model(), facts={})
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o644


# Files that are refused


def changed(name, value):
    state = make_model(NetworkConfig()).state_dict()
    state[name] = value(state[name])
    return state


def without(name):
    state = make_model(NetworkConfig()).state_dict()
    del state[name]
    return state


def with_value(name, number):
    def fill(value):
        value = value.clone()
        value.view(-1)[-1] = number
        return value

    return changed(name, fill)


WEIGHT, BIAS = "temporal.layers.3.conv.weight", "detail.guidance_last.bias"
BAD_BYTES = {
    "empty": b"",
    "short": b"abc",
    "text": b"These are not weights, but a text that somebody wrote." * 20,
    "pickle": pickle.dumps({"state_dict": {}}),
    "huge header": struct.pack("<Q", 2**60) + b"{}",
    "header beyond file": struct.pack("<Q", 5000) + b'{"a": 1}',
    "not JSON": struct.pack("<Q", 4) + b"\xff\xfe{}",
    "deep JSON": struct.pack("<Q", 50000) + b"[" * 50000,
    "no tensors": struct.pack("<Q", 2) + b"{}",
    "terabytes": (
        struct.pack("<Q", 66)
        + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'
        + bytes(4)
    ),
    "html": b"<!DOCTYPE html><html><body>404: Not Found</body></html>",
}


@pytest.mark.parametrize("content", BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_load_rejects_foreign_bytes(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    for read in (load_model, read_model_info):
        with pytest.raises(
            ValueError, match=r"m\.safetensors .*; pass a file that save_model wrote"
        ):
            read(path)
    assert path.read_bytes() == content


def test_load_never_runs_a_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "m.safetensors"
    torch.save({"model": Bomb()}, path)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_model(path)
    assert not (tmp_path / "executed").exists()


BAD_DESCRIPTIONS = {
    "not JSON": ("{", "description is damaged"),
    "a list": ("[]", "description is damaged"),
    "deep": ("[" * 100_000, "description is damaged"),
    "no version": (describe(format_version=None), "description is damaged"),
    "version true": (describe(format_version=True), "description is damaged"),
    "version text": (describe(format_version="1"), "description is damaged"),
    "newer version": (
        describe(format_version=2, config="unknown to us"),
        "format version 2, this CombCN reads up to 1; update CombCN",
    ),
    "version zero": (describe(format_version=0), "description is incomplete"),
    "no config": (describe(config=None), "description is incomplete"),
    "config text": (describe(config="paper"), "description is incomplete"),
    "no facts": (describe(facts=None), "description is incomplete"),
    "facts list": (describe(facts=[1]), "description is incomplete"),
    "config field missing": (describe(config={"ratio": 2}), "has the fields ratio, wanted"),
    "config field unknown": (
        describe(config=NetworkConfig().to_dict() | {"depth": 3}),
        "another version of CombCN",
    ),
    "config value": (
        describe(config=NetworkConfig().to_dict() | {"ratio": 3}),
        "ratio is 3, but the networks exist for 2 and 4",
    ),
    "config mean": (
        describe(config=NetworkConfig().to_dict() | {"mean_pixel": {"red": 1}}),
        "mean_pixel is {'red': 1}; pass three numbers",
    ),
}


@pytest.mark.parametrize(
    ("described", "message"), BAD_DESCRIPTIONS.values(), ids=BAD_DESCRIPTIONS.keys()
)
def test_load_rejects_description(tmp_path, described, message):
    path = craft(tmp_path / "m.safetensors", described=described)
    for read in (load_model, read_model_info):
        with pytest.raises(ValueError, match=r"m\.safetensors cannot be loaded: ") as caught:
            read(path)
        assert message in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_load_rejects_other_models(tmp_path, metadata):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(3)}, path, metadata)
    for read in (load_model, read_model_info):
        with pytest.raises(ValueError, match="holds no CombCN model; pass a file that save_model"):
            read(path)


BAD_TENSORS = {
    "missing": (lambda: without(WEIGHT), f"1 tensors are missing, such as {WEIGHT}; "),
    "none": (lambda: {"a": torch.ones(1)}, "tensors are missing, such as detail."),
    "extra": (
        lambda: make_model(NetworkConfig()).state_dict() | {"detail.bonus": torch.ones(2)},
        "1 tensors are unknown, such as detail.bonus; ",
    ),
    "shape": (
        lambda: changed(WEIGHT, lambda value: value[:, :1].contiguous()),
        f"{WEIGHT} has shape (2, 1, 3, 3, 3), wanted (2, 2, 3, 3, 3); ",
    ),
    "flat": (lambda: changed(BIAS, lambda value: value[None].clone()), "has shape (1, 4), wanted"),
    "integers": (lambda: changed(WEIGHT, lambda value: value.int()), "has type torch.int32"),
    "doubles": (lambda: changed(WEIGHT, lambda value: value.double()), "has type torch.float64"),
    "counter": (
        lambda: changed("temporal.layers.1.norm.num_batches_tracked", lambda value: value.float()),
        "has type torch.float32, wanted torch.int64",
    ),
    "nan": (lambda: with_value(WEIGHT, torch.nan), f"{WEIGHT} holds NaN or infinity; "),
    "inf": (
        lambda: with_value("detail.layers.2.norm.running_var", torch.inf),
        "detail.layers.2.norm.running_var holds NaN or infinity; ",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_load_rejects_tensors(tmp_path, tensors, message):
    path = craft(tmp_path / "m.safetensors", tensors())
    with pytest.raises(ValueError, match=r"m\.safetensors cannot be loaded: ") as caught:
        load_model(path)
    assert message in str(caught.value)


def test_load_rejects_weights_of_another_variant(tmp_path):
    config = NetworkConfig(ratio=4).to_dict()
    path = craft(tmp_path / "m.safetensors", described=describe(config=config | {"ratio": 2}))
    load_model(path)
    plain = config | {"guidance": False}
    craft(path, described=describe(config=plain))
    with pytest.raises(ValueError, match=r"unknown, such as detail\.guidance_first\.bias"):
        load_model(path)


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_load_rejects_edited_weights(tmp_path, digest):
    path = craft(tmp_path / "m.safetensors", digest=digest)
    with pytest.raises(ValueError, match="not what was written; copy or download it again"):
        load_model(path)


def test_load_rejects_missing_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path / "none")
    for path in (tmp_path, tmp_path / "m.safetensors", "m.safetensors", "folder/m", "", "."):
        for read in (load_model, read_model_info):
            with pytest.raises(
                ValueError, match=r"(there is no file|no weights are called) .*; pass"
            ):
                read(path)
    with pytest.raises(ValueError, match=r"'default'; .*\(none in this copy\) or the path of"):
        load_model()


def test_load_survives_damaged_files(saved):
    content, rng, refused = saved.read_bytes(), random.Random(0), 0
    (header,) = struct.unpack("<Q", content[:8])
    original = load_model(saved)
    for number in range(60):
        damaged = bytearray(content)
        region = (8, 8 + header, len(content))[rng.randrange(3)]  # as often in the few first bytes
        if number % 3 == 0:
            del damaged[rng.randrange(region) :]
        elif number % 3 == 1:
            damaged[rng.randrange(region)] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(region)
            damaged[start : start + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
        saved.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            read_model_info(saved)
        try:
            loaded = load_model(saved)
        except ValueError:
            refused += 1
        else:
            assert_same_weights(loaded, original)
            assert loaded.config == original.config
    assert refused >= 58


# Saving: all or nothing


def assert_untouched(saved, content):
    assert saved.read_bytes() == content
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_save_leaves_the_old_file(saved, monkeypatch, step, error):
    content = saved.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_model(saved, make_model(seed=1), facts={})
    assert_untouched(saved, content)


def test_save_replaces_by_a_whole_file_of_the_same_folder(saved, monkeypatch):
    steps, content, fsync, replace = [], saved.read_bytes(), os.fsync, os.replace

    def watch_fsync(descriptor):
        steps.append("fsync")
        fsync(descriptor)

    def watch_replace(source, target):
        steps.append("replace")
        assert source.parent == saved.parent
        assert saved.read_bytes() == content
        assert_same_weights(load_model(source), make_model(seed=1))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    save_model(saved, make_model(seed=1), facts={"new": True})
    assert steps == ["fsync", "replace"]
    assert_same_weights(load_model(saved), make_model(seed=1))
    assert os.listdir(saved.parent) == [saved.name]


def test_save_rejects_broken_models(saved):
    content = saved.read_bytes()
    trained_away, rebuilt = make_model(), make_model()
    with torch.no_grad():
        trained_away.detail.layers["3"].conv.weight[0, 0, 0, 0] = torch.nan
    rebuilt.temporal.layers["13"] = torch.nn.Conv3d(3, 3, 1)
    for model, message in (
        (trained_away, r"cannot be saved: detail\.layers\.3\.conv\.weight holds NaN"),
        (rebuilt, r"cannot be saved: 2 tensors are unknown, such as temporal\.layers\.13\.bias"),
        (
            make_model().double(),
            r"cannot be saved: .* has type torch\.float64, wanted torch\.float32",
        ),
        (make_model().detail, "model is a DetailNet, wanted a CombCN"),
    ):
        with pytest.raises(ValueError, match=message):
            save_model(saved, model, facts={})
    assert_untouched(saved, content)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"loss": float("nan")}, "facts cannot become JSON"),
        ({"data": {1, 2}}, "facts cannot become JSON"),
        ({"path": os}, "facts cannot become JSON"),
        ([1, 2], "facts are a list; pass a dict"),
        (None, "facts are a NoneType; pass a dict"),
    ],
)
def test_save_rejects_facts(saved, facts, message):
    content = saved.read_bytes()
    with pytest.raises(ValueError, match=message):
        save_model(saved, make_model(seed=1), facts=facts)
    assert_untouched(saved, content)


def test_save_rejects_paths(tmp_path):
    with pytest.raises(ValueError, match=r"m\.pt does not end in \.safetensors"):
        save_model(tmp_path / "m.pt", make_model(), facts={})
    with pytest.raises(ValueError, match=r"new is not a folder; create it before saving m"):
        save_model(tmp_path / "new" / "m.safetensors", make_model(), facts={})
    assert os.listdir(tmp_path) == []
