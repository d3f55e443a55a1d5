"""Inpaint Video: files in, files out, and what belongs to them."""

import dataclasses
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from combcn_core import InpaintConfig, inpaint_file
from combcn_core.clips.frames import ColorTags
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.demo import load_demo

from .client import Refused

RATE = Fraction(24000, 1001)
FRAMES, HEIGHT, WIDTH = 9, 48, 86


def write_sound(path, seconds):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="stereo")
        waves = np.sin(np.arange(round(48000 * seconds)) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([waves, waves]), "fltp", "stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(server):
    """The input folder, with a video, its masks as a video and as a tensor."""
    folder = server.base / "input"
    clip = load_demo(FRAMES, HEIGHT)
    write_sound(folder / "sound.m4a", FRAMES / RATE)
    silent = ClipInfo(WIDTH, HEIGHT, RATE)
    loud = dataclasses.replace(silent, path=folder / "sound.m4a", has_sound=True)
    masks = clip.masks[..., None].repeat(3, axis=3) * np.uint8(255)
    for name, info, frames in (
        ("source.mp4", loud, clip.images),
        ("masks.mkv", silent, masks),
        (
            "small.mkv",
            ClipInfo(WIDTH // 2, HEIGHT // 2, RATE),
            np.ascontiguousarray(masks[:, ::2, ::2]),
        ),
    ):
        with open_writer(folder / name, info) as writer:
            for frame in frames:
                writer.write(frame)
    np.save(folder / "video_mask.npy", clip.masks.astype(np.float32))
    return folder


def graph(*, window=None, **inputs):
    """Source, masks in both forms, Inpaint Video and Save Video."""
    form = {
        "video": ["source", 0], "grow_pixels": 1, "propagate": True, "reach": 48,
        "feather_pixels": 0, "match_grain": True, "resize_mask": False, "master": "none",
        "filename_prefix": "masters/m",
    }  # fmt: skip
    prompt = {
        "source": {"class_type": "LoadVideo", "inputs": {"file": "source.mp4"}},
        "masks": {"class_type": "LoadVideo", "inputs": {"file": "masks.mkv"}},
        "small": {"class_type": "LoadVideo", "inputs": {"file": "small.mkv"}},
        "mask": {"class_type": "Probe_LoadMask", "inputs": {"name": "video_mask"}},
        "node": {"class_type": "CombCN_InpaintVideo", "inputs": form | inputs},
        "saved": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["node", 0], "filename_prefix": "v", "format": "auto", "codec": "auto",
            },
        },
    }  # fmt: skip
    for name in ("source", "masks") if window else ():
        inputs = {"video": [name, 0], "start_seconds": window[0], "duration_seconds": window[1]}
        prompt[f"cut {name}"] = {"class_type": "Probe_TrimVideo", "inputs": inputs}
    return prompt


