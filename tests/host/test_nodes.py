"""Every node in a real ComfyUI: what it asks for, what it gives, and how it says no."""

import itertools
import os
import time

import cv2
import numpy as np
import pytest
import torch

import combcn_core
from combcn_core.demo import load_demo
from combcn_core.masks import grow
from combcn_core.training.holes import HOLE_KINDS, make_holes

from .client import Refused, Run
from .conftest import random_model

FRAMES, HEIGHT, WIDTH = 5, 40, 72  # 16:9, as the sample clip

# Sockets and widgets in the order in which workflows store their values, then the outputs. What is
# here once released stays: a workflow of a user depends on it.
NODES = {
    "CombCN_LoadModel": (
        "name:COMBO precision:COMBO",
        "COMBCN_MODEL STRING",
    ),
    "CombCN_SaveModel": (
        "model:COMBCN_MODEL filename_prefix:STRING",
        "STRING",
    ),
    "CombCN_SampleClip": (
        "frames:INT height:INT seed:INT",
        "IMAGE MASK IMAGE AUDIO FLOAT",
    ),
    "CombCN_PrepareMask": (
        "images:IMAGE grow_pixels:INT threshold:FLOAT invert:BOOLEAN resize:BOOLEAN mask:MASK? "
        "mask_images:IMAGE? merge:COMBO? channel:COMBO?",
        "MASK IMAGE",
    ),
    "CombCN_LoadMaskSequence": (
        "images:IMAGE folder:COMBO missing:COMBO resize:BOOLEAN",
        "MASK IMAGE",
    ),
    "CombCN_PaintMask": (
        "images:IMAGE frame:INT image:STRING start:MASK? masks:MASK? frames:STRING?",
        "MASK STRING",
    ),
    "CombCN_FollowMask": (
        "images:IMAGE mask:MASK frames:STRING",
        "MASK IMAGE STRING",
    ),
    "CombCN_TakeShadows": (
        "images:IMAGE mask:MASK",
        "MASK IMAGE STRING",
    ),
    "CombCN_MakeHoles": (
        "images:IMAGE kind:COMBO seed:INT",
        "MASK IMAGE",
    ),
    "CombCN_Propagate": (
        "images:IMAGE mask:MASK reach:INT painted_frame:INT painted:IMAGE?",
        "IMAGE MASK",
    ),
    "CombCN_Temporal": (
        "model:COMBCN_MODEL images:IMAGE mask:MASK fill_first:BOOLEAN",
        "IMAGE",
    ),
    "CombCN_UpsampleGuidance": (
        "coarse:IMAGE method:COMBO ratio:INT factor:FLOAT reference:IMAGE?",
        "IMAGE",
    ),
    "CombCN_SpatialDetail": (
        "model:COMBCN_MODEL images:IMAGE mask:MASK fill_first:BOOLEAN match_grain:BOOLEAN "
        "guidance:IMAGE? removed:MASK?",
        "IMAGE",
    ),
    "CombCN_SynthesizeTexture": (
        "images:IMAGE mask:MASK match_grain:BOOLEAN start:IMAGE? removed:MASK?",
        "IMAGE",
    ),
    "CombCN_Inpaint": (
        "images:IMAGE mask:MASK grow_pixels:INT propagate:BOOLEAN reach:INT feather_pixels:INT "
        "match_grain:BOOLEAN model:COMBCN_MODEL? unseen:COMBO?",
        "IMAGE STRING",
    ),
    "CombCN_InpaintVideo": (
        "video:VIDEO grow_pixels:INT propagate:BOOLEAN reach:INT feather_pixels:INT "
        "match_grain:BOOLEAN resize_mask:BOOLEAN master:COMBO filename_prefix:STRING mask:MASK? "
        "mask_video:VIDEO? model:COMBCN_MODEL? unseen:COMBO?",
        "VIDEO STRING STRING",
    ),
    "CombCN_JointTrainer": (
        "name:STRING footage:COMBO networks:COMBO stages:COMBO pretrain_steps:INT steps:INT "
        "minutes:FLOAT learning_rate:FLOAT holes:COMBO size:INT clip_length:INT batch:INT "
        "detail_frames:INT seed:INT images:IMAGE? mask:MASK? model:COMBCN_MODEL?",
        "COMBCN_MODEL IMAGE STRING IMAGE",
    ),
    "CombCN_Evaluate": (
        "truth:IMAGE mask:MASK images_1:IMAGE names:STRING images_2:IMAGE? images_3:IMAGE? "
        "images_4:IMAGE?",
        "STRING IMAGE",
    ),
    "CombCN_Compare": (
        "images_1:IMAGE names:STRING height:FLOAT images_2:IMAGE? images_3:IMAGE? images_4:IMAGE? "
        "mask:MASK?",
        "IMAGE IMAGE IMAGE",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """Tensors for the probe, and a model beside the default one."""
    clip = load_demo(FRAMES, HEIGHT)
    images = clip.images.astype(np.float32) / 255
    alpha = np.linspace(0, 1, images[..., :1].size, dtype=np.float32).reshape(*images.shape[:3], 1)
    tensors = {
        "images": images,
        "mask": clip.masks.astype(np.float32),
        "rgba": np.concatenate([images, alpha], axis=-1),
        "half": images.astype(np.float16),
        "one_frame": images[:1],
        "one_mask": clip.masks[:1].astype(np.float32),
        "short_mask": clip.masks[:3].astype(np.float32),
        "no_alpha": np.zeros((1, 64, 64), np.float32),
        "painted": clip.truth[2:3].astype(np.float32) / 255,
    }
    for name, value in tensors.items():
        np.save(server.base / "input" / f"{name}.npy", value)
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


@pytest.fixture(scope="module")
def model(server):
    path = server.base / "models" / "combcn" / "random.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    combcn_core.save_model(path, random_model(), facts={"training_steps": 0})
    return combcn_core.load_model(path)


# Graphs


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def source(name="images", mask="mask"):
    """Images at node i, a mask at node m, the model at node n."""
    return {
        "i": node("Probe_LoadImages", name=name),
        "m": node("Probe_LoadMask", name=mask),
        "n": node("CombCN_LoadModel", name="random.safetensors", precision="auto"),
    }


def inpaint(**settings):
    form = {"grow_pixels": 0, "propagate": True, "reach": 48, "feather_pixels": 0}
    form |= {"images": ["i", 0], "mask": ["m", 0], "match_grain": True}
    return node("CombCN_Inpaint", **(form | settings))


def inpaint_video(**settings):
    form = {"grow_pixels": 0, "propagate": True, "reach": 48, "feather_pixels": 0}
    form |= {"match_grain": True, "resize_mask": False, "master": "FFV1 (.mkv)"}
    form |= {"video": ["v", 0], "mask": ["m", 0], "filename_prefix": "video/master"}
    return node("CombCN_InpaintVideo", **(form | settings))


def temporal(**settings):
    form = {"model": ["n", 0], "images": ["i", 0], "mask": ["m", 0], "fill_first": True}
    return node("CombCN_Temporal", **(form | settings))


def guidance(**settings):
    form = {"coarse": ["t", 0], "reference": ["i", 0], "method": "bicubic"}
    return node("CombCN_UpsampleGuidance", **(form | {"ratio": 2, "factor": 2.0} | settings))


def detail(**settings):
    form = {"model": ["n", 0], "images": ["i", 0], "mask": ["m", 0], "guidance": ["u", 0]}
    form |= {"fill_first": True, "match_grain": True}
    return node("CombCN_SpatialDetail", **(form | settings))


def propagate(**settings):
    form = {"images": ["i", 0], "mask": ["m", 0], "reach": 48, "painted_frame": 0}
    return node("CombCN_Propagate", **(form | settings))


STAGES = {"t": temporal(), "u": guidance(), "d": detail()}


class Bench:
    """Runs graphs and takes tensors out of them."""

    def __init__(self, server, client):
        self._folder = server.base / "output"
        self._client = client
        self._names = (f"result_{number}" for number in itertools.count())

    def __call__(self, graph, *ends):
        """The values at the ends, each (node, output)."""
        names = {next(self._names): end for end in ends}
        saves = {
            name: node("Probe_Save", value=list(end), name=name) for name, end in names.items()
        }
        run = self._client.run(graph | saves)
        assert run.succeeded, run.error
        values = [torch.from_numpy(np.load(self._folder / f"{name}.npy")) for name in names]
        return values[0] if len(values) == 1 else values


@pytest.fixture(scope="module")
def bench(server, client):
    return Bench(server, client)


# Forms


def test_pack_has_its_nodes(object_info):
    ours = {name for name, info in object_info.items() if "CombCN" in info["python_module"]}

    assert ours == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_node_types(name, object_info):
    info = object_info[name]
    inputs = [
        f"{field}:{kind(info, group, field)}{'?' if group == 'optional' else ''}"
        for group in ("required", "optional")
        for field in info["input_order"].get(group, [])
    ]

    assert (" ".join(inputs), " ".join(info["output"])) == NODES[name]


def kind(info, group, field):
    named = info["input"][group][field][0]
    return "COMBO" if isinstance(named, list) else named


@pytest.mark.parametrize("name", NODES)
def test_node_has_a_name_and_a_place(name, object_info):
    info = object_info[name]

    assert info["category"] == "CombCN"
    assert info["display_name"].startswith("CombCN ")
    assert info["description"]


@pytest.mark.parametrize("name", NODES)
def test_node_ranges(name, object_info):
    for field, (named, options) in fields(object_info[name]):
        if named in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"], field
        if named == "COMBO":
            assert options.get("default", options["options"][0]) in options["options"], field
        if named in ("BOOLEAN", "STRING"):
            assert "default" in options, field


def fields(info):
    for group in ("required", "optional"):
        yield from info["input"].get(group, {}).items()


@pytest.mark.parametrize(("field", "value"), [("grow_pixels", -1), ("reach", 0), ("reach", 241)])
def test_value_out_of_range_is_refused(field, value, client):
    graph = source() | {"a": inpaint(**{field: value}), "s": node("Probe_Save", value=["a", 0])}
    graph["s"]["inputs"]["name"] = "unused"

    with pytest.raises(Refused) as refused:
        client.run(graph)

    assert "a" in refused.value.errors


def test_workflows_are_offered_as_templates(client):
    templates = client.get("/workflow_templates")

    assert "quick_removal" in templates["ComfyUI-CombCN"]


# The same as the library, bit for bit: same weights, same machine, same number of threads


# Without `unseen` too, as it came after the first release.
@pytest.mark.parametrize("added", [{}, {"unseen": "texture"}, {"unseen": "smooth"}], ids=str)
def test_inpaint_against_library(added, bench, files):
    result = bench(source() | {"a": inpaint(grow_pixels=2, **added)}, ("a", 0))

    config = combcn_core.InpaintConfig(grow_pixels=2, **added)
    expected = combcn_core.inpaint(files["images"], files["mask"], config=config)
    assert torch.equal(result, expected)


def test_inpaint_says_what_it_did(client, files):
    graph = source() | {"a": inpaint(propagate=False), "r": node("PreviewAny", source=["a", 1])}

    (text,) = client.run(graph).outputs["r"]["text"]

    assert "0.0% of the hole from other frames; 100.0% was seen in none and is texture" in text
    assert "0 pixels changed outside the mask" in text
    assert "a larger reach" in text


def test_nodes_say_what_they_found_on_themselves(client, files):
    """The last line that each leaves is what it gives as text."""
    graph = source() | {
        "a": inpaint(grow_pixels=1),
        "f": node("CombCN_FollowMask", images=["i", 0], mask=["m", 0], frames="0, 4"),
        "t": node("CombCN_TakeShadows", images=["i", 0], mask=["m", 0]),
        "x": node("CreateVideo", images=["i", 0], fps=25.0),
        "v": inpaint_video(video=["x", 0]),
    }
    outputs = {"a": 1, "f": 2, "t": 2, "v": 2}
    graph |= {f"p{key}": node("PreviewAny", source=[key, at]) for key, at in outputs.items()}

    run = client.run(graph)

    assert run.succeeded, run.error
    for key in outputs:
        assert run.lines[key][-1] == run.outputs[f"p{key}"]["text"][0]
    on_the_way = run.lines["v"][:-1]
    assert {"finding motion", "filling"} <= {line.split(",")[0] for line in on_the_way}
    assert all(line.endswith(f" of {FRAMES} frames written") for line in on_the_way)


def test_propagate_against_library(bench, files):
    filled, remaining = bench(source() | {"p": propagate()}, ("p", 0), ("p", 1))

    expected, rest = combcn_core.propagate(files["images"], files["mask"])
    assert torch.equal(filled, expected)
    assert torch.equal(remaining, rest.float())


def test_painted_frame_is_a_source(bench, files):
    graph = source() | {
        "f": node("Probe_LoadImages", name="painted"),
        "p": propagate(painted=["f", 0], painted_frame=2),
    }
    filled, remaining = bench(graph, ("p", 0), ("p", 1))

    images, mask = files["images"].clone(), files["mask"].clone()
    images[2] = torch.where(mask[2, ..., None] > 0, files["painted"][0], images[2])
    mask[2] = 0
    expected, rest = combcn_core.propagate(images, mask)
    assert torch.equal(filled, expected)
    assert torch.equal(remaining, rest.float())
    assert torch.equal(filled[2], images[2])


def test_stages_against_library(bench, files, model):
    coarse, guide, result = bench(source() | STAGES, ("t", 0), ("u", 0), ("d", 0))

    holes = files["mask"] > 0
    start = combcn_core.fill_rest(files["images"], holes)
    expected = combcn_core.infer_temporal(model, start, holes)
    assert torch.equal(coarse, expected)
    expected = combcn_core.upsample_guidance(expected, (-(-HEIGHT // 2), -(-WIDTH // 2)))
    assert torch.equal(guide, expected)
    assert torch.equal(result[~holes], files["images"][~holes])


@pytest.mark.parametrize("grain", [True, False], ids=["grain", "plain"])
def test_synthesize_texture_against_library(grain, bench, files):
    form = {"images": ["p", 0], "mask": ["p", 1], "removed": ["m", 0], "match_grain": grain}
    graph = source() | {"p": propagate(), "x": node("CombCN_SynthesizeTexture", **form)}

    result = bench(graph, ("x", 0))

    config = combcn_core.InpaintConfig(match_grain=grain)
    expected = combcn_core.inpaint(files["images"], files["mask"], config=config)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_upsample_guidance_against_library(method, bench, files):
    graph = source() | {"u": guidance(coarse=["i", 0], method=method, factor=1.5)}
    del graph["u"]["inputs"]["reference"]

    result = bench(graph, ("u", 0))

    size = (round(HEIGHT * 1.5), round(WIDTH * 1.5))
    assert torch.equal(result, combcn_core.upsample_guidance(files["images"], size, method=method))


@pytest.mark.parametrize("kind", HOLE_KINDS)
def test_make_holes_against_library(kind, bench):
    graph = source() | {"h": node("CombCN_MakeHoles", images=["i", 0], kind=kind, seed=3)}

    holes, cut = bench(graph, ("h", 0), ("h", 1))

    expected = make_holes(kind, FRAMES, HEIGHT, WIDTH, 3)
    assert torch.equal(holes, expected.float())
    assert (cut[expected] == 0.5).all()


@pytest.mark.parametrize(
    "added", [{"merge": "no", "channel": "brightest"}, {}], ids=["all inputs", "as first released"]
)
def test_prepare_mask_against_library(added, bench, files):
    form = {"grow_pixels": 3, "threshold": 0.5, "invert": False, "resize": False} | added
    graph = source() | {"g": node("CombCN_PrepareMask", images=["i", 0], mask=["m", 0], **form)}

    assert torch.equal(bench(graph, ("g", 0)), grow(files["mask"] > 0, 3).float())


@pytest.fixture(scope="module")
def mask_folder(server, files):
    """A folder with the masks of the clip as images, in ComfyUI's input folder."""
    folder = server.base / "input" / "masks"
    folder.mkdir()
    for number, mask in enumerate(files["mask"].numpy()):
        cv2.imwrite(str(folder / f"{number:03d}.png"), (mask * 255).astype(np.uint8))
    return folder


def sequence(**settings):
    form = {"images": ["i", 0], "folder": "masks", "missing": "refuse", "resize": False}
    return node("CombCN_LoadMaskSequence", **(form | settings))


def test_load_mask_sequence(bench, files, mask_folder):
    assert torch.equal(bench(source() | {"g": sequence()}, ("g", 0)), files["mask"])


@pytest.mark.parametrize("folder", ["lost", "..", "../output"])
def test_load_mask_sequence_stays_within_the_input_folder(folder, client, mask_folder):
    graph = source() | {"g": sequence(folder=folder)}
    graph["s"] = node("Probe_Save", value=["g", 0], name="unused")

    with pytest.raises(Refused) as refused:
        client.run(graph)

    (error,) = refused.value.errors["g"]["errors"]
    assert f"there is no folder {folder!r} in ComfyUI's input folder" in error["details"]


def test_take_shadows_against_library(bench, files):
    graph = source() | {"g": node("CombCN_TakeShadows", images=["i", 0], mask=["m", 0])}

    expected = combcn_core.take_shadows(files["images"], files["mask"]).masks
    assert torch.equal(bench(graph, ("g", 0)), expected.float())


@pytest.mark.parametrize("channel", ["red", "luma", "brightest"])
def test_prepare_mask_from_a_channel_of_images(channel, bench, files):
    form = {"grow_pixels": 0, "threshold": 0.5, "invert": True, "resize": False, "merge": "no"}
    inputs = {"images": ["i", 0], "mask_images": ["i", 0], "channel": channel}
    graph = source() | {"g": node("CombCN_PrepareMask", **inputs, **form)}

    values = {
        "red": files["images"][..., 0],
        "luma": files["images"] @ torch.tensor([0.2126, 0.7152, 0.0722]),
        "brightest": files["images"].amax(-1),
    }[channel]
    assert torch.equal(bench(graph, ("g", 0)), (values < 0.5).float())


def test_prepare_mask_merges_objects(bench, files):
    form = {"grow_pixels": 0, "threshold": 0.5, "invert": False, "resize": False}
    form |= {"merge": "objects of each frame", "channel": "brightest"}
    graph = source() | {
        "b": node("RepeatImageBatch", image=["i", 0], amount=2),
        "c": node("ImageToMask", image=["b", 0], channel="red"),
        "g": node("CombCN_PrepareMask", images=["i", 0], mask=["c", 0], **form),
    }

    red = files["images"][..., 0].repeat(2, 1, 1).reshape(FRAMES, 2, HEIGHT, WIDTH)
    assert torch.equal(bench(graph, ("g", 0)), (red.amax(dim=1) >= 0.5).float())


def test_follow_mask_against_library(bench, files):
    form = {"images": ["i", 0], "mask": ["m", 0], "frames": "0, 3"}
    graph = source() | {"g": node("CombCN_FollowMask", **form)}

    expected, _ = combcn_core.follow_masks(files["images"], files["mask"][[0, 3]], [0, 3])
    assert torch.equal(bench(graph, ("g", 0)), expected.float())


def test_sample_clip_against_library(bench):
    graph = {"c": node("CombCN_SampleClip", frames=3, height=54, seed=1)}

    images, mask, truth = bench(graph, ("c", 0), ("c", 1), ("c", 2))

    expected = load_demo(3, 54, seed=1)
    assert np.array_equal(images, expected.images.astype(np.float32) / 255)
    assert np.array_equal(mask, expected.masks)
    assert np.array_equal(truth, expected.truth.astype(np.float32) / 255)


def test_saved_model_is_the_loaded_one(bench, client, model):
    graph = source() | {
        "s": node("CombCN_SaveModel", model=["n", 0], filename_prefix="copies/saved"),
        "a": inpaint(model=["n", 0]),
    }
    expected = bench(graph, ("a", 0))

    options = client.get("/object_info/CombCN_LoadModel")["CombCN_LoadModel"]["input"]["required"]
    saved = os.path.join("copies", "saved_00001_.safetensors")
    assert saved in options["name"][1]["options"]
    graph["n"]["inputs"]["name"] = saved
    assert torch.equal(bench(graph, ("a", 0)), expected)


# Input that is unusual, and input that is wrong


def test_alpha_is_left_out(bench):
    plain = bench(source() | {"a": inpaint()}, ("a", 0))

    assert torch.equal(bench(source("rgba") | {"a": inpaint()}, ("a", 0)), plain)


def test_half_precision_is_taken(bench, files):
    result = bench(source("half") | {"a": inpaint()}, ("a", 0))

    assert result.dtype == torch.float32
    assert torch.equal(result, combcn_core.inpaint(files["half"].float(), files["mask"]))


def test_one_frame_is_taken(bench, files, model):
    graph = source("one_frame", "one_mask") | STAGES | {"a": inpaint(model=["n", 0])}

    by_hand, in_one = bench(graph, ("d", 0), ("a", 0))

    assert in_one.shape == by_hand.shape == (1, HEIGHT, WIDTH, 3)
    known = files["one_mask"] == 0
    assert torch.equal(in_one[known], files["one_frame"][known])


def test_one_mask_serves_all_frames(bench, files):
    result = bench(source(mask="one_mask") | {"a": inpaint()}, ("a", 0))

    assert torch.equal(result, combcn_core.inpaint(files["images"], files["one_mask"][0]))


MISUSE = {
    "mask of another length": (source(mask="short_mask"), inpaint(), "mask has 3 frames"),
    "no alpha": (source(mask="no_alpha"), inpaint(), "empty"),
    "other sizes": (
        source(),
        node(
            "CombCN_Compare",
            images_1=["i", 0],
            images_2=["f", 0],
            names="a, b",
            height=0.5,
        ),
        "images_2 has shape",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_told(case, client):
    graph, misused, message = MISUSE[case]
    ends = {
        "f": node("Probe_LoadImages", name="one_frame"),
        "x": misused,
        "s": node("Probe_Save", value=["x", 0], name="unused"),
    }

    run = client.run(graph | ends)

    assert not run.succeeded
    assert message in run.error
    assert run.of("execution_error")[0]["exception_type"] == "ValueError"


@pytest.mark.parametrize("missing", ["images", "mask"])
def test_missing_input_is_refused(missing, client):
    graph = source() | {"a": inpaint(), "s": node("Probe_Save", value=["a", 0], name="unused")}
    del graph["a"]["inputs"][missing]

    with pytest.raises(Refused) as refused:
        client.run(graph)

    (error,) = refused.value.errors["a"]["errors"]
    assert error["type"] == "required_input_missing"
    assert error["extra_info"]["input_name"] == missing


def test_unknown_model_is_refused_with_advice(client):
    graph = source() | {"a": inpaint(model=["n", 0])}
    graph["n"]["inputs"]["name"] = "lost.safetensors"
    graph["s"] = node("Probe_Save", value=["a", 0], name="unused")

    with pytest.raises(Refused) as refused:
        client.run(graph)

    (error,) = refused.value.errors["n"]["errors"]
    assert "no weights called 'lost.safetensors'" in error["details"]


MISTAKES = {  # known before anything runs
    "nothing to learn from": (
        "there is nothing to learn from; connect images",
        lambda: trainer(images=None),
    ),
    "lost footage": (
        "there is no folder 'lost' in ComfyUI's input folder",
        lambda: trainer(footage="lost", images=None),
    ),
    "frames that are no numbers": (
        "frames is 'the first'; give numbers from 0",
        lambda: node("CombCN_FollowMask", images=["i", 0], mask=["m", 0], frames="the first"),
    ),
    "a training without a name": (
        "name is empty; give the model a name",
        lambda: trainer(name="  "),
    ),
    "a training outside": ("leads out of", lambda: trainer(name="../../trained")),
    "a master outside": (
        "leads out of",
        lambda: inpaint_video(filename_prefix="../master"),
    ),
    "a model outside": (
        "leads out of",
        lambda: node("CombCN_SaveModel", model=["n", 0], filename_prefix="../model"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_found_before_anything_runs(mistake, client):
    message, make = MISTAKES[mistake]
    video = node("CreateVideo", images=["i", 0], fps=25.0)
    graph = source() | {"v": video, "x": make()}
    inputs = graph["x"]["inputs"]
    graph["x"]["inputs"] = {name: value for name, value in inputs.items() if value is not None}
    graph["s"] = node("PreviewAny", source=["x", 0])

    with pytest.raises(Refused) as refused:
        client.run(graph)

    errors = refused.value.errors["x"]["errors"]  # one for each input that is looked at
    assert errors
    assert all(message in error["details"] for error in errors)


def test_default_model_needs_no_folder(client):
    form = client.get("/object_info/CombCN_LoadModel")["CombCN_LoadModel"]["input"]["required"]

    assert form["name"][1]["options"][0] == "default"


# Running


def test_unchanged_nodes_are_not_run_again(client, model):
    graph = source() | {
        "a": inpaint(model=["n", 0]),
        "s": node("Probe_Save", value=["a", 0], name="unused"),
    }
    client.run(graph)

    assert client.run(graph).cached >= {"i", "m", "n", "a"}
    graph["a"]["inputs"]["grow_pixels"] = 1
    assert client.run(graph).cached & {"i", "m", "n", "a"} == {"i", "m", "n"}


def test_changed_weights_are_loaded_again(client, server, model):
    graph = source() | {
        "a": inpaint(model=["n", 0]),
        "s": node("Probe_Save", value=["a", 0], name="unused"),
    }
    client.run(graph)

    path = server.base / "models" / "combcn" / "random.safetensors"
    os.utime(path, (time.time(), path.stat().st_mtime + 1))

    assert client.run(graph).cached & {"i", "m", "n", "a"} == {"i", "m"}


LONG = {
    "c": node("CombCN_SampleClip", frames=24, height=270, seed=2),
    "n": node("CombCN_LoadModel", name="random.safetensors", precision="auto"),
}
LONG_RUNS = {
    "Inpaint": inpaint(images=["c", 0], mask=["c", 1], model=["n", 0]),
    "Propagate": propagate(images=["c", 0], mask=["c", 1]),
    "Temporal": temporal(images=["c", 0], mask=["c", 1]),
    "SpatialDetail": detail(images=["c", 0], mask=["c", 1], guidance=["c", 0]),
}


@pytest.mark.parametrize("name", LONG_RUNS)
def test_run_can_be_interrupted(name, client, model):
    save = node("Probe_Save", value=["x", 0], name="interrupted")
    run = Run()
    told = 0

    for kind, data in client.follow(LONG | {"x": LONG_RUNS[name], "s": save}, run):
        if kind == "progress" and data["node"] == "x":
            told += 1
            if told == 1:
                client.interrupt()

    assert run.interrupted
    assert run.of("execution_interrupted")[0]["node_id"] == "x"


def test_progress_is_told_with_pictures(client, model):
    graph = {
        "c": node("CombCN_SampleClip", frames=6, height=72, seed=5),
        "n": node("CombCN_LoadModel", name="random.safetensors", precision="auto"),
        "a": inpaint(images=["c", 0], mask=["c", 1], model=["n", 0]),
        "s": node("Probe_Save", value=["a", 0], name="unused"),
    }
    run = client.run(graph)

    steps = run.progress["a"]
    assert len(steps) > 6
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert len(run.pictures) > 1


LAST_PICTURES = {
    "Inpaint": inpaint(images=["c", 0], mask=["c", 1]),
    "Propagate": propagate(images=["c", 0], mask=["c", 1]),
    "Temporal": temporal(images=["c", 0], mask=["c", 1]),
    "SpatialDetail": detail(images=["c", 0], mask=["c", 1], guidance=["c", 0]),
    "SynthesizeTexture": node(
        "CombCN_SynthesizeTexture", images=["c", 0], mask=["c", 1], match_grain=True
    ),
}


@pytest.mark.parametrize("name", LAST_PICTURES)
def test_last_picture_is_a_finished_frame(name, client, server, model):
    """Front ends go on showing it when the node has ended."""
    save = {"value": ["x", 0], "name": "finished"}, {"value": ["c", 1], "name": "holes"}
    graph = {
        "c": node("CombCN_SampleClip", frames=6, height=72, seed=6),
        "n": node("CombCN_LoadModel", name="random.safetensors", precision="auto"),
        "x": LAST_PICTURES[name],
        **{str(number): node("Probe_Save", **inputs) for number, inputs in enumerate(save)},
    }
    run = client.run(graph)

    assert run.succeeded, run.error
    frames, holes = (np.load(server.base / "output" / f"{n}.npy") for n in ("finished", "holes"))
    expected = 255 * frames[max(range(6), key=lambda t: holes[t].sum())].clip(0, 1)
    coded = np.frombuffer(run.pictures[-1], np.uint8)
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).mean() < 8  # of 255: JPEG, of the noise of random weights


def test_node_that_shows_its_result_sends_no_pictures(client):
    """They would stand above it."""
    graph = {
        "c": node("CombCN_SampleClip", frames=6, height=72, seed=6),
        "x": node("CombCN_TakeShadows", images=["c", 0], mask=["c", 1]),
        "s": node("Probe_Save", value=["x", 0], name="unused"),
    }
    run = client.run(graph)

    assert run.succeeded, run.error
    assert len(run.progress["x"]) > 2
    assert run.pictures == []


# Training


def trainer(**settings):
    form = {
        "name": "trained",
        "footage": "(the connected images)",
        "networks": "CombCN",
        "stages": "joint",
        "pretrain_steps": 1,
        "steps": 2,
        "minutes": 0.0,
        "learning_rate": 1e-3,
        "holes": "box",
        "size": 24,
        "clip_length": 3,
        "batch": 1,
        "detail_frames": 1,
        "seed": 0,
        "images": ["i", 0],
    }
    return node("CombCN_JointTrainer", **(form | settings))


def test_training_goes_on_when_queued_again(client, server):
    report = {"r": node("PreviewAny", source=["j", 2])}
    graph = source() | {"j": trainer()} | report

    first = client.run(graph)
    assert first.succeeded, first.error
    assert "3 of 3 steps" in first.outputs["r"]["text"][0]
    assert (server.base / "models" / "combcn" / "trained.safetensors").is_file()

    again = client.run(graph)
    assert "all its steps already" in again.outputs["r"]["text"][0]

    graph["j"] = trainer(steps=4)
    longer = client.run(graph)
    assert "5 of 5 steps" in longer.outputs["r"]["text"][0]
    assert longer.progress["j"][0][0] > 0.5 * longer.progress["j"][0][1]


def test_stopped_training_is_saved_and_goes_on(client):
    report = {"r": node("PreviewAny", source=["j", 2])}
    graph = source() | {"j": trainer(name="stopped", steps=6)} | report
    run = Run()

    for kind, data in client.follow(graph, run):
        if kind == "progress" and data["node"] == "j":
            client.interrupt()

    assert run.interrupted
    resumed = client.run(graph)
    assert "7 of 7 steps" in resumed.outputs["r"]["text"][0]
    assert resumed.progress["j"][0][0] > run.progress["j"][0][0]


def test_trained_model_is_ready_for_use(bench):
    graph = source() | {"j": trainer(steps=4), "a": inpaint(model=["j", 0])}

    assert bench(graph, ("a", 0)).shape == (FRAMES, HEIGHT, WIDTH, 3)
