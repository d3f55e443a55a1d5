"""The mutation check of benchmarks/mutants.py: what it breaks, and that tests notice."""

import ast
import sys
from pathlib import Path

import pytest

from benchmarks import mutants as check

PATH = Path(__file__).parents[2] / "benchmarks" / "mutants.py"
if sys.platform == "win32":
    pytest.skip("memory and file size are limited as on Unix", allow_module_level=True)


TOY = '''"""A docstring with 1 < 2."""
import logging

log = logging.getLogger("toy")
LIMIT: int = 3


def clamp(x, low=0, *, strict=False):
    """Not 7."""
    assert x != 9
    if x < low and not strict:
        raise ValueError(f"x is {x + 1}; give {2 * low} or more")
    log.warning("%d", 5)
    x += 4
    return max(x, low)


def head(items, n):
    items = sorted(items)
    return items[:n], divmod(n, 8) if True else -6
'''


def changes(operator):
    return {(m.before, m.after) for m in check.mutants(TOY) if m.operator == operator}


def test_each_mutant_is_another_valid_program():
    found = check.mutants(TOY)
    assert len(found) > 20
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(TOY))


def test_each_mutant_differs_in_the_lines_it_names():
    lines = TOY.splitlines()
    for mutant in check.mutants(TOY):
        broken = mutant.source.splitlines()
        different = [
            n for n, pair in enumerate(zip(lines, broken, strict=False), 1) if len(set(pair)) > 1
        ]
        assert different[0] == mutant.line
        assert mutant.before == lines[mutant.line - 1].strip()
        assert mutant.after == broken[mutant.line - 1].strip()


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("comparison", "if x < low and not strict:", "if (x <= low) and not strict:"),
        ("and/or", "if x < low and not strict:", "if (x < low or not strict):"),
        ("sign or not left out", "if x < low and not strict:", "if x < low and (strict):"),
        ("condition", "if x < low and not strict:", "if not (x < low and (not strict)):"),
        ("arithmetic", "x += 4", "x -= 4"),
        ("constant", "LIMIT: int = 3", "LIMIT: int = 4"),
        (
            "constant",
            "def clamp(x, low=0, *, strict=False):",
            "def clamp(x, low=0, *, strict=True):",
        ),
        ("function", "return max(x, low)", "return min(x, low)"),
        ("return None", "return max(x, low)", "return None"),
        ("return the first argument", "return max(x, low)", "return x"),
        ("statement left out", "x += 4", "pass"),
        ("statement left out", "items = sorted(items)", "pass"),
        (
            "slice end",
            "return items[:n], divmod(n, 8) if True else -6",
            "return items[:], divmod(n, 8) if True else -6",
        ),
        (
            "swapped arguments",
            "return items[:n], divmod(n, 8) if True else -6",
            "return items[:n], divmod(8, n) if True else -6",
        ),
    ],
)
def test_operators(operator, before, after):
    assert (before, after) in changes(operator)


def test_texts_assertions_and_logs_are_left_alone():
    broken = {m.before for m in check.mutants(TOY)}
    assert not any(text in line for line in broken for text in ("assert", "log", "docstring", "7"))
    errors = [m.after for m in check.mutants(TOY) if m.before.startswith("raise")]
    assert errors == ["pass"]


def test_sample_takes_each_line_once_and_is_seeded():
    modules = ("segments", "masks", "training.losses")
    chosen = check.sample(check.ROOT, modules, 60, seed=3)
    assert len(chosen) == 60
    assert len({(module, mutant.line) for module, mutant in chosen}) == 60
    assert {module for module, _ in chosen} == set(modules)
    assert chosen == check.sample(check.ROOT, modules, 60, seed=3)
    assert chosen != check.sample(check.ROOT, modules, 60, seed=4)


@pytest.mark.parametrize(
    ("body", "caught", "by"),
    [
        ("value = 1", False, ""),
        ("value = 2", True, "FAILED tests/test_toy.py::test_value"),
        ("import no_such_module", True, "ERROR tests/test_toy.py"),
        ("while True: pass", True, "time limit"),
    ],
)
def test_judge_against_known_verdicts(tmp_path, monkeypatch, body, caught, by):
    monkeypatch.syspath_prepend(PATH.parents[1])  # where the new process finds what it is to run
    monkeypatch.setitem(check.MODULES, "toy", "test_toy.py")
    root = tmp_path / "snapshot"
    (root / "combcn_core").mkdir(parents=True)
    (root / "combcn_core" / "__init__.py").touch()
    (root / "combcn_core" / "toy.py").write_text("value = 1\n")
    (root / "tests").mkdir()
    test = "from combcn_core import toy\n\ndef test_value():\n    assert toy.value == 1\n"
    (root / "tests" / "test_toy.py").write_text(test)
    (root / "quick_first.py").write_text(check.QUICK_FIRST)
    # The limit is 30 seconds and four times that: here two for what never ends.
    (tmp_path / "toy.seconds").write_text("-7" if by == "time limit" else "0")

    mutant = check.Mutant(1, "body", "value = 1", body, body)
    _, _, record = check.judge(tmp_path, "toy", mutant)
    assert record["caught"] == caught
    assert record["by"].startswith(by)
    # What is known of it counts until its module, or where it survived its tests, change.
    state = tmp_path / "state.jsonl"
    state.write_text(check.json.dumps(record) + "\n")
    assert check.key("toy", mutant) in check.read_state(state, root)
    (root / "tests" / "test_toy.py").write_text(test + "\n")
    assert (check.key("toy", mutant) in check.read_state(state, root)) == caught
