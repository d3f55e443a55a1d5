"""The built-in clip, see `clip`."""
