"""What newer versions of ComfyUI do, and older ones do not: by stand-ins for both."""

import importlib
import importlib.util
import json
import sys
import types
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from combcn_core.clips.frames import ColorTags
from combcn_core.clips.video import ClipInfo, open_reader, open_writer

NODES = Path(__file__).parents[2] / "nodes"
FRAMES, HEIGHT, WIDTH = 6, 24, 32


# The schema


@pytest.fixture
def schema():
    spec = importlib.util.spec_from_file_location("combcn_schema", NODES / "schema.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class OldSchema:
    node_id: str
    is_experimental: bool = False


@dataclass
class NewSchema(OldSchema):
    search_aliases: list[str] | None = None
    essentials_category: str | None = None


class AnyInput:
    def __init__(self, name, **fields):
        self.fields = {"name": name, **fields}


def test_schema_says_what_the_host_knows(schema):
    extra = {"search_aliases": schema.REMOVAL, "essentials_category": "Video Tools"}
    with pytest.raises(TypeError):
        OldSchema("a", **extra)
    assert OldSchema("a", **schema.known(OldSchema, **extra)) == OldSchema("a")
    new = NewSchema("a", **schema.known(NewSchema, **extra))
    assert new.essentials_category == "Video Tools"
    assert {"remove object", "clean plate", "wire removal", "rotopaint"} <= set(new.search_aliases)
    assert schema.known(AnyInput, advanced=True) == {"advanced": True}


class OldInput:
    """What an input of any type takes in ComfyUI 0.3.75."""

    def __init__(
        self, id, options=None, default=None, min=None, max=None, step=None, optional=False,
        round=None, tooltip=None, force_input=None,
    ):  # fmt: skip
        self.id, self.tooltip = id, tooltip


class NewInput(OldInput):
    def __init__(self, *args, advanced=None, **fields):
        super().__init__(*args, **fields)
        self.advanced = advanced


@dataclass
class WholeOldSchema:
    node_id: str
    display_name: str
    category: str
    inputs: list
    outputs: list
    description: str = ""
    is_output_node: bool = False
    is_experimental: bool = False


@dataclass
class WholeNewSchema(WholeOldSchema):
    search_aliases: list[str] | None = None
    essentials_category: str | None = None


KINDS = ("Image", "Mask", "Video", "Audio", "Int", "Float", "String", "Boolean", "Combo")


def schemas(monkeypatch, folder, schema_class, input_class):
    """Those of all nodes, in a stand-in for as much of a ComfyUI as they ask for, by node id."""

    def module(name, **content):
        made = types.ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    socket = types.SimpleNamespace(Input=input_class, Output=lambda **fields: fields)
    io = types.SimpleNamespace(
        Schema=schema_class, ComfyNode=object, NodeOutput=object, Input=object,
        Custom=lambda name: socket, **dict.fromkeys(KINDS, socket),
    )  # fmt: skip
    module("comfy_api")
    module(
        "comfy_api.latest",
        io=io,
        ui=types.SimpleNamespace(PreviewVideo=object),
        Input=types.SimpleNamespace(Video=object),
        InputImpl=None,
        ComfyExtension=object,
    )
    management = module("comfy.model_management")
    module("comfy", model_management=management)
    module("comfy.model_patcher", ModelPatcher=object)
    module("comfy.utils", ProgressBar=object)
    module(
        "folder_paths", get_filename_list=lambda name: [], get_input_directory=lambda: str(folder)
    )
    spec = importlib.util.spec_from_file_location(
        "combcn_all_nodes", NODES / "__init__.py", submodule_search_locations=[str(NODES)]
    )
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "combcn_all_nodes", pack)
    for name in [name for name in sys.modules if name.startswith("combcn_all_nodes.")]:
        monkeypatch.delitem(sys.modules, name)
    spec.loader.exec_module(pack)
    found = [node.define_schema() for node in pack.NODES]
    return {schema.node_id: schema for schema in found}


def test_english_texts_are_copies_of_those_of_the_nodes(monkeypatch, tmp_path):
    path = NODES.parent / "locales" / "en" / "nodeDefs.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    nodes = schemas(monkeypatch, tmp_path, WholeNewSchema, NewInput)
    assert texts.keys() == nodes.keys()
    for name, node in nodes.items():
        assert texts[name] == {
            "display_name": node.display_name,
            "description": node.description,
            "inputs": {
                one.id: {"name": one.id.replace("_", " "), "tooltip": one.tooltip}
                for one in node.inputs
            },
            "outputs": {
                str(number): {
                    "name": one["display_name"].replace("_", " "),
                    "tooltip": one["tooltip"],
                }
                for number, one in enumerate(node.outputs)
            },
        }, name


