"""How many deliberate mistakes the tests catch: a mutation check.

    python -m benchmarks.mutants [--count N] [--seed N] [--jobs N] [--state FILE] [MODULE ...]

Modules are broken one line at a time, on a seeded sample of their lines: < becomes <=, + becomes -,
a constant grows by one, a statement is left out, and so on (`mutants`). Each mutant runs in a copy
of the package, against the tests of its own module alone. It is caught where they fail, or take
much longer than they do. The tests of `fill` end with tests/system/test_results.py, which compares
whole results with a stored picture; the table says how many are caught by that alone. Docstrings,
annotations, error texts, assertions and log messages are left alone, since no result depends on
them.

Results are appended to the state file, and a run that was stopped goes on from there. A mutant is
tried again when its module has changed, and one that survived, when the tests have.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import hashlib
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# The tests of each module: files in tests/.
# A whole result beside a stored picture: of numbers that were tuned no other test knows the right
# ones. It comes last, so that a record says what the tests before it miss.
RESULTS = "system/test_results.py"
MODULES = {
    "networks.layers": "unit/test_networks.py",
    "training.losses": "unit/test_losses.py",
    "segments": "unit/test_segments.py",
    "masks": "unit/test_masks.py",
    "pixels": "unit/test_pixels.py unit/test_masks.py files/test_planes.py",
    "clips.color": "files/test_color.py files/test_planes.py files/test_video.py",
    "clips.decode": "files/test_damage.py files/test_clip_info.py files/test_limits.py "
    "files/test_video.py",
    "clips.scan": "files/test_clip_info.py files/test_damage.py files/test_limits.py "
    "files/test_video.py files/test_any_file.py",
    "clips.read": "files/test_clip_info.py files/test_damage.py files/test_limits.py "
    "files/test_footage.py files/test_video.py",
    "clips.write": "files/test_writing.py files/test_tracks.py files/test_limits.py "
    "files/test_video.py files/test_any_file.py",
    "clips.tracks": "files/test_tracks.py files/test_limits.py files/test_video.py "
    "files/test_any_file.py",
    **{
        f"fill.{name}": f"unit/test_fill_{name}.py unit/test_fill_propagate.py {RESULTS}"
        for name in ("motion", "settle", "trace", "choose", "merge", "smooth")
    },
}

# A mutant may loop for ever, and fill the memory or the disk meanwhile.
MAX_MEMORY_BYTES = 8 * 2**30
MAX_FILE_BYTES = 2**30

NOT_THE_COPY = 99  # an exit code that pytest has no use for

# Runs the tests in the order of the seconds they took on the unbroken module, the quick ones first;
# those of whole results last.
QUICK_FIRST = """
import json, os, pathlib
times = pathlib.Path(os.environ["TIMES"])
known = json.loads(times.read_text()) if times.exists() else {}

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ("test_results" in item.nodeid, known.get(item.nodeid, 0)))

def pytest_runtest_logreport(report):
    known[report.nodeid] = known.get(report.nodeid, 0) + report.duration

def pytest_sessionfinish():
    if not times.exists():
        times.write_text(json.dumps(known))
