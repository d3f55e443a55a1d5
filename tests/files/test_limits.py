"""Small files whose headers claim what would not fit into memory: refused before it is taken.

All but one number in them is a sound file, made by cv2, tifffile, OpenEXR or PyAV.
"""

import contextlib
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import OpenEXR
import pytest
import tifffile

from combcn_core.clips.frames import MAX_FRAME_PIXELS, ClipInfo, check_frame_size
from combcn_core.clips.masks import read_mask
from combcn_core.clips.video import open_reader

HEIGHT, WIDTH = 300, 320  # two bytes each, so that larger numbers fit where they stand
LONG_SIDE = 12_000  # 144 million pixels, which FFmpeg would take


@contextlib.contextmanager
def little_memory(more_bytes=2**28):
    """The system refuses to give this process more than so many bytes."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def picture(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(dtype)


def replaced(data, *changes):
    """Each (old, new) of one length stands in the data once."""
    for old, new in changes:
        assert data.count(old) == 1
        assert len(old) == len(new)
        data = data.replace(old, new)
    return data


def write_png(path, side):
    """The checksum of the header is right."""
    data = cv2.imencode(".png", picture())[1].tobytes()
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def write_jpeg(path, side):
    data = cv2.imencode(".jpg", picture())[1].tobytes()
    old, new = struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", side, side)
    # Ahead of the frame header, another picture, as cameras have it: its own size must not count.
    thumbnail = cv2.imencode(".jpg", picture()[:8, :8])[1].tobytes()
    note = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    path.write_bytes(data[:2] + note + replaced(data[2:], (old, new)))


def write_tiff(path, side, bigtiff=False):
    tifffile.imwrite(path, picture(), photometric="rgb", compression="zlib", bigtiff=bigtiff)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(side, dtype="I")


def write_bigtiff(path, side):
    write_tiff(path, side, bigtiff=True)


def write_exr(path, side, window="dataWindow"):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {name: picture(np.float16)[..., 0].copy() for name in "RGB"}
    OpenEXR.File(header, channels).write(str(path))
    data = path.read_bytes()
    at = data.index(window.encode())
    old = struct.pack("<4i", 0, 0, WIDTH - 1, HEIGHT - 1)
    new = struct.pack("<4i", 0, 0, side - 1, side - 1)
    path.write_bytes(data[:at] + data[at:].replace(old, new, 1))


def write_exr_of_large_display(path, side):
    write_exr(path, side, "displayWindow")


def write_video(path, codec, pixel_format):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), "rgb24")))
        container.mux(stream.encode(None))


def write_mkv(path, side):
    write_video(path, "ffv1", "bgr0")
    width, height, number = b"\xb0\x82", b"\xba\x82", struct.Struct(">H").pack
    changes = (
        (width + number(WIDTH), width + number(side)),
        (height + number(HEIGHT), height + number(side)),
    )
    path.write_bytes(replaced(path.read_bytes(), *changes))


IMAGES = {
    "png": (write_png, "a.png"),
    "jpeg": (write_jpeg, "a.jpg"),
    "jpeg in a png": (write_jpeg, "a.png"),
    "tiff": (write_tiff, "a.tif"),
    "bigtiff": (write_bigtiff, "a.tif"),
    "exr": (write_exr, "a.exr"),
    "exr that shows more": (write_exr_of_large_display, "a.exr"),
}
VIDEOS = {"mkv": (write_mkv, "a.mkv")}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is not limited elsewhere")
@pytest.mark.parametrize("side", [LONG_SIDE, 60_000])
@pytest.mark.parametrize("kind", [*IMAGES, *VIDEOS])
def test_absurd_size_is_refused_before_it_is_read(tmp_path, kind, side):
    write, name = (IMAGES | VIDEOS)[kind]
    path = tmp_path / name
    write(path, side)
    assert path.stat().st_size < 1_500_000
    message = f"says that it is {side}x{side} pixels, but frames have at most 134,217,728 here"
    if kind in VIDEOS and side > LONG_SIDE:  # FFmpeg refuses it
        message = r"cannot be read as a video|has no frames that decode|134,217,728"
    for read in (open_reader, lambda path: read_mask(path, ClipInfo(8, 8, Fraction(24)))):
        with little_memory(), pytest.raises(ValueError, match=message):
            read(path)


def test_frame_that_grows_on_the_way_is_refused(tmp_path, monkeypatch):
    """The limit holds for every frame, not just for what the head of the file says."""
    write_video(tmp_path / "a.mkv", "libx264", "yuv420p")
    monkeypatch.setattr("combcn_core.clips.decode.MAX_FRAME_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match="no frames that decode"):
        open_reader(tmp_path / "a.mkv")


def test_the_limit_is_what_it_says():
    check_frame_size(2**14, 2**13, Path("a.png"))
    assert MAX_FRAME_PIXELS == 2**27
    for size in ((2**14, 2**13 + 1), (MAX_FRAME_PIXELS + 1, 1)):
        with pytest.raises(ValueError, match="replace it with a whole copy, or make it smaller"):
            check_frame_size(*size, Path("a.png"))


@pytest.mark.parametrize("content", ["bmp", "webp", "gif"])
def test_images_of_other_kinds_are_refused_whatever_their_name(tmp_path, content):
    """cv2 would decode them, and of what their headers say nothing would be known before."""
    encoded, data = cv2.imencode(f".{content}", picture())
    assert encoded
    for name in ("a.jpg", "b.tif"):
        (tmp_path / name).write_bytes(data.tobytes())
        with pytest.raises(ValueError, match="does not decode; replace it with a whole copy"):
            open_reader(tmp_path / name)
