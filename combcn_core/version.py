"""The version of CombCN, and that of its results; nothing else is imported with them."""

__version__ = "0.1.0"

RESULTS_VERSION = 13
"""Raised by every change after which the same input gives other pixels or figures.

Segments that were kept, finished rows of a batch and rows of an evaluation count only as long as it
stays the same. `tests/system/test_results.py` notices a change without a new number.
"""