"""

# Why nobody need notice what survives, by a part of the change.
TUNED = "a tuned number: one step more is as good, and tests take it from the module"
NOT_SEEN = "what lies outside is marked by the third value, and not trusted"
ANY_NEGATIVE = "NumPy takes any negative number for -1"
TWICE = "closing twice is the same as once"
NO_SUCH_FILES = (
    "seeking or not, the frames are the same; where packets are no frames it would matter, and no "
    "encoder at hand makes such files"
)
REASONS: dict[str, dict[str, str]] = {
    "networks.layers": {
        "nn.ReLU(inplace=False)": "in place takes less memory; values are the same"
    },
    "training.losses": {"mask = mask.to(prediction.dtype) -> pass": "PyTorch converts by itself"},
    "pixels": {
        "FEW_PIXELS = 1025": "both ways give the same values",
        "raise NotImplementedError -> pass": "every kind of stored frame has its own",
        "np.ones((1, 1, 3), frame.dtype)": "no position is read; its type and channels count",
        "max(float(end), 1)": "the box has room for more than the kernels reach",
    },
    "clips.color": {
        "_STRIPE_PIXELS * box.width": "rows at a time: a matter of speed",
        "_STRIPE_PIXELS = 2**17": "rows at a time: a matter of speed",
        "if blocks == flat.shape[2]": "with nothing left over, the longer way makes the same",
        "height > 576 else 6": "5 and 6 are one matrix",
    },
    "clips.decode": {
        "('NONE' if not name in": "with threads, chance says how much of what is broken is noticed",
        "crc32(packet[:stop]": "after slices that are whole, the checksum is where it began",
    },
    "fill.motion": {
        "-> CONTEXT_PIXELS = 65": TUNED,
        "weighted(pixels, 1 / np.maximum(share, 1e-6)) -> pass": "what is partly hole is not read",
        "-> GRID_STEP = 3": TUNED,
        "-> ELONGATION = 9": TUNED,
        "33 - width)": "flow needs 32 pixels, and has one more",
        "borderValue=(1, 0, 1)": NOT_SEEN,
        "borderValue=(0, 0, 2)": NOT_SEEN,
        "-> weights = np.zeros(len(terms))": "a first guess; the rounds of the fit converge",
        "-> for _ in range(5)": "rounds of a fit that has converged by then",
        "-> if len(first) < 101": "how many points are enough is a round number",
    },
    "fill.settle": {
        "-> SETTLE_ROUNDS = 9": TUNED,
        "-> SETTLE_PIXELS = 1.5": TUNED,
        "-> RELATION_STEP, LEAST_POINTS = 4": TUNED,
        "-> RELATION_STEP, LEAST_POINTS = 3, 61": TUNED,
        "-> first = RELATION_STEP // 3": "the same of a step of three",
        "reshape(-2, 3)": ANY_NEGATIVE,
    },
    "fill.choose": {"-> BLUR_COST = 21.0": TUNED, "-> RING_CELLS = 3": TUNED},
    "fill.merge": {
        "reshape(*shape, -2)": ANY_NEGATIVE,
        "DOUBT_SHIFT = 10.0, 4.0, 8, 1.5": TUNED,
    },
    "fill.trace": {
        "values.size > 2)": "no frame has two pixels",
        "-> ages = np.ones(len(rows)": "the age of what is seen nowhere is never read",
    },
    "clips.scan": {
        "-> if (counted or timed)": NO_SUCH_FILES,
        "-> is_mp4 = ('mp4' not in": "of the files at hand, decoding times alone depend on it",
    },
    "clips.write": {"self._container = None -> pass": TWICE},
    "clips.tracks": {
        "min(96001, 4 * rate)": TUNED,
        "output.codec_context.open() -> pass": "newer PyAV opens it by itself",
    },
}


class Mutant(NamedTuple):
    """A module with one thing wrong: where, what kind of thing, the lines concerned, its text."""

    line: int
    operator: str
    before: str
    after: str
    source: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--count", type=int, default=120, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at a time")
    parser.add_argument("--state", type=Path, default=Path("out/mutants.jsonl"))
    arguments = parser.parse_args()
    unknown = set(arguments.modules) - set(MODULES)
    if unknown:
        parser.error(
            f"no tests are known for {', '.join(sorted(unknown))}; give {', '.join(MODULES)}"
        )

    modules = arguments.modules or list(MODULES)
    arguments.state.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        ThreadPoolExecutor(arguments.jobs) as pool,
        arguments.state.open("a") as state,
    ):
        scratch = Path(name)
        take_snapshot(scratch / "snapshot", modules)
        chosen = sample(scratch / "snapshot", modules, arguments.count, arguments.seed)
        known = read_state(arguments.state, scratch / "snapshot")
        wanted = [(module, mutant) for module, mutant in chosen if key(module, mutant) not in known]
        for module in dict.fromkeys(module for module, _ in wanted):
            seconds = run_unbroken(scratch, module)
            print(f"{module}: its tests pass in {seconds:.0f} s", flush=True)
        for module, mutant, record in pool.map(lambda job: judge(scratch, *job), wanted):
            known[key(module, mutant)] = record
            state.write(json.dumps(record) + "\n")
            state.flush()
            verdict = "caught" if record["caught"] else "SURVIVED"
            print(f"{verdict} {module}.py:{mutant.line} {mutant.operator}", flush=True)
    print(summary([known[key(module, mutant)] for module, mutant in chosen]))
    return 0


def sample(root: Path, modules: Sequence[str], count: int, seed: int) -> list[tuple[str, Mutant]]:
    """Mutants of several modules, in proportion to their lines, each of another line."""
    by_line: dict[str, dict[int, list[Mutant]]] = {module: {} for module in modules}
    for module in modules:
        for mutant in mutants(module_path(root, module).read_text()):
            by_line[module].setdefault(mutant.line, []).append(mutant)
    num_lines = sum(map(len, by_line.values()))
    result: list[tuple[str, Mutant]] = []
    done = 0
    for module, lines in by_line.items():
        done += len(lines)
        number = min(round(count * done / num_lines) - len(result), len(lines))
        dice = random.Random(f"{seed} {module}")
        for line in sorted(dice.sample(sorted(lines), number)):
            result.append((module, dice.choice(lines[line])))
    return result


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module's text, in the order of its lines.

    Each is valid Python with another syntax tree than the source.
    """
    data = source.encode()
    starts = [0]
    for text in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    result: list[Mutant] = []
    for node, operator, replacement in _changes(ast.parse(source)):
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        broken = (data[:start] + replacement.encode() + data[stop:]).decode()
        first, last = starts[node.lineno - 1], starts[node.end_lineno]
        before = data[first:last].decode()
        after = (data[first:start] + replacement.encode() + data[stop:last]).decode()
        # On one line, but for what is left out.
        before, after = (" ".join(text.split()) for text in (before, after))
        if before != after:
            result.append(Mutant(node.lineno, operator, before, after, broken))
    return sorted(result, key=lambda mutant: mutant.line)


