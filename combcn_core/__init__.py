"""CombCN: fill the holes of a video through time first, paint detail second."""

__version__ = "0.1.0"
