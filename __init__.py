"""ComfyUI's door to CombCN: a clone of this repository in `custom_nodes` is the node pack."""

import importlib.util
import sys
from pathlib import Path

WEB_DIRECTORY = "web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


def _import_core() -> None:
    """Make `import combcn_core` mean the folder beside this file, installed or not.

    The pack's own folder must not be put on sys.path for that: its `nodes` would hide ComfyUI's.

    Raises:
        ImportError: another version of it is in use in this process.
    """
    folder = Path(__file__).parent / "combcn_core"
    loaded = sys.modules.get("combcn_core")
    if loaded is not None:
        if Path(str(loaded.__file__)).resolve().parent != folder.resolve():
            raise ImportError(
                f"combcn_core is already loaded from {loaded.__file__}, but these nodes bring "
                f"their own in {folder}; keep one copy of CombCN."
            )
        return
    spec = importlib.util.spec_from_file_location("combcn_core", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["combcn_core"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["combcn_core"]
        raise


async def comfy_entrypoint():
    """Called by ComfyUI when it loads the pack."""
    _import_core()
    from .nodes import CombCNExtension

    return CombCNExtension()
