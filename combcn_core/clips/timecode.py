"""Time codes, counted on."""

from __future__ import annotations

import re
from fractions import Fraction


def shift_timecode(timecode: str, num_frames: int, fps: Fraction) -> str:
    """The time code so many frames later; "" where there is none, as at unusual rates.

    With ";" or "." before the frames, numbers are dropped: the first two of 30, or four of 60, in
    each minute but every tenth. Source: SMPTE ST 12-1, section 5.2.
    """
    match = re.fullmatch(r"(\d+):(\d+):(\d+)([:;.])(\d+)", timecode)
    nominal = round(fps)
    is_ntsc = fps == Fraction(nominal * 1000, 1001)
    if match is None or nominal not in (24, 25, 30, 48, 50, 60) or not (is_ntsc or fps == nominal):
        return ""
    dropped = 0  # of each minute
    if match[4] != ":":
        if not is_ntsc or nominal % 30:
            return ""
        dropped = nominal // 15
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    minutes += 60 * hours
    number = nominal * (60 * minutes + seconds) + frames - dropped * (minutes - minutes // 10)
    ten_minutes = nominal * 600 - dropped * 9
    tens, number = divmod(number + num_frames, ten_minutes)
    skipped = max(number - dropped, 0) // (nominal * 60 - dropped)  # of the nine
    number += tens * nominal * 600 + dropped * skipped
    seconds, frames = divmod(number, nominal)
    hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
    return f"{hours:02}:{minutes:02}:{seconds % 60:02}{match[4]}{frames:02}"
