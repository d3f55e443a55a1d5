"""Clips as files: read, written, and scanned for damage.

`frames` says what a clip is apart from how it is stored, `video` and `images` read and write it as
a video or as a folder of images, `exr` the scene-linear ones. `masks` reads masks of every kind;
`pictures` draws what is looked at: panels, outlines, x-t slices, curves.
"""
