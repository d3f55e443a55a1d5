"""docs/formats.md: every cell of its tables, tried with a clip made by ffmpeg.

What comes out is looked at with ffprobe and ffmpeg. A cell says what becomes of the thing that its
column names: "kept", "as ...", "left out" or "refused".
"""

import json
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from combcn_core.clips.formats import CODECS, CONTAINERS
from combcn_core.clips.video import open_reader, open_writer

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="needs ffmpeg"
)
TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
PICTURE = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.12"]
TONE = ["-f", "lavfi", "-i", "aevalsrc=0.5*sin(440*2*PI*t)|0.5*sin(440*2*PI*t):s=48000:d=0.5"]
DISPLAY = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50)"
SUBTITLES = "1\n00:00:00,000 --> 00:00:00,040\nHello\n\n2\n00:00:00,080 --> 00:00:00,120\nWorld\n"
CHAPTERS = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=80\ntitle=One\n"
# A track of Blu-ray subtitles that shows nothing: one composition, and the end of its set.
BITMAPS = b"PG" + bytes.fromhex("00002328 00000000 16 000b 0040 0030 10 0000 80 00 00 00")
BITMAPS += b"PG" + bytes.fromhex("00002328 00000000 80 0000")


def table(first):
    """The rows of the table whose first column has this title: {title of a column: cell}."""
    blocks = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    (block,) = (block for block in blocks if block.startswith(f"| {first} |"))
    titles, _, *rows = (
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in block.splitlines()
    )
    return [dict(zip(titles, row, strict=True)) for row in rows]


PICTURES, TRACKS = table("OUTPUT"), table("source has")


def ffmpeg(*arguments):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(path, *arguments):
    command = ["ffprobe", "-v", "error", "-of", "json", *arguments, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)


def stream(path, kind, place=0):
    found = probe(path, "-show_streams")["streams"]
    return [one for one in found if one["codec_type"] == kind][place]


def sides(path):
    """Side data of the first frame and of the stream, by name."""
    shown = probe(
        path, "-select_streams", "v:0", "-show_frames", "-show_streams", "-read_intervals", "%+#1"
    )
    both = [*shown["frames"], *shown["streams"]]
    return {one["side_data_type"]: one for part in both for one in part.get("side_data_list", [])}


def rgb(path):
    """The first frame, 0 to 1, as ffmpeg decodes it."""
    data = ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb48le", "-")
    return np.frombuffer(data, "<u2").reshape(48, 64, 3) / 65535


def rewrite(source, output, codec=None):
    reader = open_reader(source)
    with reader, open_writer(output, reader.info, codec=codec) as writer:
        for frame in reader:
            writer.write(frame.pixels)
    return output / "000000.png" if output.is_dir() else output


# --- clips, and what became of what they have -----------------------------------------------------


def clip_of_bits(path, pixel_format):
    ffmpeg(*PICTURE, "-pix_fmt", pixel_format, "-c:v", "ffv1", path)


def depth(source, written):
    assert np.abs(rgb(source) - rgb(written)).mean() < 0.05
    before, after = bits(source), bits(written)
    return "kept" if before == after else f"as {after} bits"


def bits(path):
    video = stream(path, "video")
    if video["codec_name"] == "prores":  # of 4444, 12 are decoded whatever was encoded
        return 10
    deep = re.search(r"(\d+)[bl]e$", video["pix_fmt"])
    return {None: 8, "48": 16}.get(deep and deep[1], int(deep[1]) if deep else 8)


def clip_with_alpha(path):
    ffmpeg(
        *PICTURE, "-vf", "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='if(lt(X,32),255,99)'",
        "-pix_fmt", "bgra", "-c:v", "ffv1", path,
    )  # fmt: skip


