"""Lay out what the default weights are trained on: python recipes/footage.py DATA OUTPUT

DATA holds train/ with clips and metadata.csv (clip, source, commit, licence, shot, weights_ok) and
photos/ with photographs and photos.csv (photo, source, commit_or_version, author, licence), all of
which the first stages learn from. OUTPUT gets

- all/: every clip whose row says weights_ok=yes, and the photographs; of the studio portraits,
  which are nearly half of these, every third. Decoded once and small, every fourth frame of a clip
  a key frame, so that reading does not slow training down;
- clips/: links to the clips and to every third photograph, for what learns from motion;
- footage.md: the two tables of the model card, with all photographs.

Training holds back the same files in both folders, see `choose`. Needs Pillow.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from pathlib import Path

import av
from PIL import Image

CLIP_SIDE, PHOTO_SIDE = 240, 360  # short side in pixels, at most
KEY_STEP = 4  # frames
BORDER = 11  # photographs to each side of where the held-back ones end, see `choose`

Row = dict[str, str]


def main() -> None:
    data, output = map(Path, sys.argv[1:])
    clips = [row for row in read(data / "train/metadata.csv") if row["weights_ok"] == "yes"]
    photos = sorted(read(data / "photos/photos.csv"), key=lambda row: row["photo"])
    upright = {row["photo"] for row in photos if is_portrait(data, row)}
    groups = choose(clips, photos, upright)
    some = subset(groups)
    for folder in (output / "all", output / "clips"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metadata.csv").write_bytes((data / "train/metadata.csv").read_bytes())
    for name in groups:
        target = output / "all" / stored_name(name)
        if not target.exists():
            write, source = (write_clip, "train") if is_clip(name) else (write_photo, "photos")
            unfinished = target.with_name(f".{target.name}")
            write(data / source / name, unfinished)
            os.replace(unfinished, target)
        link = output / "clips" / target.name
        if name in some and not link.exists():
            link.symlink_to(Path("..") / "all" / target.name)
    (output / "footage.md").write_text(tables(clips, photos, groups), encoding="utf-8")


def read(path: Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what to use ----------------------------------------------------------------------------------


def is_portrait(data: Path, row: Row) -> bool:
    """Upright photographs from the demos of codrops are studio portraits, nearly all of them."""
    with Image.open(data / "photos" / row["photo"]) as image:
        return image.height > image.width and row["source"].startswith("codrops")


def choose(clips: list[Row], photos: list[Row], portraits: set[str]) -> dict[str, str]:
    """File -> group, such that no file is held back in one training and learnt in another.

    Training holds back one group of six by a hash of its name, so which ones depends a little on
    what else is in the folder: in one of all photographs, as for the 2DCN that training starts
    from, in all/, and in clips/. What these do not agree on is left out.

    Args:
        clips, photos: rows that may be used.
        portraits: photographs of which every third is enough.
    """
    order = sorted({Path(row["photo"]).stem for row in photos}, key=digest)
    end = round(len(order) / 6)
    learnt = set(order[end + BORDER :])
    unclear = set(order[max(0, end - BORDER) : end + BORDER])
    groups = {row["clip"]: f"shot {row['shot']}" for row in clips}
    seen = 0  # portraits
    for row in photos:
        name, stem = row["photo"], Path(row["photo"]).stem
        if stem in unclear:
            continue
        seen += name in portraits
        if name not in portraits or seen % 3 == 0:
            groups[name] = stem
    while True:
        held = held_back(groups)
        some = subset(groups)
        held_in_some = held_back(some)
        odd = {group for name, group in some.items() if (group in held) != (group in held_in_some)}
        odd |= {
            group
            for name, group in groups.items()
            if not is_clip(name) and (group in held) == (group in learnt)
        }
        if not odd:
            return groups
        leave = min(odd, key=digest)
        groups = {name: group for name, group in groups.items() if group != leave}


def held_back(groups: dict[str, str]) -> set[str]:
    """The groups that `combcn train` holds back."""
    order = sorted(set(groups.values()), key=digest)
    return set(order[: round(len(order) / 6)])


def subset(groups: dict[str, str]) -> dict[str, str]:
    """The clips, and every third photograph."""
    photos = sorted(name for name in groups if not is_clip(name))[::3]
    return {name: group for name, group in groups.items() if is_clip(name) or name in set(photos)}


def digest(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()


def is_clip(name: str) -> bool:
    return name.endswith(".mp4")


# --- files ----------------------------------------------------------------------------------------


def stored_name(name: str) -> str:
    return (
        name if is_clip(name) else Path(name).stem + (".png" if name.endswith(".png") else ".jpg")
    )


def write_clip(source: Path, target: Path) -> None:
    with av.open(str(source)) as file, av.open(str(target), "w", format="mp4") as output:
        stream = file.streams.video[0]
        encoder = None
        for frame in file.decode(stream):
            scale = min(1, CLIP_SIDE / min(frame.width, frame.height))
            width, height = (round(side * scale / 2) * 2 for side in (frame.width, frame.height))
            if encoder is None:
                encoder = output.add_stream("libx264", rate=stream.average_rate or 25)
                encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
                encoder.options = {
                    "crf": "15", "g": str(KEY_STEP), "bf": "0", "preset": "fast",
                    "tune": "fastdecode", "threads": "1",
                }  # fmt: skip
            output.mux(
                encoder.encode(frame.reformat(width, height, "yuv420p", interpolation="AREA"))
            )
        if encoder is not None:
            output.mux(encoder.encode())


def write_photo(source: Path, target: Path) -> None:
    with Image.open(source) as file:
        image = file.convert("RGB")
    scale = PHOTO_SIDE / min(image.size)
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(
            size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS
        )
    image.save(target, "PNG" if target.suffix == ".png" else "JPEG", quality=95)


# --- the model card -------------------------------------------------------------------------------


def tables(clips: list[Row], photos: list[Row], groups: dict[str, str]) -> str:
    """What was used, as Markdown: where it is from, its licence, and in what it was used."""
    held = held_back(groups)
    lines = ["| clip | from | commit | licence as stated | |", "|---|---|---|---|---|"]
    for row in clips:
        name = row["clip"]
        if name in groups:
            cells = (name, row["source"], row["commit"][:10], row["licence"])
            lines.append(f"| {' | '.join(cells)} | {'held back' * (groups[name] in held)} |")
    lines += ["", "| photograph | by | from | licence as stated | |", "|---|---|---|---|---|"]
    for row in photos:
        name = row["photo"]
        cells = (name, row["author"], row["source"], row["licence"])
        use = "held back" * (groups[name] in held) if name in groups else "first stages only"
        lines.append(f"| {' | '.join(cells)} | {use} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
