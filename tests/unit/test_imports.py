"""Dependencies of combcn_core point down only: see CONTRIBUTING, "Where things are"."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "combcn_core"
# From top to bottom; what stands in one line may not import each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"measure"},
    {"training"},
    {"stream"},
    {"shadows"},
    {"shot"},
    {"networks"},
    {"demo"},
    {"fill", "clips"},
    {"masks", "progress", "objects"},
    {"segments"},
    {"pixels", "version", "atomic", "memory"},
)


def place(module):
    """Which layer a module is in, and its room."""
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms), room


def imported(path):
    """The modules of combcn_core that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "combcn_core":
                names = [f"combcn_core.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.startswith("combcn_core."))


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_dependencies_point_down(path):
    if path == PACKAGE / "__init__.py":
        return  # the public API is above all
    layer, room = place(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    for name in imported(path):
        below, other = place(name)
        assert other == room or below > layer, f"{room} imports {name}"
