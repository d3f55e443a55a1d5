"""Starts ComfyUI: boot.py SITE_PACKAGES MAIN [ARGUMENTS], in the host's own environment.

torch and what the pack requires come from SITE_PACKAGES, which is put last and as a plain folder:
its .pth files are not read, so a CombCN that is installed there for editing stays out of sight, and
the pack has to find its own.
"""

import importlib.util
import os
import runpy
import sys
import threading
import time
from pathlib import Path


def end_with(parent: int) -> None:
    """Tests that are killed stop nothing themselves."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()

sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
sys.path[0] = str(Path(sys.argv[0]).parent)  # as if MAIN had been started, not this file

if importlib.util.find_spec("combcn_core") is not None:
    sys.exit("combcn is installed, not linked: install it with `pip install -e .` to test the pack")

import torch  # noqa: E402

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Its compiled part does not load beside a CPU build of torch, and it then misses its own
    # operators. ComfyUI never calls them.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

runpy.run_path(sys.argv[0], run_name="__main__")
