"""A small run of benchmarks/fuzz.py; the full one is a command."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_damaged_files_end_in_results_or_sentences():
    command = [sys.executable, "-m", "benchmarks.fuzz", "--count", "40", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^all((?: +\d+){6})$", done.stdout, re.MULTILINE)
    assert len(rows) == 2  # by input and by damage
    for row in rows:
        tried, right, clean, *failures = map(int, row.split())
        assert tried == right + clean == 40
        assert right > 0
        assert clean > 0
        assert failures == [0, 0, 0]  # crashes, hangs, stray writes
