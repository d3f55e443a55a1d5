"""Broken video files: sizes that headers state, checksums, and changes on the way."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from combcn_core.clips.decode import damage_error, is_cut_short
from combcn_core.clips.video import open_reader

from ..helpers import write_video


def box(kind, size, stated=None):
    """A box of MP4, with so many bytes inside; it may state another length."""
    return struct.pack(">I4s", size + 8 if stated is None else stated, kind) + bytes(size)


def large_box(kind, size, stated=None):
    """As the length of one beyond 4 GB is written."""
    return struct.pack(">I4sQ", 1, kind, size + 16 if stated is None else stated) + bytes(size)


@pytest.mark.parametrize(
    ("content", "is_short"),
    [
        (box(b"ftyp", 24) + box(b"moov", 40), False),
        (box(b"ftyp", 24) + box(b"mdat", 40), False),
        (box(b"ftyp", 24) + box(b"mdat", 40, stated=49), True),
        (box(b"ftyp", 24) + box(b"mdat", 8, stated=2**31), True),
        (box(b"ftyp", 24) + large_box(b"mdat", 40), False),
        (box(b"ftyp", 24) + large_box(b"mdat", 40, stated=57), True),
        (box(b"ftyp", 24) + large_box(b"mdat", 40, stated=2**33), True),
        (box(b"ftyp", 24) + large_box(b"mdat", 40) + box(b"moov", 9, stated=18), True),
        (box(b"ftyp", 24) + box(b"mdat", 40, stated=0), False),  # to the end of the file
        (box(b"ftyp", 24) + b"padding at the end", False),
        (box(b"ftyp", 24) + box(b"free", 8, stated=7) + bytes(9), False),  # no box is so short
        (box(b"ftyp", 24) + box(b"free", 0) + box(b"mdat", 9), False),
        (box(b"ftyp", 24)[:-1], True),
        (box(b"ftyp", 8), False),
    ],
)
def test_mp4_is_short_where_a_box_ends_beyond_it(tmp_path, content, is_short):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert is_cut_short(path, "mov,mp4,m4a,3gp,3g2,mj2") == is_short
    assert not is_cut_short(path, "avi")


def number(value, length):
    """A number of EBML in so many bytes (RFC 8794, section 4): as many leading bits give them."""
    return ((1 << 7 * length) | value).to_bytes(length, "big")


def matroska(size, stated, length, header_size=19):
    """A head of that size, and a segment that states its size in so many bytes."""
    head = b"\x1a\x45\xdf\xa3" + number(header_size, 1) + bytes(header_size)
    return head + b"\x18\x53\x80\x67" + number(stated, length) + bytes(size)


@pytest.mark.parametrize("length", range(1, 9))
def test_matroska_is_short_where_its_segment_ends_beyond_it(tmp_path, length):
    path = tmp_path / "a.mkv"
    unknown = 2 ** (7 * length) - 1
    most = min(unknown - 1, 2**40)
    for size, stated, is_short in (
        (100, 100, False),
        (100, 101, True),
        (100, 99, False),  # something follows
        (100, most, True),
        (100, unknown, False),  # recorded live
    ):
        path.write_bytes(matroska(size, stated, length))
        assert is_cut_short(path, "matroska,webm") == is_short, (size, stated)
    path.write_bytes(matroska(100, 101, length)[:-1].replace(b"\x18\x53\x80\x67", b"\xec\x53\x80g"))
    assert not is_cut_short(path, "matroska,webm")  # no segment: nothing is stated


def test_damage_error_says_how_many_frames_there_are(tmp_path):
    path = tmp_path / "a.mp4"
    assert "damaged: 3 of 5 frames decoded; give a whole copy" in str(damage_error(path, 3, 5))
    for stated in (3, 2, 0):
        assert "damaged: 3 frames decoded" in str(damage_error(path, 3, stated))
    changed = str(damage_error(path, 3, 5, "small, but later large"))
    assert "a.mp4 is small, but later large: its frames change their size" in changed


def noise(count, width, height, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def packet_places(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("slices", [4, 9])
def test_one_wrong_bit_in_any_slice_of_ffv1_is_noticed(tmp_path, slices):
    """FFmpeg's decoder conceals it."""
    options = {"level": "3", "slices": str(slices), "slicecrc": "1"}
    path = write_video(tmp_path / "a.mkv", noise(3, 96, 64), options=options)
    assert [frame.index for frame in open_reader(path)] == [0, 1, 2]
    data = path.read_bytes()
    at, size = packet_places(path)[1]
    for share in np.linspace(0.02, 0.98, 2 * slices + 1):
        broken = bytearray(data)
        broken[at + int(share * size)] ^= 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"1 of 3 frames decoded; .*--allow-truncated"):
            list(open_reader(path))
        with open_reader(path, allow_truncated=True) as reader:
            assert [frame.index for frame in reader] == [0, 2]


def test_ffv1_without_checksums_is_read(tmp_path):
    for level, options in ((1, {"level": "1"}), (3, {"level": "3", "slicecrc": "0"})):
        frames = noise(3, 64, 48, level)
        path = write_video(tmp_path / f"{level}.mkv", frames, options=options)
        assert np.array_equal([frame.pixels for frame in open_reader(path)], frames)


def test_change_of_depth_on_the_way_is_called_that(tmp_path):
    for name, form in ("1.ts", "yuv420p"), ("2.ts", "yuv420p10le"):
        write_video(tmp_path / name, noise(5, 64, 48), "libx264", form)
    both = (tmp_path / "1.ts").read_bytes() + (tmp_path / "2.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(both)
    message = "is 64x48 pixels of 8 bits, but later 64x48 pixels of more than 8 bits"
    with pytest.raises(ValueError, match=message):
        open_reader(tmp_path / "a.ts", allow_truncated=True)


def test_avi_that_states_more_frames_than_it_has(tmp_path):
    """What a recorder dropped is in the count it states; clearly more is a file cut short."""
    path = write_video(tmp_path / "a.avi", noise(20, 64, 48), "mjpeg", "yuvj420p")
    data = path.read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream
    assert struct.unpack_from("<I", data, at) == (20,)
    for stated, is_damaged in ((20, False), (22, False), (23, True), (2000, True)):
        path.write_bytes(data[:at] + struct.pack("<I", stated) + data[at + 4 :])
        if is_damaged:
            with pytest.raises(ValueError, match=f"damaged: 20 of {stated} frames decoded"):
                open_reader(path)
        else:
            assert open_reader(path).info.total_frames == 20


def test_matroska_that_states_a_longer_time_than_it_has(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(25, 64, 48))
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes, in milliseconds
    assert struct.unpack_from(">d", data, at) == (1000,)
    # Half a second more, and two frames of 40 ms, may be how long the last one stays.
    for milliseconds, is_damaged in ((1000, False), (1570, False), (1590, True), (9000, True)):
        path.write_bytes(data[:at] + struct.pack(">d", milliseconds) + data[at + 8 :])
        if is_damaged:
            with pytest.raises(ValueError, match="cut short or damaged: 25 frames decoded"):
                open_reader(path)
        else:
            assert open_reader(path).info.fps == Fraction(25)