def alpha(source, written):
    vp9 = stream(written, "video")["codec_name"] == "vp9"
    decoder = ["-c:v", "libvpx-vp9"] if vp9 else []
    data = ffmpeg(
        *decoder, "-i", written, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgba", "-"
    )
    found = np.frombuffer(data, np.uint8).reshape(48, 64, 4)[..., 3].astype(float)
    if found.min() == 255:
        return "left out"
    assert abs(found[:, :28].mean() - 255) < 3
    assert abs(found[:, 36:].mean() - 99) < 3
    return "kept"


def clip_in_hdr10(path):
    ffmpeg(
        *PICTURE, "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params",
        f"log-level=none:hdr10=1:master-display={DISPLAY}:max-cll=1000,400:colorprim=bt2020:"
        "transfer=smpte2084:colormatrix=bt2020nc", path,
    )  # fmt: skip


def hdr10(source, written):
    found = sides(written)
    light = found.get("Content light level metadata")
    display = found.get("Mastering display metadata")
    if transfer(written) != ("bt2020", "smpte2084") or light is None or display is None:
        return "left out"
    assert (light["max_content"], light["max_average"]) == (1000, 400)
    assert float(Fraction(display["red_x"])) == pytest.approx(0.708, abs=1e-4)
    assert float(Fraction(display["max_luminance"])) == pytest.approx(1000, rel=1e-3)
    return "kept"


def clip_in_hlg(path):
    ffmpeg(
        *PICTURE, "-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020",
        "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc", "-c:v", "ffv1", path,
    )  # fmt: skip


def hlg(source, written):
    return "kept" if transfer(written) == ("bt2020", "arib-std-b67") else "left out"


def transfer(path):
    video = stream(path, "video")
    return video.get("color_primaries"), video.get("color_transfer")


def clip_in_fields(path):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=50:duration=0.12",
        "-vf", "interlace=scan=tff,setfield=tff", "-c:v", "ffv1", "-flags", "+ildct+ilme",
        "-field_order", "tt", path,
    )  # fmt: skip


def interlaced(source, written):
    frame = probe(written, "-select_streams", "v:0", "-show_frames", "-read_intervals", "%+#1")
    (frame, *_) = frame["frames"]
    if not frame["interlaced_frame"]:
        return "left out"
    assert frame["top_field_first"] == 1
    assert stream(written, "video")["field_order"] == "tt"
    return "kept"


PICTURE_COLUMNS = {
    "8 bits": (lambda path: clip_of_bits(path, "yuv420p"), depth),
    "10 bits": (lambda path: clip_of_bits(path, "yuv420p10le"), depth),
    "16 bits": (lambda path: clip_of_bits(path, "gbrp16le"), depth),
    "alpha": (clip_with_alpha, alpha),
    "HDR10": (clip_in_hdr10, hdr10),
    "HLG": (clip_in_hlg, hlg),
    "interlaced": (clip_in_fields, interlaced),
}


def clip_with_sound(path, codec):
    ffmpeg(*PICTURE, *TONE, "-c:v", "mpeg4", "-c:a", ENCODERS.get(codec, codec), path)


SOUNDS = {"aac": "AAC", "mp3": "MP3", "ac3": "AC-3", "eac3": "E-AC-3", "alac": "ALAC"}
SOUNDS |= {"flac": "FLAC", "opus": "Opus", "vorbis": "Vorbis", "pcm_s24le": "PCM"}

ENCODERS = {"opus": "libopus", "vorbis": "libvorbis", "mp3": "libmp3lame"}


def sound(source, written):
    data = ffmpeg("-i", written, "-map", "0:a:0", "-f", "f32le", "-")
    middle = np.frombuffer(data, "<f4")[2 * 9600 : 2 * 19200]
    level = np.sqrt((middle**2).mean())
    assert level == pytest.approx(0.354, rel=0.1)  # of a sine that reaches a half
    before, after = (stream(path, "audio")["codec_name"] for path in (source, written))
    return "kept" if before == after else f"as {SOUNDS[after]}"


