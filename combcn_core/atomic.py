"""Files that appear under their name only when they are whole, and folders for them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file, or replace one.

    Args:
        path: its name, in a folder that exists.
        content: all of it.
        sync: wait until the disk has it, so that not even a power cut leaves half a file.

    Raises:
        OSError: the disk refused; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # on the same disk
    try:
        with open(partial, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results where there is none.

    Raises:
        ValueError: it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"folder {folder} cannot be made ({reason}); give another one.") from error
    return folder
