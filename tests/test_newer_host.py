"""What newer versions of ComfyUI do, and older ones do not: by stand-ins for both."""

import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from combcn_core.clips.video import ClipInfo, open_reader, open_writer

NODES = Path(__file__).parents[1] / "nodes"
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


def test_deep_components_stay_deep(scratch, tmp_path):
    images = torch.full((2, HEIGHT, WIDTH, 3), 1234 / 65535)
    video = FromComponents()
    video.get_components = lambda: types.SimpleNamespace(
        images=images, frame_rate=Fraction(24), audio=None, bit_depth=10
    )
    with scratch.Scratch() as files:
        _, pixels = shown(files, video)
        assert pixels.dtype == np.uint16
        assert (pixels == 1234).all()