def test_old_host_loads_all_nodes(monkeypatch, tmp_path):
    found = schemas(monkeypatch, tmp_path, WholeOldSchema, OldInput)
    assert len(found) == len(list((NODES.parent / "web" / "docs").glob("*.md")))


def test_new_host_is_told_more(monkeypatch, tmp_path):
    found = schemas(monkeypatch, tmp_path, WholeNewSchema, NewInput)
    for schema in found.values():
        assert "CombCN" in schema.search_aliases, schema.node_id
        assert len(schema.search_aliases) == len(set(schema.search_aliases)) > 1
    assert found["CombCN_InpaintVideo"].essentials_category == "Video Tools"
    assert found["CombCN_JointTrainer"].is_experimental
    advanced = {
        name.removeprefix("CombCN_"): {form.id for form in schema.inputs if form.advanced}
        for name, schema in found.items()
    }
    assert {name: inputs for name, inputs in advanced.items() if inputs} == {
        "Inpaint": {"reach", "feather_pixels", "match_grain"},
        "InpaintVideo": {
            "reach", "feather_pixels", "match_grain", "resize_mask", "filename_prefix",
        },
        "JointTrainer": {"learning_rate", "batch", "detail_frames"},
        "PrepareMask": {"threshold", "merge", "channel"},
    }  # fmt: skip


# VIDEO


class FromComponents:
    pass