_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "amin": "amax",
    "amax": "amin",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "zeros": "ones",
    "ones": "zeros",
}
_LOGS = {"log", "logger", "logging", "warnings"}


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """(node, operator, text to put in its place) of every mutant."""
    for node, function in _walk(tree, None):
        yield from _expression_changes(node)
        if isinstance(node, ast.stmt):
            yield from _statement_changes(node, function)


def _walk(
    node: ast.AST, function: ast.FunctionDef | None
) -> Iterator[tuple[ast.AST, ast.FunctionDef | None]]:
    """Every node that a result depends on, and the function around it."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and _root_name(node.func) in _LOGS:
        return
    if isinstance(node, ast.Expr) and _root_name(getattr(node.value, "func", node)) in _LOGS:
        return
    if isinstance(node, ast.Assign) and _root_name(node.targets[0]) in {"__all__", *_LOGS}:
        return
    if not isinstance(node, ast.keyword):
        yield node, function
    if isinstance(node, ast.Raise):
        return  # whether it raises counts, not with which text
    if isinstance(node, ast.FunctionDef):
        if node.name in ("__repr__", "__str__"):
            return
        function = node
    skipped = {"annotation", "returns", "decorator_list"}
    if isinstance(node, ast.ClassDef):
        skipped |= {"keywords"}
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return  # of zip: an assertion
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child, function)


def _root_name(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _expression_changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    match node:
        case ast.Compare(ops=[op]):
            yield node, "comparison", _with(node, ops=[_SWAPPED[type(op)]()])
        case ast.BinOp(op=op) if type(op) in _SWAPPED:
            yield node, "arithmetic", _with(node, op=_SWAPPED[type(op)]())
        case ast.AugAssign(op=op) if type(op) in _SWAPPED:
            yield node, "arithmetic", _with(node, op=_SWAPPED[type(op)]())
        case ast.BoolOp(op=op):
            yield node, "and/or", _with(node, op=_SWAPPED[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield node, "sign or not left out", f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield node, "constant", str(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield node, "constant", repr(value + 1)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _NAMES:
            field = "id" if isinstance(node, ast.Name) else "attr"
            yield node, "function", _with(node, **{field: _NAMES[name]})
        case ast.IfExp(test=test):
            yield node, "condition", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None:
                yield node, "slice end", _with(node, lower=None)
            if upper is not None:
                yield node, "slice end", _with(node, upper=None)
        case ast.Call(func=function, args=[first, second, *rest]):
            either_way = _root_name(function) in _NAMES or getattr(function, "attr", "") in _NAMES
            if either_way or isinstance(first, ast.Starred) or isinstance(second, ast.Starred):
                return  # the smaller of two is the same in any order
            yield node, "swapped arguments", _with(node, args=[second, first, *rest])


def _statement_changes(
    node: ast.stmt, function: ast.FunctionDef | None
) -> Iterator[tuple[ast.AST, str, str]]:
    match node:
        case ast.If(test=test) | ast.While(test=test):
            yield test, "condition", f"not ({ast.unparse(test)})"
        case ast.Return(value=ast.expr() as value):
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield node, "return None", "return None"
            arguments = [] if function is None else [arg.arg for arg in function.args.args]
            for name in [name for name in arguments if name not in ("self", "cls")][:1]:
                yield node, "return the first argument", f"return {name}"
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield node, "statement left out", "pass"
        case ast.Assign(targets=[target], value=value):
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            read = {name.id for name in ast.walk(value) if isinstance(name, ast.Name)}
            # To leave out the first assignment to a name is no mistake that could go unseen.
            if any(not isinstance(part, ast.Name) or part.id in read for part in parts):
                yield node, "statement left out", "pass"


def _with(node: ast.AST, **fields: Any) -> str:
    """The text of a node with other fields; in brackets where it has operators."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    text = ast.unparse(ast.fix_missing_locations(changed))
    brackets = isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp | ast.IfExp)
    return f"({text})" if brackets else text


