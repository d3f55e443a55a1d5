"""The node pack as far as it goes without ComfyUI; with it, see tests/host."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "nodes").glob("*.py"))
DOCS, LOCALES = ROOT / "web" / "docs", ROOT / "locales"
LANGUAGES = ("en", "zh")

# As ComfyUI loads it: by its path, under a name that nobody can import.
LOAD = """
import importlib.util, sys
from pathlib import Path
folder = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location(str(folder), folder / "__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules[str(folder)] = pack
spec.loader.exec_module(pack)
"""


def run_in_bare_interpreter(pack, script):
    command = [sys.executable, "-c", LOAD + script, str(pack)]
    return subprocess.run(command, capture_output=True, text=True, cwd=pack.parent, timeout=120)


@pytest.fixture
def pack(tmp_path):
    """A clone in custom_nodes."""
    clone = tmp_path / "custom_nodes" / "ComfyUI-CombCN"
    clone.parent.mkdir()
    clone.symlink_to(ROOT, target_is_directory=True)
    return clone


def test_pack_brings_its_own_core_and_nothing_else(pack):
    done = run_in_bare_interpreter(
        pack,
        """
import types
sys.modules["nodes"] = host = types.ModuleType("nodes")  # ComfyUI's
before = list(sys.path)
pack._import_core()
pack._import_core()
import combcn_core
assert Path(combcn_core.__file__).parent == folder / "combcn_core", combcn_core.__file__
assert combcn_core.fill_rest
assert sys.path == before
assert sys.modules["nodes"] is host
assert (folder / pack.WEB_DIRECTORY / "docs").is_dir()
for slow in ("matplotlib", "skimage", "scipy", "accelerate", "tyro", "ray", "torch._dynamo"):
    assert slow not in sys.modules, slow
""",
    )
    assert done.returncode == 0, done.stderr


def test_pack_refuses_another_core(pack):
    done = run_in_bare_interpreter(
        pack,
        """
import types
sys.modules["combcn_core"] = other = types.ModuleType("combcn_core")
other.__file__ = "/elsewhere/combcn_core/__init__.py"
try:
    pack._import_core()
except ImportError as error:
    print(error)
assert sys.modules["combcn_core"] is other
""",
    )
    assert done.returncode == 0, done.stderr
    assert "already loaded from /elsewhere" in done.stdout
    assert "keep one copy" in done.stdout


def test_pack_leaves_nothing_half_loaded(pack):
    done = run_in_bare_interpreter(
        pack,
        """
sys.modules["cv2"] = None  # importing it fails
try:
    pack._import_core()
except ImportError as error:
    assert "cv2" in str(error)
else:
    raise AssertionError
assert "combcn_core" not in sys.modules
""",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_nodes_leave_devices_and_names_to_comfyui(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "torch.cuda"
        if isinstance(node, ast.Name):
            assert node.id not in ("print", "eval", "exec")
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] != "nodes"  # is ComfyUI's


def node_ids():
    text = "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)
    return sorted(re.findall(r'node_id="(\w+)"', text))


def test_node_ids_stay():
    # Saved workflows name them: they may become more, but none may go.
    released = {
        f"CombCN_{name}"
        for name in (
            "LoadModel", "SaveModel", "SampleClip", "PrepareMask", "MakeHoles", "Propagate",
            "Temporal", "UpsampleGuidance", "SpatialDetail", "Inpaint", "InpaintVideo",
            "JointTrainer", "Evaluate", "Compare",
        )
    }  # fmt: skip
    assert released <= set(node_ids())


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_name_every_node(language):
    texts = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert sorted(texts) == node_ids()
    json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def test_translations_say_the_same():
    texts = [
        dict(leaves(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))))
        for language in LANGUAGES
    ]
    assert texts[0].keys() == texts[1].keys()
    for path, text in texts[1].items():
        assert re.search("[\u4e00-\u9fff]", text), path
    for path, text in texts[0].items():
        assert text.isascii(), path


@pytest.mark.parametrize("node_id", node_ids())
def test_help_pages_describe_every_socket(node_id):
    texts = json.loads((LOCALES / "en" / "nodeDefs.json").read_text(encoding="utf-8"))[node_id]
    for page in (DOCS / f"{node_id}.md", DOCS / node_id / "zh.md"):
        described = re.findall(r"^\| `(\w+)` \| \S", page.read_text(encoding="utf-8"), re.MULTILINE)
        names = [output["name"].replace(" ", "_") for output in texts["outputs"].values()]
        assert described == [*texts["inputs"], *names]