def streams(path):
    """Codec, rate and number of frames of the picture; number of packets of each sound."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sounds = [sum(p.size > 0 for p in container.demux(s)) for s in container.streams.audio]
        return video.codec.name, video.average_rate, video.frames, sounds


def read(path):
    with open_reader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


def newest(folder, pattern):
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("masked", [{"mask": ["mask", 0]}, {"mask_video": ["masks", 0]}])
def test_video_gives_what_the_library_gives(server, client, folder, tmp_path, masked):
    run = client.run(graph(**masked, master="FFV1 (.mkv)"))

    assert run.succeeded, run.error
    config = InpaintConfig(grow_pixels=1)
    inpaint_file(folder / "source.mp4", folder / "masks.mkv", tmp_path / "x.mkv", config=config)
    expected = read(tmp_path / "x.mkv")
    master = newest(server.base / "output", "masters/*.mkv")
    np.testing.assert_array_equal(read(master), expected)
    result = newest(server.base / "temp", "combcn_*.mp4")
    assert np.abs(read(result).astype(int) - expected).mean() < 3  # H.264


def test_video_keeps_sound_rate_and_length(server, client, folder):
    run = client.run(graph(mask=["mask", 0]))

    assert run.succeeded, run.error
    expected = streams(folder / "source.mp4")
    assert expected[:3] == ("h264", RATE, FRAMES)
    assert expected[3][0] > 5
    assert run.pictures == []  # they would stand above the result
    shown = run.outputs["node"]["images"][0]
    assert streams(server.base / "temp" / shown["filename"]) == expected
    saved = server.base / "output" / run.outputs["saved"]["images"][0]["filename"]
    assert streams(saved) == expected
    assert np.array_equal(read(saved), read(server.base / "temp" / shown["filename"]))


def test_video_leaves_nothing_but_its_result(server, client, folder):
    temp = server.base / "temp"
    before = set(temp.glob("*"))
    assert client.run(graph(mask=["mask", 0], grow_pixels=2)).succeeded
    (result,) = set(temp.glob("*")) - before
    assert result.suffix == ".mp4"
    assert not client.run(graph(mask_video=["small", 0])).succeeded
    assert set(temp.glob("*")) - before == {result}


def test_video_resizes_masks_when_told(client, folder):
    assert "resize_mask" in client.run(graph(mask_video=["small", 0])).error
    assert client.run(graph(mask_video=["small", 0], resize_mask=True)).succeeded


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "neither mask nor mask_video is connected; connect one of them"),
        ({"mask": ["mask", 0], "mask_video": ["masks", 0]}, "both mask and mask_video are"),
        ({"mask": ["masks", 0]}, "mask is connected to VIDEO; connect MASK"),
        (
            {"mask": ["mask", 0], "master": "FFV1 (.mkv)", "filename_prefix": "../m"},
            "leads out of",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_runs(client, folder, inputs, message):
    with pytest.raises(Refused) as refused:
        client.run(graph(**inputs))

    errors = refused.value.errors["node"]["errors"]  # one for each input that is looked at
    assert errors
    assert all(message in error["details"] for error in errors)


@pytest.mark.parametrize("window", [(2 / RATE, 4 / RATE), (5 / RATE, 0)])
@pytest.mark.parametrize("masked", ["mask", "video"])
def test_trimmed_video(server, client, folder, tmp_path, window, masked):
    start, stop = (2, 5) if window[1] else (5, FRAMES - 1)
    inputs = {"video": ["cut source", 0], "master": "FFV1 (.mkv)"}
    inputs |= {"mask": ["mask", 0]} if masked == "mask" else {"mask_video": ["cut masks", 0]}

    run = client.run(graph(window=tuple(map(float, window)), **inputs))

    assert run.succeeded, run.error
    if masked == "mask":  # the frames around the part are sources too
        config, output = InpaintConfig(grow_pixels=1), tmp_path / "x.mkv"
        paths = folder / "source.mp4", folder / "masks.mkv", output
        inpaint_file(*paths, config=config, frames=(start, stop))
        master = newest(server.base / "output", "masters/*.mkv")
        np.testing.assert_array_equal(read(master), read(output))
    shown = run.outputs["node"]["images"][0]
    codec, rate, num_frames, sounds = streams(server.base / "temp" / shown["filename"])
    assert (codec, rate, num_frames) == ("h264", RATE, stop - start + 1)
    assert 0 < sounds[0] < streams(folder / "source.mp4")[3][0]


def test_hdr_in_is_hdr_out(server, client, folder):
    color = ColorTags(matrix=9, range=1, primaries=9, transfer=16)  # BT.2020, PQ
    clip = load_demo(FRAMES, HEIGHT)
    info = ClipInfo(WIDTH, HEIGHT, RATE, dtype=np.dtype(np.uint16), color=color)
    with open_writer(folder / "hdr.mov", info) as writer:
        for frame in clip.images:
            writer.write(frame.astype(np.uint16) * 257)
    prompt = graph(mask=["mask", 0])
    prompt["source"]["inputs"]["file"] = "hdr.mov"

    run = client.run(prompt)

    assert run.succeeded, run.error
    for path in (
        server.base / "temp" / run.outputs["node"]["images"][0]["filename"],
        server.base / "output" / run.outputs["saved"]["images"][0]["filename"],
    ):
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.color_primaries, context.color_trc, context.colorspace) == (9, 16, 9)
            assert container.streams.video[0].format.components[0].bits == 10


def turn(source, target, is_half=False):
    """Write an mp4 with a display matrix: a quarter turn, as of a telephone held upright."""
    one = 1 << 16
    turned = (-one, 0, 0, 0, -one, 0) if is_half else (0, one, 0, -one, 0, 0)
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    data = bytearray(source.read_bytes())
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", *turned, 0, 0, 1 << 30)
    target.write_bytes(data)


def test_masks_fit_a_turned_video_or_the_sentence_says_why_not(server, client, folder):
    turn(folder / "source.mp4", folder / "turned.mp4")
    lying = np.load(folder / "video_mask.npy")
    np.save(folder / "upright.npy", np.ascontiguousarray(np.rot90(lying, -1, axes=(1, 2))))
    prompt = graph(mask=["mask", 0])
    prompt["source"]["inputs"]["file"] = "turned.mp4"
    prompt["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["source", 0]}}
    save = {"value": ["parts", 0], "name": "parts"}
    prompt["frames"] = {"class_type": "Probe_Save", "inputs": save}

    # As the video is shown; newer versions of ComfyUI give its components like that, too.
    prompt["mask"]["inputs"]["name"] = "upright"
    run = client.run(prompt)
    assert run.succeeded, run.error
    shown = server.base / "temp" / run.outputs["node"]["images"][0]["filename"]
    assert read(shown).shape[1:3] == (WIDTH, HEIGHT)

    # As this one gives them: a mask of these frames does not fit.
    assert np.load(server.base / "output" / "parts.npy").shape[1:3] == (HEIGHT, WIDTH)
    prompt["mask"]["inputs"]["name"] = "video_mask"
    error = client.run(prompt).error
    assert "as its rotation tag has it shown, which is a quarter turn; rotate the mask" in error


@pytest.mark.parametrize("masked", ["mask", "mask_video"])
def test_half_turn_is_said(client, folder, masked):
    """Of its masks the size says nothing; a video of masks is turned by its own tag."""
    turn(folder / "source.mp4", folder / "half.mp4", is_half=True)
    inputs = {"mask": ["mask", 0]} if masked == "mask" else {"mask_video": ["masks", 0]}
    prompt = graph(**inputs)
    prompt["source"]["inputs"]["file"] = "half.mp4"
    prompt["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 2]}}

    run = client.run(prompt)

    assert run.succeeded, run.error
    (said,) = run.outputs["text"]["text"]
    assert ("turn it the same way" in said) == (masked == "mask")