def module_path(root: Path, module: str) -> Path:
    return root / "combcn_core" / f"{module.replace('.', '/')}.py"


def tests_paths(root: Path, module: str) -> list[Path]:
    return [root / "tests" / name for name in MODULES[module].split()]


def key(module: str, mutant: Mutant) -> tuple[str, int, str, str, str]:
    return module, mutant.line, mutant.operator, mutant.before, mutant.after


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def read_state(path: Path, root: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What is known of mutants of the modules and by the tests as they are now, by `key`."""
    known = {}
    for text in path.read_text().splitlines():
        record = json.loads(text)
        tests = tests_paths(root, record["module"]) if record["module"] in MODULES else []
        if not tests or not all(path.exists() for path in tests):
            continue
        same_module = record["module_digest"] == digest(module_path(root, record["module"]))
        same_tests = record["tests_digest"] == digest(*tests)
        if same_module and (same_tests or record["caught"]):
            fields = ("module", "line", "operator", "before", "after")
            known[tuple(record[name] for name in fields)] = record
    return known


def take_snapshot(folder: Path, modules: Sequence[str]) -> None:
    """The package, the modules' tests, and pytest's settings, as they are now."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "combcn_core", folder / "combcn_core", ignore=ignored)
    (folder / "tests").mkdir()
    for shared in (ROOT / "tests").glob("*.py"):
        shutil.copy(shared, folder / "tests")
    for name in modules:
        for path in tests_paths(Path(), name):
            (folder / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
            if name.startswith("fill."):
                for picture in (ROOT / path).parent.glob("results_v*.png"):
                    shutil.copy(picture, folder / path.parent)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "quick_first.py").write_text(QUICK_FIRST)


def run_unbroken(scratch: Path, module: str) -> float:
    """Seconds that the tests of an unbroken copy take; they must pass, and on that copy."""
    folder = scratch / f"{module}-unbroken"
    shutil.copytree(scratch / "snapshot", folder)
    start = time.monotonic()
    code, output = run_tests(folder, module, scratch / f"{module}.json", 1000)
    if code != 0:
        raise RuntimeError(f"the tests of the unbroken {module}.py do not pass:\n{output}")
    seconds = time.monotonic() - start
    (scratch / f"{module}.seconds").write_text(str(seconds))
    return seconds


def judge(scratch: Path, module: str, mutant: Mutant) -> tuple[str, Mutant, dict[str, Any]]:
    """Run the tests of a module on a mutant of it."""
    ast.parse(mutant.source)  # no mutant is caught by being no Python at all
    limit_seconds = 30 + 4 * float((scratch / f"{module}.seconds").read_text())
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name) / "copy"
        shutil.copytree(scratch / "snapshot", folder)
        module_path(folder, module).write_text(mutant.source)
        code, output = run_tests(folder, module, scratch / f"{module}.json", limit_seconds)
    if code not in (None, 0, 1, 2) and not code < 0:
        # 1: a test failed; 2: the module or its tests cannot even be imported; below 0: a crash.
        raise RuntimeError(f"pytest ended with {code} on a mutant of {module}.py:\n{output}")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    record = {
        "module": module,
        **{name: value for name, value in mutant._asdict().items() if name != "source"},
        "caught": code != 0,
        "by": "time limit" if code is None else "".join(failed[:1])[:200],
        "seconds": round(time.monotonic() - start, 1),
        "module_digest": digest(module_path(scratch / "snapshot", module)),
        "tests_digest": digest(*tests_paths(scratch / "snapshot", module)),
    }
    return module, mutant, record


