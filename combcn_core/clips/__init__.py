"""Clips as files: read, written, and scanned for damage.

`frames` says what a clip is apart from how it is stored; `video` opens readers and writers of any.
Of videos, `scan` and `decode` find out what a file holds, `read` yields its frames, `formats` says
what is written and `write` writes it, with `tracks` (sound, subtitles, ...), `hdr` and `timecode`;
`color` is the arithmetic between, `planes` are frames as decoded. `images` reads and writes folders
of images, `exr` the scene-linear ones. `masks` gives each frame its mask: `mask_sources` reads
those of every kind, and `mask_rules` says what of them is hole. `pictures` draws what is looked at:
panels, outlines, x-t slices, curves.
"""
