"""Functions that several files of tests share; fixtures are in conftest.py."""

import contextlib
import json
import subprocess
import time

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from combcn_core.networks import layers
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.layers import CombCN
from combcn_core.pixels import Box


def write_video(path, frames, codec=None, pixel_format=None, options=None):
    """Encode (H, W, 3) RGB, uint8 or uint16, or (H, W, 4) RGBA; .mkv is lossless by default."""
    lossless = path.suffix == ".mkv"
    pixel_format = pixel_format or ("bgr0" if lossless else "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec or ("ffv1" if lossless else "libx264"), rate=25, options=options or {}
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for image in frames:
            form = "rgb24" if image.dtype == np.uint8 else "rgb48le"
            form = "rgba" if image.shape[2] == 4 else form
            picture = av.VideoFrame.from_ndarray(image, form).reformat(format=pixel_format)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def ffmpeg(*arguments):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def probe(path, *arguments):
    """What ffprobe says, as JSON."""
    command = ["ffprobe", "-v", "error", "-of", "json", *arguments, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)


def streams(path, kind=None):
    found = probe(path, "-show_streams")["streams"]
    return [stream for stream in found if kind is None or stream["codec_type"] == kind]


def planar_frame(planes, pixel_format):
    """A frame of these planes: code by code, nothing is converted."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
        rows[:, : values.shape[1]] = values
    return frame


def write_pngs(folder, images, name="{:03d}.png", numbers=None):
    """Images as OpenCV has them: gray or BGR."""
    folder.mkdir()
    for number, image in zip(numbers or range(len(images)), images, strict=True):
        assert cv2.imwrite(str(folder / name.format(number)), image)
    return folder


@contextlib.contextmanager
def full_disk(limit_bytes):
    """The system refuses to let a file grow beyond it: a write fails with an OSError."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wait_for(condition, seconds=200):
    """Fail unless it comes true; a machine may be busy, so the time is ample."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def assert_same_weights(model, other):
    left, right = model.state_dict(), other.state_dict()
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name], right[name]), name


def shrink_networks(patch, channels):
    """The paper's tables with few channels: the geometry at a thousandth of the cost.

    Args:
        patch: a MonkeyPatch, which ends it.
        channels: of every layer but the last; or what makes them from the paper's.
    """
    of = channels if callable(channels) else lambda _: channels
    for name in ("TEMPORAL_LAYERS", "DETAIL_LAYERS"):
        table = [row._replace(channels=of(row.channels)) for row in getattr(layers, name)]
        table[-1] = table[-1]._replace(channels=3)
        patch.setattr(layers, name, tuple(table))


def strong_model(**fields):
    """Random weights, strong enough that what goes in decides what comes out."""
    torch.manual_seed(0)
    model = CombCN(NetworkConfig(**fields)).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight)
    for network in (model.temporal, model.detail):
        last = network.layers[str(len(network.table))][0]
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, 0.5 if model.config.input_fill == "mean" else 0.02)
    return model


# Of tests with drawn values: the same ones each time.
light = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@st.composite
def boxes(draw):
    """(box, height, width), the box within the frame."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return Box(top, left, bottom, right), height, width
