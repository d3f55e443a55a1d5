"""inpaint_file on real files: what comes out, and that it is the same however it is cut up.

Sources are made, and results are read back, with cv2 and PyAV directly, without the code under
test.
"""

import itertools
import json
import random
import shutil
import threading
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch

from combcn_core.cli.common import summary
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.segments import Segment
from combcn_core.shot import InpaintConfig, ShotInpainter
from combcn_core.stream import files as stream
from combcn_core.stream import memory
from combcn_core.stream.files import inpaint_file, keep_segments
from combcn_core.stream.schedule import plan_jobs
from combcn_core.stream.source import SourceFrame

HEIGHT, WIDTH = 48, 64
SHORT_REACH = InpaintConfig(reach=8, grow_pixels=1)  # a halo of 24 frames


# Sources


def moving_frames(count, dtype=np.uint8, seed=0):
    """A camera that pans over a smooth picture: (count, HEIGHT, WIDTH, 3)."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (HEIGHT // 6, 40, 3), np.uint8)
    picture = cv2.resize(noise, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    lefts = np.round(1.5 * WIDTH * (1 + np.sin(np.arange(count) / 15))).astype(int)
    frames = np.stack([picture[:, left : left + WIDTH] for left in lefts]).astype(dtype)
    return frames * np.array(257, dtype) if dtype == np.uint16 else frames


def moving_masks(count):
    """A box that wanders, larger now and then: (count, HEIGHT, WIDTH) bool."""
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for index, mask in enumerate(masks):
        left, size = 10 + index % 23, 10 + index % 3
        mask[15 : 15 + size, left : left + size] = True
    return masks


def write_pngs(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        if image.dtype == bool:
            image = image.astype(np.uint8) * 255
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
        assert cv2.imwrite(str(folder / f"shot.{index + 100:04d}.png"), image)
    return folder


def read_pngs(folder):
    files = sorted(folder.iterdir())
    images = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])


def write_video(path, frames, fps=Fraction(24), sound=False):
    with av.open(str(path), "w") as container:
        codec, pixel_format = ("ffv1", "bgr0") if path.suffix == ".mkv" else ("libx264", "yuv420p")
        video = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, pixel_format
        audio = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            times = np.arange(round(48000 * len(frames) / fps)) / 48000
            tone = np.sin(2 * np.pi * 440 * times).astype(np.float32)[None] / 2
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate = 48000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def read_video(path, pixel_format="rgb24"):
    with av.open(str(path)) as container:
        return np.stack(
            [frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)]
        )


def grown(masks, pixels):
    """By a disk, pixel by pixel."""
    reach = range(-pixels, pixels + 1)
    result = np.zeros_like(masks)
    padded = np.pad(masks, ((0, 0), (pixels, pixels), (pixels, pixels)))
    for y in reach:
        for x in reach:
            if x * x + y * y <= pixels * pixels:
                rows = slice(pixels + y, pixels + y + HEIGHT)
                result |= padded[:, rows, pixels + x : pixels + x + WIDTH]
    return result


@pytest.fixture(scope="module")
def two_shots(tmp_path_factory):
    """Frames and masks of two shots, as folders, and their result in segments of 16 frames."""
    folder = tmp_path_factory.mktemp("two_shots")
    first, second = moving_frames(61), 255 - moving_frames(35, seed=1) // 2
    frames, masks = np.concatenate([first, second]), moving_masks(96)
    write_pngs(folder / "frames", frames)
    write_pngs(folder / "masks", masks)
    config = InpaintConfig(reach=8, grow_pixels=1, segment_frames=16)
    inpaint_file(folder / "frames", folder / "masks", folder / "result", config=config)
    result = read_pngs(folder / "result")
    return SimpleNamespace(folder=folder, frames=frames, masks=masks, result=result)


# What comes out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_folder_is_exact_outside_the_grown_mask(tmp_path, dtype):
    frames, masks = moving_frames(10, dtype), moving_masks(10)
    write_pngs(tmp_path / "frames", frames)
    write_pngs(tmp_path / "masks", masks)
    config = InpaintConfig(grow_pixels=2)
    report = inpaint_file(
        tmp_path / "frames", tmp_path / "masks", tmp_path / "result", config=config
    )
    result, hole = read_pngs(tmp_path / "result"), grown(masks, 2)
    assert result.dtype == dtype
    names = [file.name for file in sorted((tmp_path / "result").iterdir())]
    assert names == [f"shot.{index:04d}.png" for index in range(100, 110)]
    np.testing.assert_array_equal(result[~hole], frames[~hole])
    assert (result[hole] != frames[hole]).any()
    assert report.changed_outside_mask == 0
    assert report.hole_pixels == hole.sum()


def test_ffv1_is_exact_outside_the_mask(tmp_path):
    frames, masks = moving_frames(10), moving_masks(10)
    write_video(tmp_path / "clip.mkv", frames)
    write_pngs(tmp_path / "masks", masks)
    report = inpaint_file(tmp_path / "clip.mkv", tmp_path / "masks", tmp_path / "result.mkv")
    result = read_video(tmp_path / "result.mkv")
    np.testing.assert_array_equal(result[~masks], frames[~masks])
    assert (result[masks] != frames[masks]).any()
    assert report.changed_outside_mask == 0


def test_ffv1_of_16_bits_is_exact_outside_the_mask(tmp_path):
    frames, masks = moving_frames(5, np.uint16), moving_masks(5)
    write_pngs(tmp_path / "frames", frames)
    write_pngs(tmp_path / "masks", masks)
    report = inpaint_file(
        tmp_path / "frames", tmp_path / "masks", tmp_path / "result.mkv", fps=Fraction(25)
    )
    result = read_video(tmp_path / "result.mkv", "gbrp16le")
    np.testing.assert_array_equal(result[~masks], frames[~masks])
    assert report.changed_outside_mask == 0


def test_mp4_keeps_count_rate_and_sound(tmp_path):
    fps = Fraction(24000, 1001)
    clip = write_video(tmp_path / "clip.mp4", moving_frames(12), fps, sound=True)
    report = inpaint_file(clip, "20,10,12,16", tmp_path / "result.mp4")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "result.mp4")) as result:
        assert result.streams.video[0].average_rate == fps
        assert len(list(result.decode(video=0))) == 12
        sounds = [
            np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
            for container in (source, result)
            if container.seek(0) is None
        ]
    np.testing.assert_array_equal(*sounds)
    assert np.abs(sounds[0]).max() > 0.3
    assert report.changed_outside_mask is None  # H.264 is lossy


def test_propagation_brings_back_what_is_seen_later(tmp_path):
    frames, masks = moving_frames(16), np.zeros((16, HEIGHT, WIDTH), bool)
    masks[8, 10:30, 20:40] = True
    spoilt = np.where(masks[..., None], 255, frames).astype(np.uint8)
    write_pngs(tmp_path / "frames", spoilt)
    write_pngs(tmp_path / "masks", masks)
    report = inpaint_file(tmp_path / "frames", tmp_path / "masks", tmp_path / "result")
    error = np.abs(read_pngs(tmp_path / "result")[masks].astype(int) - frames[masks])
    assert error.mean() < 8  # of 255; white is more than 100 away
    assert report.propagated_pixels > 0.9 * report.hole_pixels


def test_empty_mask_copies_the_clip(tmp_path):
    frames = moving_frames(6)
    write_pngs(tmp_path / "frames", frames)
    write_pngs(tmp_path / "masks", np.zeros((6, HEIGHT, WIDTH), bool))
    report = inpaint_file(tmp_path / "frames", tmp_path / "masks", tmp_path / "result")
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), frames)
    assert report.hole_pixels == 0
    assert report.frames == 6


# However it is cut up


@pytest.mark.parametrize("length", [5, 100])
def test_one_segment_equals_many(two_shots, tmp_path, length):
    folder = two_shots.folder
    config = InpaintConfig(reach=8, grow_pixels=1, segment_frames=length)
    inpaint_file(folder / "frames", folder / "masks", tmp_path / "result", config=config)
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result)


@pytest.mark.parametrize("span", [(0, 4), (35, 44), (57, 69), (95, 95)])
def test_part_equals_that_part_of_the_whole(two_shots, tmp_path, span):
    folder, (first, last) = two_shots.folder, span
    report = inpaint_file(
        folder / "frames",
        folder / "masks",
        tmp_path / "result",
        config=SHORT_REACH,
        frames=span,
    )
    result = read_pngs(tmp_path / "result")
    np.testing.assert_array_equal(result, two_shots.result[first : last + 1])
    names = [file.name for file in sorted((tmp_path / "result").iterdir())]
    assert names == [f"shot.{index + 100:04d}.png" for index in range(first, last + 1)]
    assert report.frames == len(names)
    assert report.hole_pixels == grown(two_shots.masks, 1)[first : last + 1].sum()


def test_part_equals_that_part_of_the_whole_in_the_smooth_fill(two_shots, tmp_path):
    # Its key frames are counted from the start of the shot, which lies before all that is filled.
    config = InpaintConfig(propagate=False)
    for name, span in (("whole", (0, 60)), ("part", (39, 47))):
        inpaint_file(
            two_shots.folder / "frames",
            two_shots.folder / "masks",
            tmp_path / name,
            config=config,
            frames=span,
        )
    part = read_pngs(tmp_path / "part")
    np.testing.assert_array_equal(part, read_pngs(tmp_path / "whole")[39:48])


def test_nothing_crosses_a_cut(two_shots, tmp_path):
    write_pngs(tmp_path / "frames", two_shots.frames[:61])
    write_pngs(tmp_path / "masks", two_shots.masks[:61])
    inpaint_file(tmp_path / "frames", tmp_path / "masks", tmp_path / "result", config=SHORT_REACH)
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result[:61])


def test_masks_for_the_part_alone_make_it_a_clip_of_its_own(tmp_path):
    frames, masks = moving_frames(30), moving_masks(30)
    write_pngs(tmp_path / "frames", frames)
    write_pngs(tmp_path / "masks", masks[9:20])
    write_pngs(tmp_path / "part", frames[9:20])
    config = InpaintConfig(match_grain=False)  # grain goes by the number of the frame
    given, masked = tmp_path / "frames", tmp_path / "masks"
    inpaint_file(given, masked, tmp_path / "result", config=config, frames=(9, 19))
    inpaint_file(tmp_path / "part", masked, tmp_path / "expected", config=config)
    expected = read_pngs(tmp_path / "expected")
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), expected)


@pytest.mark.parametrize("seed", range(30))
def test_segments_while_reading_against_frame_by_frame(seed):
    # The reference knows all cuts beforehand; the stream finds them one by one.
    rng = random.Random(seed)
    total, length, halo = rng.randint(1, 60), rng.randint(1, 12), rng.randint(0, 9)
    cuts = sorted(rng.sample(range(1, total), min(rng.randint(0, 4), total - 1)))
    start = rng.choice([0, rng.randrange(total)])
    stop = rng.choice([total, rng.randint(start + 1, total)])
    read_start, read_stop = max(start - halo, 0), min(stop + halo, total)
    shot_starts = [0, *cuts]
    clip = SimpleNamespace(
        start=start,
        stop=stop,
        read_start=read_start,
        read_stop=read_stop,
        shot_start=max(cut for cut in shot_starts if cut <= read_start),
    )
    alive: weakref.WeakSet = weakref.WeakSet()
    peak = 0

    def frames():
        nonlocal peak
        for position in range(read_start, read_stop):
            pixels = np.zeros(1)
            alive.add(token := Token())
            hole = token  # whatever is kept of a frame keeps its hole
            starts_shot = position in cuts and position > read_start
            yield SourceFrame(position, starts_shot, pixels, hole)
            del hole, token
            peak = max(peak, len(alive))

    jobs = []
    for job in plan_jobs(frames(), clip, length, halo):
        wanted = range(job.segment.read_start, job.segment.read_stop)
        assert [frame.position for frame in job.window] == list(wanted)
        outputs = range(job.segment.start, job.segment.stop)
        assert [frame.position for frame in job.outputs] == list(outputs)
        jobs.append(job.segment)
        del job
    expected = []
    for first, end in itertools.pairwise([*shot_starts, total]):
        output = [frame for frame in range(first, end) if start <= frame < stop]
        for some in (output[at : at + length] for at in range(0, len(output), length)):
            low, high = max(some[0] - halo, first), min(some[-1] + 1 + halo, end)
            expected.append(Segment(some[0], some[-1] + 1, low, high, first))
    assert jobs == expected
    assert peak <= length + 2 * halo + 1


class Token:
    """Something that can be watched."""


def test_memory_limit_shortens_segments_only(two_shots, tmp_path, monkeypatch):
    folder = two_shots.folder
    monkeypatch.setattr(memory, "peak_memory_bytes", lambda: 0)  # far more than these frames take
    paths = (folder / "frames", folder / "masks", tmp_path / "result")
    ample = inpaint_file(*paths, config=SHORT_REACH, memory_limit_gib=64)
    assert ample.settings["segment_frames"] == 32
    limit = (ample.forecast_memory_bytes - 5_000) / 2**30
    shutil.rmtree(tmp_path / "result")
    report = inpaint_file(*paths, config=SHORT_REACH, memory_limit_gib=limit)
    assert 1 <= report.settings["segment_frames"] < 32
    assert report.forecast_memory_bytes <= limit * 2**30
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result)


def test_little_memory_makes_segments_be_filled_in_parts(two_shots, tmp_path, monkeypatch):
    folder, prefill, lengths = two_shots.folder, ShotInpainter.prefill, []

    def count(self, frames, masks, segment, *args, **options):
        lengths.append(segment.num_frames)
        return prefill(self, frames, masks, segment, *args, **options)

    monkeypatch.setattr(ShotInpainter, "prefill", count)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 2_000_000)
    paths = (folder / "frames", folder / "masks", tmp_path / "result")
    shares = []
    inpaint_file(*paths, config=SHORT_REACH, progress=lambda now: shares.append(now.share))
    assert max(lengths) <= 4  # less makes no difference
    assert shares == sorted(shares)  # the work does not seem to begin anew with each part
    assert shares[-1] == pytest.approx(1)
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result)


@pytest.mark.parametrize("later_frames", ["without holes", "filled before"])
def test_frames_are_let_go_of_where_nothing_is_to_be_done(later_frames, tmp_path, monkeypatch):
    config = replace(SHORT_REACH, segment_frames=8)
    write_pngs(tmp_path / "frames", moving_frames(120))
    masks = moving_masks(120)
    if later_frames == "without holes":
        masks[8:] = False
    write_pngs(tmp_path / "masks", masks)
    paths = (tmp_path / "frames", tmp_path / "masks", tmp_path / "result")
    if later_frames == "filled before":
        keep_segments(*paths, (8, 119), config=config)
    alive, most = [], 0
    read = stream.read_frames

    def watched(*args, **options):
        nonlocal most
        for frame in read(*args, **options):
            alive[:] = [dead for dead in alive if dead() is not None]
            alive.append(weakref.ref(frame.picture))
            most = max(most, len(alive))
            yield frame
            del frame

    monkeypatch.setattr(stream, "read_frames", watched)
    report = inpaint_file(*paths, config=config, resume=True)
    assert report.resumed_frames == (112 if later_frames == "filled before" else 0)
    # A segment with its halo, the queues before and after it, of which one takes a segment more;
    # the frame that is next in each.
    assert most <= 8 + 2 * ShotInpainter(config).halo + 2 * stream.QUEUE_FRAMES + 8 + 4


def test_where_memory_ends_a_segment_is_filled_in_parts(two_shots, tmp_path, monkeypatch, caplog):
    folder, prefill = two_shots.folder, ShotInpainter.prefill

    def fail_for_many(self, frames, masks, segment, *args, **options):
        if segment.num_frames > 3:
            np.ones(2**58)  # as when the machine has no more
        return prefill(self, frames, masks, segment, *args, **options)

    monkeypatch.setattr(ShotInpainter, "prefill", fail_for_many)
    paths = (folder / "frames", folder / "masks", tmp_path / "result")
    inpaint_file(*paths, config=SHORT_REACH)
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result)
    assert [record.message.split(";")[0] for record in caplog.records] == ["Out of memory"]


def test_networks_are_tried_with_less_memory(tmp_path, monkeypatch, caplog):
    write_pngs(tmp_path / "frames", moving_frames(6))
    write_pngs(tmp_path / "masks", moving_masks(6))
    torch.manual_seed(0)
    model = CombCN(NetworkConfig())
    config = InpaintConfig(propagate=False, precision="fp32")
    paths = (tmp_path / "frames", tmp_path / "masks")
    inpaint_file(*paths, tmp_path / "expected", config=config, model=model)
    restore, given = ShotInpainter.restore, []

    def fail_with_much(self, *args, **options):
        given.append(self.model.memory_bytes or 2**30)
        if given[-1] > 2**27:
            torch.ones(2**58)
        return restore(self, *args, **options)

    monkeypatch.setattr(ShotInpainter, "restore", fail_with_much)
    inpaint_file(*paths, tmp_path / "result", config=config, model=model)
    assert given == [2**30, 2**29, 2**28, 2**27]
    expected = read_pngs(tmp_path / "expected").astype(int)
    assert np.abs(read_pngs(tmp_path / "result") - expected).max() <= 1
    assert len(caplog.records) == 1


def test_flow_beside_the_networks_gives_the_same(two_shots, tmp_path, monkeypatch):
    # What runs in threads where networks have a GPU, here on the CPU.
    monkeypatch.setattr(ShotInpainter, "on_gpu", True)
    folder = two_shots.folder
    paths = (folder / "frames", folder / "masks", tmp_path / "result")
    report = inpaint_file(*paths, config=replace(SHORT_REACH, segment_frames=7))
    np.testing.assert_array_equal(read_pngs(tmp_path / "result"), two_shots.result)
    assert report.frames == len(two_shots.result)

    def stop(now):
        raise RuntimeError("enough")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="enough"):
        inpaint_file(*paths[:2], tmp_path / "other", config=SHORT_REACH, progress=stop)
    assert threading.active_count() <= before + 2  # none but the workers of the flow
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result"]


def test_memory_limit_rejects_what_fits_no_frame(two_shots, tmp_path):
    folder = two_shots.folder
    paths = (folder / "frames", folder / "masks", tmp_path / "result")
    with pytest.raises(ValueError, match="memory limit"):
        inpaint_file(*paths, memory_limit_gib=0.001)
    assert list(tmp_path.iterdir()) == []


# References


def test_reference_stands_in_its_frame_and_spreads_to_others(tmp_path):
    # The camera stands still, so nothing behind the hole is ever seen.
    truth = np.repeat(moving_frames(1), 9, axis=0)
    spoilt = truth.copy()
    spoilt[:, 14:34, 20:44] = 255
    plate = truth[0].copy()
    plate[0] = 0  # outside of the mask, where it does not count
    write_pngs(tmp_path / "frames", spoilt)
    cv2.imwrite(str(tmp_path / "plate.png"), cv2.cvtColor(plate, cv2.COLOR_RGB2BGR))
    report = inpaint_file(
        tmp_path / "frames",
        "20,14,24,20",
        tmp_path / "result",
        references={4: tmp_path / "plate.png"},
    )
    result = read_pngs(tmp_path / "result")
    np.testing.assert_array_equal(result[4], truth[4])
    hole = np.zeros(truth.shape[:3], bool)
    hole[:, 14:34, 20:44] = True
    np.testing.assert_array_equal(result[~hole], truth[~hole])
    assert np.abs(result[hole].astype(int) - truth[hole]).mean() < 4
    assert report.reference_pixels == 24 * 20
    reach = {"frames": 8, "first": 0, "last": 8, "pixels": 8 * 24 * 20}
    assert report.reference_reach == {4: reach}
    assert report.hole_pixels == 9 * 24 * 20
    assert report.changed_outside_mask == 0


@pytest.mark.parametrize("resumes", [False, True])
def test_report_says_how_far_a_reference_travelled(panned, tmp_path, monkeypatch, resumes):
    """A painted frame in a colour of its own; where that is seen in others is counted in them."""
    frames, holes, _ = panned(24, height=72, width=100)
    write_pngs(tmp_path / "frames", np.stack(frames))
    (tmp_path / "masks").mkdir()
    for t, hole in enumerate(holes):
        cv2.imwrite(str(tmp_path / "masks" / f"{t:03d}.png"), hole.astype(np.uint8) * 255)
    painted = np.full((72, 100, 3), (255, 0, 255), np.uint8)
    cv2.imwrite(str(tmp_path / "paint.png"), painted)
    paths = (tmp_path / "frames", tmp_path / "masks", tmp_path / "result")
    settings = {
        "references": {12: tmp_path / "paint.png"},
        "config": InpaintConfig(reach=4, segment_frames=12, unseen="smooth", match_grain=False),
    }

    def stop(now):
        if resumes and now.frames == 14:
            raise KeyboardInterrupt

    if resumes:
        with pytest.raises(KeyboardInterrupt):
            inpaint_file(*paths, **settings, resume=True, progress=stop)
    report = inpaint_file(*paths, **settings, resume=resumes)
    assert (report.resumed_frames > 0) == resumes
    result = read_pngs(tmp_path / "result").astype(int)
    seen = (np.abs(result - (255, 0, 255)).max(-1) < 60) & np.stack(holes)
    seen[12] = False
    reach = report.reference_reach[12]
    there = np.flatnonzero(seen.sum((1, 2)) > 100)  # fewer are smeared by the smooth fill
    # At either end a frame may have too few of them to be seen.
    assert 0 <= there[0] - reach["first"] <= 1
    assert 0 <= reach["last"] - there[-1] <= 1
    assert reach["frames"] == reach["last"] - reach["first"]  # all but the painted one
    # The smooth fill beside it takes the colour over, too.
    assert 0.6 * seen.sum() < reach["pixels"] < seen.sum()


def test_reference_that_reaches_nothing_is_said_so(tmp_path):
    """A cut ends the shot, and nothing crosses it."""
    frames = np.random.default_rng(0).integers(0, 255, (2, HEIGHT, WIDTH, 3), np.uint8)
    frames[1] = 255 - frames[0] // 8
    write_pngs(tmp_path / "frames", frames)
    cv2.imwrite(str(tmp_path / "plate.png"), frames[0])
    report = inpaint_file(
        tmp_path / "frames",
        "20,14,24,20",
        tmp_path / "result",
        references={0: tmp_path / "plate.png"},
    )
    assert report.reference_reach == {0: {}}
    line = summary(tmp_path / "result", report)
    assert "reference 0 reached no other frame (docs/references.md)" in line


def test_reference_of_other_depth_is_converted(tmp_path):
    frames = moving_frames(3, np.uint16)
    write_pngs(tmp_path / "frames", frames)
    plate = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "plate.png"), plate)
    inpaint_file(
        tmp_path / "frames", "4,4,8,8", tmp_path / "result", references={1: tmp_path / "plate.png"}
    )
    result = read_pngs(tmp_path / "result")
    assert (result[1, 4:12, 4:12] == 200 * 257).all()


def test_reference_makes_a_mask_over_everything_acceptable(tmp_path):
    write_pngs(tmp_path / "frames", moving_frames(3))
    plate = cv2.cvtColor(moving_frames(1, seed=7)[0], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(tmp_path / "plate.png"), plate)
    box = f"0,0,{WIDTH},{HEIGHT}"
    with pytest.raises(ValueError, match="whole frame in frames 0 to 2"):
        inpaint_file(tmp_path / "frames", box, tmp_path / "result")
    references = {0: tmp_path / "plate.png"}
    inpaint_file(tmp_path / "frames", box, tmp_path / "result", references=references)
    result = read_pngs(tmp_path / "result")
    np.testing.assert_array_equal(result[0], moving_frames(1, seed=7)[0])


def test_shot_without_a_known_pixel_is_refused(two_shots, tmp_path):
    masks = two_shots.masks.copy()
    masks[61:] = True
    write_pngs(tmp_path / "masks", masks)
    with pytest.raises(ValueError, match="whole frame in frames 61 to 92"):
        inpaint_file(
            two_shots.folder / "frames",
            tmp_path / "masks",
            tmp_path / "result",
            config=SHORT_REACH,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


@pytest.mark.parametrize(
    ("number", "size", "message"),
    [
        (3, (WIDTH, HEIGHT), "has frames 0 to 2"),
        (1, (HEIGHT, WIDTH), f"is {HEIGHT}x{WIDTH} but the clip is {WIDTH}x{HEIGHT}"),
    ],
)
def test_reference_rejects_wrong_number_or_size(tmp_path, number, size, message):
    write_pngs(tmp_path / "frames", moving_frames(3))
    cv2.imwrite(str(tmp_path / "plate.png"), np.zeros((*size[::-1], 3), np.uint8))
    with pytest.raises(ValueError, match=message):
        inpaint_file(
            tmp_path / "frames",
            "4,4,8,8",
            tmp_path / "result",
            references={number: tmp_path / "plate.png"},
        )
    assert not (tmp_path / "result").exists()


# What can go wrong on the way


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", ["result.mkv", "result"])
def test_interrupted_run_leaves_nothing(tmp_path, stop, name):
    write_pngs(tmp_path / "frames", moving_frames(8))
    before = sorted(tmp_path.iterdir())

    def progress(now):
        assert now.num_frames in (0, 8)
        if now.frames == 5:
            raise stop

    with pytest.raises(stop):
        inpaint_file(
            tmp_path / "frames",
            "4,4,8,8",
            tmp_path / name,
            fps=Fraction(24) if name.endswith("mkv") else None,
            config=InpaintConfig(segment_frames=3),
            progress=progress,
        )
    assert sorted(tmp_path.iterdir()) == before


def test_truncated_clip_is_used_only_when_allowed(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", moving_frames(20))
    data = whole.read_bytes()
    clip = tmp_path / "clip.mkv"
    clip.write_bytes(data[: len(data) * 3 // 5])
    write_pngs(tmp_path / "masks", moving_masks(20))
    with pytest.raises(ValueError, match="cut short"):
        inpaint_file(clip, tmp_path / "masks", tmp_path / "result")
    report = inpaint_file(clip, tmp_path / "masks", tmp_path / "result", allow_truncated=True)
    result = read_pngs(tmp_path / "result")
    assert 5 < report.frames == len(result) < 20
    known = ~moving_masks(20)[: len(result)]
    np.testing.assert_array_equal(result[known], moving_frames(20)[: len(result)][known])
    assert report.changed_outside_mask == 0


def test_output_may_not_replace_a_mask_or_a_reference(tmp_path):
    clip = write_video(tmp_path / "clip.mkv", moving_frames(3))
    mask = tmp_path / "mask.mkv"
    shutil.copy(clip, mask)
    content = mask.read_bytes()
    with pytest.raises(ValueError, match="one of the inputs"):
        inpaint_file(clip, mask, mask)
    assert mask.read_bytes() == content


def test_written_file_is_what_is_checked(tmp_path, monkeypatch):
    # Spoil known pixels on their way to the file: the count must show it.
    write_pngs(tmp_path / "frames", moving_frames(4))
    restore = ShotInpainter.restore

    def spoil(*arguments, **options):
        result = restore(*arguments, **options)
        frame = result.frames[2]
        pixels = frame.frame.copy()
        pixels[0, :7] ^= 1
        result.frames[2] = frame._replace(frame=pixels)
        return result

    monkeypatch.setattr(ShotInpainter, "restore", spoil)
    report = inpaint_file(tmp_path / "frames", "4,4,8,8", tmp_path / "result")
    assert report.changed_outside_mask == 7


def test_report_adds_up_and_survives_json(tmp_path):
    frames, masks = moving_frames(12), moving_masks(12)
    write_pngs(tmp_path / "frames", frames)
    write_pngs(tmp_path / "masks", masks)
    told = []
    report = inpaint_file(
        tmp_path / "frames",
        tmp_path / "masks",
        tmp_path / "result",
        config=InpaintConfig(segment_frames=5),
        progress=told.append,
    )
    assert told[0].stage == "opening"  # at once
    assert [now.frames for now in told if now.stage == "writing"] == list(range(1, 13))
    assert {now.num_frames for now in told[1:]} == {12}
    shares = [now.share for now in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    stages = list(dict.fromkeys(now.stage for now in told))
    assert stages == ["opening", "reading", "finding motion", "filling", "writing", "checking"]
    # The check is a stage of its own, frame by frame.
    assert len([now for now in told if now.stage == "checking"]) > 12
    parts = ("reference_pixels", "propagated_pixels", "filled_pixels", "network_pixels")
    assert sum(getattr(report, part) for part in parts) == report.hole_pixels == masks.sum()
    stages = dict(report.seconds)
    total = stages.pop("total")
    assert {"read", "write", "check", "flow"} <= stages.keys()
    # Reading and writing have their own threads; opening is none of the stages.
    beside = stages["read"] + stages["write"]
    assert 0.5 * total < sum(stages.values()) <= total + beside + 0.1
    assert report.peak_memory_bytes > 50e6
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["hole_pixels"] == masks.sum()
    assert saved["settings"]["reach"] == 48
    assert [file.name for file in tmp_path.glob("*.part")] == []
    assert Path(saved["settings"]["output"]) == tmp_path / "result"


@pytest.mark.parametrize(("reach", "tries"), [(30, 1), (1, 2)])
def test_few_frames_are_those_of_the_whole_clip(panned, tmp_path, monkeypatch, reach, tries):
    """Frames around them are filled only as far as what remains in them needs it."""
    frames, holes, _ = panned(30, height=72, width=100)
    small = np.zeros_like(holes[0])
    small[30:38, 40:48] = True
    for name, pictures in (("frames", frames), ("masks", [small.astype(np.uint8) * 255] * 30)):
        (tmp_path / name).mkdir()
        for t, picture in enumerate(pictures):
            cv2.imwrite(str(tmp_path / name / f"{t:03d}.png"), picture)
    config = InpaintConfig(reach=reach)
    inpaint_file(tmp_path / "frames", tmp_path / "masks", tmp_path / "whole", config=config)
    contexts, prefill = [], ShotInpainter._prefill
    monkeypatch.setattr(
        ShotInpainter,
        "_prefill",
        lambda self, *inputs: contexts.append(inputs[4]) or prefill(self, *inputs),
    )

    inpaint_file(
        tmp_path / "frames", tmp_path / "masks", tmp_path / "some", config=config, frames=(2, 4)
    )

    assert len(contexts) == tries
    for name in ("002.png", "003.png", "004.png"):
        written = (tmp_path / "some" / name).read_bytes()
        assert written == (tmp_path / "whole" / name).read_bytes()