class NewVideo:
    """A VIDEO of a file, of which a node before shows a part without writing another."""

    def __init__(self, path, crop=None, hidden_stop=None, window=(0.0, 0.0)):
        self.path, self.crop, self.hidden_stop, self.window = path, crop, hidden_stop, window
        self.stored_size = None

    def get_stream_source(self):
        return str(self.path)

    def get_active_trim_window(self):
        return self.window

    def get_dimensions(self):
        if self.stored_size is not None:
            return self.stored_size
        return (WIDTH, HEIGHT) if self.crop is None else self.crop[2:]

    def get_duration(self):
        return (FRAMES if self.hidden_stop is None else self.hidden_stop) / 24

    def get_components(self):
        frames = np.stack([frame.pixels for frame in open_reader(self.path)])[: self.hidden_stop]
        x, y, width, height = self.crop or (0, 0, WIDTH, HEIGHT)
        shown = frames[:, y : y + height, x : x + width]
        images = torch.from_numpy(shown.astype(np.float32) / 255)
        return types.SimpleNamespace(images=images, frame_rate=Fraction(24), audio=None)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """nodes/scratch.py, in as much of a ComfyUI as it asks for."""
    folder_paths = types.ModuleType("folder_paths")
    folder_paths.get_temp_directory = lambda: str(tmp_path / "temp")
    latest = types.ModuleType("comfy_api.latest")
    latest.Input = types.SimpleNamespace(Video=object)
    latest.InputImpl = types.SimpleNamespace(VideoFromComponents=FromComponents)
    latest.io = types.SimpleNamespace(Custom=lambda name: name)
    comfy = types.ModuleType("comfy")
    comfy.model_management = types.ModuleType("comfy.model_management")
    pack = types.ModuleType("combcn_stand_in")
    pack.__path__ = [str(NODES)]
    for name, module in {
        "folder_paths": folder_paths,
        "comfy_api": types.ModuleType("comfy_api"),
        "comfy_api.latest": latest,
        "comfy": comfy,
        "comfy.model_management": comfy.model_management,
        "combcn_stand_in": pack,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("scratch", "sockets"):
        monkeypatch.delitem(sys.modules, f"combcn_stand_in.{name}", raising=False)
    return importlib.import_module("combcn_stand_in.scratch")


@pytest.fixture
def clip(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    with open_writer(tmp_path / "a.mkv", ClipInfo(WIDTH, HEIGHT, Fraction(24))) as writer:
        for frame in frames:
            writer.write(frame)
    return tmp_path / "a.mkv", frames


def shown(files, video):
    path, span = files.part_of(video)
    return path, np.stack([frame.pixels for frame in open_reader(path, frames=span)])


def test_whole_video_is_its_file(scratch, clip):
    path, frames = clip
    with scratch.Scratch() as files:
        assert files.part_of(NewVideo(path)) == (path, None)
        _, part = shown(files, NewVideo(path, window=(1 / 24, 2 / 24)))
        assert np.array_equal(part, frames[1:3])


def test_crop_is_what_comes_in(scratch, clip):
    path, frames = clip
    with scratch.Scratch() as files:
        part, pixels = shown(files, NewVideo(path, crop=(4, 2, 16, 12)))
        assert part != path
        assert np.array_equal(pixels, frames[:, 2:14, 4:20])


def test_cut_that_nobody_tells_of_is_what_comes_in(scratch, clip):
    path, frames = clip
    with scratch.Scratch() as files:
        _, pixels = shown(files, NewVideo(path, hidden_stop=3))
        assert np.array_equal(pixels, frames[:3])


def test_crop_of_a_long_video_is_refused(scratch, clip, monkeypatch):
    monkeypatch.setattr(scratch, "_MOST_BYTES", 1000)
    with (
        scratch.Scratch() as files,
        pytest.raises(ValueError, match=r"shows 16x12 pixels, .* it was cropped or cut by a node"),
    ):
        files.part_of(NewVideo(clip[0], crop=(4, 2, 16, 12)))


def test_turned_video_is_no_crop(scratch, clip, monkeypatch):
    path, _ = clip
    video = NewVideo(path)
    video.stored_size = (HEIGHT, WIDTH)
    info = open_reader(path).info
    assert scratch.differs(video, info, None)
    assert not scratch.differs(video, types.SimpleNamespace(**{
        **info.__dict__, "is_turned": True, "num_frames": FRAMES,
    }), None)  # fmt: skip


def components(images, **fields):
    """A VIDEO of frames in memory, as an old or, with more fields, as a newer ComfyUI has it."""
    video = FromComponents()
    parts = {"images": images, "frame_rate": Fraction(24), "audio": None}
    video.get_components = lambda: types.SimpleNamespace(**parts, **fields)
    return video


def test_deep_components_stay_deep(scratch):
    video = components(torch.full((2, HEIGHT, WIDTH, 3), 1234 / 65535))
    with scratch.Scratch() as files:
        _, pixels = shown(files, video)
        assert pixels.dtype == np.uint8  # an old host knows no more

    video.get_bit_depth = lambda: 10
    with scratch.Scratch() as files:
        _, pixels = shown(files, video)
        assert pixels.dtype == np.uint16
        assert (pixels == 1234).all()


def tags(path):
    """Primaries, transfer and matrix, and bits, as FFmpeg sees them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        bits = max(component.bits for component in stream.format.components)
        return context.color_primaries, context.color_trc, context.colorspace, bits


@pytest.mark.parametrize(("name", "transfer"), [("HDR", 18), ("HDR PQ", 16)])
def test_hdr_components_are_hdr_files(scratch, tmp_path, name, transfer):
    video = components(torch.full((2, HEIGHT, WIDTH, 3), 0.25))
    video.get_color_space = lambda: name
    with scratch.Scratch() as files:
        path, _ = files.part_of(video)
        assert tags(path)[:2] == (9, transfer)
        with open_reader(path) as reader, open_writer(tmp_path / "a.mp4", reader.info) as writer:
            for frame in reader:
                writer.write(frame.pixels)
    # H.273: BT.2020 primaries, HLG or PQ, BT.2020 matrix
    assert tags(tmp_path / "a.mp4") == (9, transfer, 9, 10)


def test_srgb_components_state_nothing(scratch):
    video = components(torch.full((2, HEIGHT, WIDTH, 3), 0.25))
    video.get_color_space = lambda: "sRGB"
    with scratch.Scratch() as files:
        assert tags(files.part_of(video)[0])[:2] == (2, 2)


def test_crop_of_hdr_stays_hdr(scratch, tmp_path):
    color = ColorTags(matrix=9, range=1, primaries=9, transfer=16)
    info = ClipInfo(WIDTH, HEIGHT, Fraction(24), dtype=np.dtype(np.uint16), color=color)
    with open_writer(tmp_path / "a.mkv", info) as writer:
        for _ in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 30000, np.uint16))
    video = NewVideo(tmp_path / "a.mkv", crop=(4, 2, 16, 12))
    video.get_components = lambda: types.SimpleNamespace(
        images=torch.full((FRAMES, 12, 16, 3), 30000 / 65535), frame_rate=Fraction(24), audio=None
    )
    video.get_bit_depth = lambda: 10
    with scratch.Scratch() as files:
        path, pixels = shown(files, video)
        assert tags(path)[:2] == (9, 16)
        assert (pixels == 30000).all()


def test_alpha_of_components_is_kept(scratch):
    alpha = torch.arange(2 * HEIGHT * WIDTH).reshape(2, HEIGHT, WIDTH, 1) % 256 / 255
    video = components(torch.full((2, HEIGHT, WIDTH, 3), 0.5), alpha=alpha)
    with scratch.Scratch() as files:
        path, _ = files.part_of(video)
        stored = np.stack([frame.stored for frame in open_reader(path, with_alpha=True)])
    np.testing.assert_array_equal(stored[..., 3:], (alpha * 255).round().numpy())
    assert (stored[..., :3] == 128).all()