def run_tests(
    folder: Path, module: str, times: Path, limit_seconds: float
) -> tuple[int | None, str]:
    """Exit code, None where the time was over, and what was printed."""
    process = _processes().Process(
        target=_pytest, args=(folder, tests_paths(folder, module), times)
    )
    process.start()
    try:
        process.join(limit_seconds)
        code = process.exitcode
    finally:
        if process.is_alive():
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
            process.join()
    return code, (folder / "output.txt").read_text(errors="replace")


@functools.cache
def _processes() -> ForkServerContext:
    """New processes come from one that has imported what takes long, but nothing of CombCN."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # also so that it has one thread, and can be forked
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["av", "cv2", "hypothesis", "pytest", "torch"])
    return context


def _pytest(folder: Path, tests: Sequence[Path], times: Path) -> None:
    """Run the tests of a copy, in a process of its own, which this ends."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # No bytecode: a mutant of the same second and size as the file before would not be compiled.
    sys.dont_write_bytecode = True
    os.environ |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(folder),  # of the commands that tests start
        "TIMES": str(times),
    }
    sys.path.insert(0, str(folder))
    tested = importlib.util.find_spec("combcn_core")
    if tested is None or tested.origin != str(folder / "combcn_core" / "__init__.py"):
        print(f"not the copy is tested but {tested}", flush=True)
        os._exit(NOT_THE_COPY)
    import pytest

    options = ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "quick_first"]
    options += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    options += ["--basetemp", str(folder / "results"), *map(str, tests)]
    sys.exit(pytest.main(options))


def summary(records: Sequence[dict[str, Any]]) -> str:
    """A table of how many were tried and caught in each module, and what survived.

    The last column counts those that whole results alone give away.
    """
    lines = [f"{'module':15} {'tried':>5} {'caught':>6} {'share':>6} {'by results alone':>17}"]
    for module in [*dict.fromkeys(record["module"] for record in records), "all"]:
        of_module = [record for record in records if module in (record["module"], "all")]
        caught = sum(record["caught"] for record in of_module)
        share = f"{caught / max(len(of_module), 1):.0%}"
        alone = sum(RESULTS in record["by"] for record in of_module)
        lines.append(f"{module:15} {len(of_module):5} {caught:6} {share:>6} {alone:17}")
    for record in records:
        if not record["caught"]:
            lines.append(f"\nsurvived: {record['module']}.py:{record['line']} {record['operator']}")
            lines.append(f"    {record['before']}\n -> {record['after']}")
            change = f"{record['before']} -> {record['after']}"
            reasons = REASONS.get(record["module"], {}).items()
            lines += [f"    {why}" for part, why in reasons if part in change]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