def clip_with_subtitles(path, codec):
    text = path.with_suffix(".srt")
    text.write_text(SUBTITLES)
    # Only MP4 has mov_text.
    form = ["-f", "mp4"] if codec == "mov_text" else []
    ffmpeg(
        *PICTURE, "-i", text, "-map", "0", "-map", "1", "-c:v", "mpeg4", "-c:s", codec, *form, path
    )


def clip_with_bitmaps(path):
    pictures = path.with_suffix(".sup")
    pictures.write_bytes(BITMAPS)
    ffmpeg(
        *PICTURE, "-i", pictures, "-map", "0", "-map", "1", "-c:v", "mpeg4", "-c:s", "copy", path
    )


def subtitles(source, written):
    if not [
        one for one in probe(written, "-show_streams")["streams"] if one["codec_type"] == "subtitle"
    ]:
        return "left out"
    before, after = (stream(path, "subtitle")["codec_name"] for path in (source, written))
    if after != "hdmv_pgs_subtitle":
        text = ffmpeg("-i", written, "-f", "srt", "-").decode()
        assert text.strip() == SUBTITLES.strip()
    names = {"subrip": "SubRip", "webvtt": "WebVTT", "mov_text": "mov_text"}
    return "kept" if before == after else f"as {names[after]}"


def clip_with_chapters(path):
    text = path.with_suffix(".txt")
    text.write_text(CHAPTERS)
    ffmpeg(*PICTURE, "-i", text, "-map", "0", "-map_metadata", "1", "-c:v", "mpeg4", path)


def chapters(source, written):
    found = probe(written, "-show_chapters")["chapters"]
    if not found:
        return "left out"
    (one,) = found
    assert (one["tags"]["title"], float(one["end_time"])) == ("One", 0.08)
    return "kept"


def clip_with_attachment(path):
    font = path.with_suffix(".ttf")
    font.write_bytes(b"not a font" * 9)
    ffmpeg(*PICTURE, "-c:v", "mpeg4", "-attach", font, "-metadata:s:t", "mimetype=font/ttf", path)


def attachments(source, written):
    found = [one["codec_type"] for one in probe(written, "-show_streams")["streams"]]
    return "kept" if "attachment" in found else "left out"


def clip_with_time_code(path):
    ffmpeg(*PICTURE, "-c:v", "mpeg4", "-timecode", "01:02:03:04", "-f", "mov", path)


def time_code(source, written):
    shown = json.dumps(probe(written, "-show_streams", "-show_format"))
    return "kept" if "01:02:03:04" in shown else "left out"


def clip_with_data(path):
    """A track of data beside the picture, as a GoPro's: ffmpeg makes one of text, renamed here."""
    clip_with_subtitles(path, "mov_text")
    data = path.read_bytes()
    assert (data.count(b"tx3g"), data.count(b"sbtl")) == (1, 1)
    path.write_bytes(data.replace(b"tx3g", b"gpmd").replace(b"sbtl", b"meta"))


def data_track(source, written):
    if "data" not in [one["codec_type"] for one in probe(written, "-show_streams")["streams"]]:
        return "left out"
    assert stream(written, "data")["codec_tag_string"] == "gpmd"
    packets = [
        ffmpeg("-i", path, "-map", "0:d:0", "-c", "copy", "-f", "data", "-")
        for path in (source, written)
    ]
    assert b"Hello" in packets[0]
    assert packets[0] == packets[1]
    return "kept"


def clip_with_wide_pixels(path):
    ffmpeg(*PICTURE, "-vf", "setsar=4/3", "-c:v", "libx264", path)


def pixel_aspect(source, written):
    return "kept" if stream(written, "video").get("sample_aspect_ratio") == "4:3" else "left out"


def clip_at_a_variable_rate(path):
    ffmpeg(
        *PICTURE, "-vf", "settb=1/1000,setpts='if(eq(N,2),120,40*N)'", "-vsync", "passthrough",
        "-c:v", "libx264", "-bf", "0", path,
    )  # fmt: skip


