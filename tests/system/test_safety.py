"""What the sources must not do, found by walking their syntax trees; and what a file cannot make
them do: a checkpoint or a video is data."""

import ast
import socket
from pathlib import Path

import pytest

from combcn_core.clips.video import open_reader

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [ROOT / "__init__.py", *(ROOT / "combcn_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]
)
TOOLS = sorted((ROOT / "benchmarks").rglob("*.py"))  # may start other processes

PICKLES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
NETWORK = {
    "socket", "socketserver", "ssl", "urllib", "urllib3", "http", "requests", "httpx", "aiohttp",
    "ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "xmlrpc", "websocket", "websockets",
    "webbrowser", "huggingface_hub", "asyncio", "wandb",
}  # fmt: skip
PROCESSES = {"subprocess", "pty", "code", "codeop", "runpy", "ctypes", "cffi"}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
CALLS = {
    "torch.load", "torch.save", "torch.hub", "torch.package", "yaml.load", "yaml.unsafe_load",
    "np.load", "numpy.load", "os.system", "os.popen", "os.startfile", "builtins.eval",
}  # fmt: skip
OS_PROCESSES = ("os.exec", "os.spawn", "os.posix_spawn", "os.fork")
LOADED_BY_NAME = {"OpenEXR"}  # an extra that users may lack
OF_THE_C_LIBRARY = "ctypes.CDLL(None).mallopt"  # alone, and from the library that runs anyway


def loads_no_pickle(node):
    """Whether this is a call of np.load that says it takes no pickle."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "np.load"
        and any(
            word.arg == "allow_pickle" and getattr(word.value, "value", None) is False
            for word in node.keywords
        )
    )


def parts_of(call):
    return [call.func, *(word for word in call.keywords if word.arg == "allow_pickle")]


def offences(source, *, may_start_processes=False):
    """What stands in a source that must not."""
    forbidden = PICKLES | NETWORK | (set() if may_start_processes else PROCESSES)
    tree = ast.parse(source)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "ctypes"]
    expressions = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    one_call = [ast.unparse(node) for node in expressions].count(OF_THE_C_LIBRARY) == len(used) > 0
    exempt = [part for call in ast.walk(tree) if loads_no_pickle(call) for part in parts_of(call)]
    for node in ast.walk(tree):
        if node in exempt:
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            if one_call and ast.unparse(node) == "import ctypes":
                modules = []
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            modules = []
        for module in modules:
            if module.split(".")[0] in forbidden or module in CALLS:
                yield f"line {node.lineno} imports {module}"
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            yield f"line {node.lineno} names {node.id}"
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name in CALLS or name.startswith(OS_PROCESSES):
                yield f"line {node.lineno} names {name}"
        if isinstance(node, ast.keyword):
            value = getattr(node.value, "value", None)
            if (node.arg, value) == ("shell", True) or node.arg == "allow_pickle":
                yield f"line {node.value.lineno} says {node.arg}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [getattr(argument, "value", None) for argument in node.args]
            own = all(ast.unparse(argument).startswith("f'combcn_core.") for argument in node.args)
            if not own and not LOADED_BY_NAME.issuperset(names):
                yield f"line {node.lineno} imports what is not known beforehand"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_run_no_foreign_code_and_use_no_network(path):
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_benchmarks_start_no_shell(path):
    assert list(offences(path.read_text(encoding="utf-8"), may_start_processes=True)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from urllib import request",
        "def later():\n    from http.client import HTTPConnection",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nno = False\nnp.load('x', allow_pickle=no)",
        "from numpy import load\nload('x', allow_pickle=True)",
        "eval('1')",
        "run = exec",
        "__import__('socket')",
        "import importlib\nimportlib.import_module('sock' + 'et')",
        "import subprocess",
        "import ctypes",
        "import ctypes\nctypes.CDLL('x.so').mallopt(1, 2)",
        "import ctypes\nctypes.CDLL(None).system(b'ls')",
        "import ctypes\nctypes.CDLL(None).mallopt(1, 2)\nlibrary = ctypes.CDLL(None)",
        "import os\nos.system('ls')",
        "import os\nos.execv('ls', [])",
        "import yaml\nyaml.load('x')",
    ],
)
def test_the_walk_finds(source):
    assert list(offences(source))


def test_the_walk_lets_arrays_be_loaded_without_pickles():
    source = "import numpy as np\nnp.load('x', mmap_mode='r', allow_pickle=False)"
    assert not list(offences(source))


def test_the_walk_finds_a_shell():
    source = "import subprocess\nsubprocess.run('ls', shell=True)"
    assert list(offences(source, may_start_processes=True))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".m3u8", ".ts"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {url}/a.mp4\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>'
        "{url}/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["HLS", "concat", "DASH"],
)
def test_video_cannot_make_ffmpeg_use_the_network(tmp_path, text, ending):
    """A playlist is a video to FFmpeg, and may name any address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / f"clip{ending}").write_text(text.format(url=url))
        with pytest.raises(ValueError, match="give a video file"):
            open_reader(tmp_path / f"clip{ending}")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
