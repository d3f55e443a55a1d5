"""The node pack as far as it goes without ComfyUI; with it, see tests/host."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
sys.modules["combcn_core.version"] = None  # importing it fails
try:
    pack._import_core()
except ImportError as error:
    assert "version" in str(error)
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


# Names in workflows, which strangers share


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """nodes/folders.py over folders alone; tests/host has a real ComfyUI."""
    for name in ("models/combcn", "input/footage", "output"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "combcn" / "mine.safetensors").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.safetensors").touch()
    models = str(tmp_path / "models" / "combcn")

    def get_save_image_path(prefix, folder):
        place = os.path.join(folder, os.path.dirname(prefix))
        os.makedirs(place, exist_ok=True)
        return place, os.path.basename(prefix), 1, "", prefix

    host = types.ModuleType("folder_paths")
    host.get_input_directory = lambda: str(tmp_path / "input")
    host.get_filename_list = lambda kind: sorted(os.listdir(models))
    host.get_full_path = lambda kind, name: os.path.join(models, name)
    host.get_save_image_path = get_save_image_path
    monkeypatch.setitem(sys.modules, "folder_paths", host)
    spec = importlib.util.spec_from_file_location("folders", ROOT / "nodes" / "folders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OUTSIDE = [
    "../x", "a/../../x", "a/../x", "..", "../outside/secret.safetensors", "/x", "//host/share/x",
    "/etc/passwd", "..\\x", "a\\..\\..\\x", "a\\x", "\\x", "\\\\host\\share\\x", "C:\\x", "C:/x",
    "c:x", "", ".", "a\0x", "linked/x", "linked",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_to_write_to_stay_in_their_folder(folders, tmp_path, name):
    output = tmp_path / "output"
    (output / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    before = sorted(tmp_path.rglob("*"))
    for find in (
        lambda: folders.within(str(output), name),
        lambda: folders.free_path(name, str(output), ".mkv"),
    ):
        with pytest.raises(ValueError, match=r"leads out of .*; give a name, with folders below"):
            find()
    assert sorted(tmp_path.rglob("*")) == before


def test_linked_files_are_not_written_through(folders, tmp_path):
    output = tmp_path / "output"
    (output / "x.safetensors").symlink_to(tmp_path / "outside" / "secret.safetensors")
    with pytest.raises(ValueError, match="leads out of"):
        folders.within(str(output), "x.safetensors")


@pytest.mark.parametrize("name", ["x", "a/b/x", "x..y", "...", "%date:hh%", "\u7ed3\u679c", "a b"])
def test_plain_names_are_taken(folders, tmp_path, name):
    output = tmp_path / "output"
    assert folders.within(str(output), name) == output / name
    assert folders.free_path(name, str(output), ".mkv") == output / f"{name}_00001_.mkv"
    link = tmp_path / "link"  # the folder itself may be on another disk
    link.symlink_to(output, target_is_directory=True)
    assert folders.within(str(link), name) == link / name


@pytest.mark.parametrize("name", ["footage/..", "../outside", "./footage", *OUTSIDE])
def test_names_to_read_are_those_that_are_listed(folders, tmp_path, name):
    assert folders.footage_path("footage") == tmp_path / "input" / "footage"
    assert folders.model_path("mine.safetensors").endswith("mine.safetensors")
    with pytest.raises(ValueError, match=r"there is no folder .* choose one of: footage\."):
        folders.footage_path(name)
    with pytest.raises(ValueError, match=r"there are no weights called .* choose one of"):
        folders.model_path(name)


def test_nodes_name_no_file_but_by_their_folders():
    """Wherever text of a form becomes a path, it is one of the functions tested above."""
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        joins = re.findall(r"get_(?:input|output)_directory\(\)\) */|os\.path\.join\(", text)
        assert not joins or source.name == "folders.py", source.name


def node_ids():
    text = "\n".join(source.read_text(encoding="utf-8") for source in SOURCES)
    return sorted(re.findall(r'node_id="(\w+)"', text))


def test_node_ids_stay():
    # Saved workflows name them: they may become more, but none may go.
    released = {
        f"CombCN_{name}"
        for name in (
            "LoadModel", "SaveModel", "SampleClip", "PrepareMask", "PaintMask", "FollowMask",
            "TakeShadows", "MakeHoles", "Propagate", "Temporal", "UpsampleGuidance",
            "SpatialDetail", "SynthesizeTexture", "Inpaint", "InpaintVideo", "JointTrainer",
            "Evaluate", "Compare",
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


# The registry


def published():
    """What of the repository goes into the registry's archive, as git reads .comfyignore."""

    def files(*arguments):
        command = ["git", "ls-files", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return set(done.stdout.splitlines())

    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    return files() - files("--cached", "--ignored", "--exclude-from=.comfyignore")


def test_archive_holds_what_users_need_and_no_more():
    names = published()
    needed = ["__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md"]
    needed += ["nodes/__init__.py", "web/docs/CombCN_Inpaint.md", "locales/en/nodeDefs.json"]
    needed += ["combcn_core/__init__.py", "workflows/quick_removal.json", "docs/icon.svg"]
    assert not set(needed) - names
    assert {name.split("/")[0] for name in names if "/" in name} == {
        *("combcn_core", "docs", "locales", "nodes", "subgraphs", "web", "workflows"),
    }
    for pattern in (ROOT / ".comfyignore").read_text().splitlines():
        assert pattern.startswith("#") or (ROOT / pattern).exists(), pattern


def test_registry_finds_version_and_pictures():
    tomllib = pytest.importorskip("tomllib")
    comfy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["comfy"]
    assert re.search(
        r'^__version__ = "[\d.]+"$', (ROOT / comfy["version"]["path"]).read_text(), re.M
    )
    repository = "https://raw.githubusercontent.com/combcn/combcn/main/"
    for key in ("Icon", "Banner"):
        assert comfy[key].startswith(repository)
        picture = (ROOT / comfy[key].removeprefix(repository)).read_text()
        width, height = (
            int(re.search(rf'{side}="(\d+)"', picture)[1]) for side in ("width", "height")
        )
        if key == "Icon":
            assert width == height <= 400
        else:
            assert width * 9 == height * 21