def variable_rate(source, written):
    shown = probe(written, "-select_streams", "v:0", "-show_entries", "packet=pts_time")["packets"]
    times = sorted(float(one["pts_time"]) for one in shown)
    return "kept" if times == pytest.approx([0, 0.04, 0.12], abs=0.002) else "left out"


TRACK_COLUMNS = {
    **{
        name: (lambda path, codec=codec: clip_with_sound(path, codec), sound)
        for codec, name in SOUNDS.items()
    },
    **{
        name: (lambda path, codec=codec: clip_with_subtitles(path, codec), subtitles)
        for codec, name in (
            ("srt", "SubRip"), ("ass", "ASS"), ("webvtt", "WebVTT"), ("mov_text", "mov_text")
        )
    },
    "Blu-ray subtitles": (clip_with_bitmaps, subtitles),
    "chapters": (clip_with_chapters, chapters),
    "attachments": (clip_with_attachment, attachments),
    "time code": (clip_with_time_code, time_code),
    "GoPro data": (clip_with_data, data_track),
    "pixel aspect": (clip_with_wide_pixels, pixel_aspect),
    "variable rate": (clip_at_a_variable_rate, variable_rate),
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Makes a clip for a column, once."""
    folder, made = tmp_path_factory.mktemp("sources"), {}

    def source(column):
        if column not in made:
            path = folder / f"{column.replace(' ', '_')}.mkv"
            {**PICTURE_COLUMNS, **TRACK_COLUMNS}[column][0](path)
            made[column] = path
        return made[column]

    return source


CELLS = [
    (row["OUTPUT"], row["--codec"], *cell) for row in PICTURES for cell in list(row.items())[2:]
]
CELLS += [(end, "", row["source has"], row[end]) for row in TRACKS for end in CONTAINERS]


@pytest.mark.parametrize(("ending", "codec", "column", "cell"), CELLS)
def test_cell_says_what_happens(tmp_path, caplog, sources, ending, codec, column, cell):
    source, look = sources(column), {**PICTURE_COLUMNS, **TRACK_COLUMNS}[column][1]
    output = tmp_path / f"b{ending.replace('a folder', '')}"
    if cannot_encode(codec, is_deep=column in ("10 bits", "16 bits", "HDR10", "HLG")):
        cell = "refused"  # whatever the PyAV of constraints.txt can
    elif codec == "vp9" and cell == "refused":
        cell = "as 10 bits" if column == "16 bits" else "kept"
    if cell == "refused":
        with pytest.raises(ValueError, match=r"PyAV (lacks|does not encode)"):
            rewrite(source, output, codec or None)
        assert not output.exists()
        return
    assert look(source, rewrite(source, output, codec or None)) == cell
    if cell == "left out":
        assert caplog.text


def cannot_encode(codec, is_deep):
    if not codec:
        return False
    encoder = CODECS[codec].encoder
    formats = () if encoder not in av.codecs_available else av.Codec(encoder, "w").video_formats
    names = {form.name for form in formats or ()}
    return not names or (codec == "vp9" and is_deep and "yuv420p10le" not in names)


def test_tables_are_whole():
    """All codecs of all endings, the default first; qualities are those that are used."""
    rows = [(row["OUTPUT"], row["--codec"]) for row in PICTURES]
    assert rows == [
        *((ending, codec) for ending, form in CONTAINERS.items() for codec in form.codecs),
        ("a folder", ""),
    ]
    assert {*list(PICTURES[0])[2:], *(row["source has"] for row in TRACKS)} == {
        *PICTURE_COLUMNS, *TRACK_COLUMNS
    }  # fmt: skip
    sentence = TEXT[: TEXT.index("| OUTPUT")].replace("\n", " ")
    stated = {name: int(crf) for name, crf in re.findall(r"`(\w+)` (\d+)", sentence)}
    assert stated == {name: codec.crf for name, codec in CODECS.items() if codec.crf is not None}
