"""Write docs/api.md, the reference of what `combcn_core` exports, from its docstrings.

    python docs/generate_api.py

It reads the sources without running them, so the result is the same on every machine.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "combcn_core"
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")
HEADER = """# Python reference

What `combcn_core` exports, from its docstrings. Written by `python docs/generate_api.py`; change
the docstrings, not this page. Shapes: T frames, H rows, W columns, B clips of a batch.

"""

Definition = ast.FunctionDef | ast.ClassDef


def main() -> None:
    (ROOT / "docs" / "api.md").write_text(reference(), encoding="utf-8")


def reference() -> str:
    """The whole page."""
    exported = [(name, *find(name)) for name in exported_names()]
    defined = [entry for entry in exported if isinstance(entry[2], Definition)]
    parts = [HEADER, "| name | |\n|---|---|\n"]
    for name, _, node in defined:
        parts.append(f"| [`{name}`](#{name.lower()}) | {summary(node)} |\n")
    for name, path, node in defined:
        parts += [f"\n## {name}\n\n", *describe(node, path)]
    parts.append("\n## \\_\\_version\\_\\_\n\nThe version of CombCN, a string.\n")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def exported_names() -> list[str]:
    """`__all__` of the package, functions before classes."""
    for node in parse(PACKAGE / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=lambda name: (name[0].isupper(), name))
    raise ValueError("combcn_core has no __all__")


def find(name: str) -> tuple[Path, ast.stmt]:
    """The file and the node that define an exported name."""
    for node in ast.walk(parse(PACKAGE / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            path = ROOT / (str(node.module).replace(".", "/") + ".py")
            return path, definition(path, name)
    raise ValueError(f"combcn_core exports {name} but does not import it")


def definition(path: Path, name: str) -> ast.stmt:
    for node in parse(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        if name in {getattr(target, "name", getattr(target, "id", None)) for target in targets}:
            return node
    raise ValueError(f"{path.name} does not define {name}")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def describe(node: Definition, path: Path) -> Iterator[str]:
    """A definition's signature, its docstring, its fields and its public methods."""
    place = path.relative_to(PACKAGE).as_posix()
    yield f"In [`{place}`](../combcn_core/{place}).\n\n"
    if isinstance(node, ast.FunctionDef):
        yield f"```python\n{signature(node)}\n```\n\n"
        yield from prose(node)
        return
    about = attributes(node)
    yield from prose(node)
    rows = list(fields(node, path))
    if rows:
        yield "| field | type | default | |\n|---|---|---|---|\n"
        for name, kind, default, text in rows:
            text = one_line(text or about.get(name, ""))
            yield f"| `{name}` | {code(kind)} | {code(default)} | {text} |\n"
    elif about:
        yield "| attribute | |\n|---|---|\n"
        yield from (f"| `{name}` | {one_line(text)} |\n" for name, text in about.items())
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            decorators = [ast.unparse(decorator) for decorator in method.decorator_list]
            head = "".join(f"@{name}\n" for name in decorators)
            yield f"\n### {node.name}.{method.name}\n\n"
            yield f"```python\n{head}{signature(method)}\n```\n\n"
            yield from prose(method)


def signature(node: ast.FunctionDef) -> str:
    """On one line if that is short, else one argument a line."""
    arguments = ast.unparse(node.args)
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    line = f"def {node.name}({arguments}){returns}"
    if len(line) <= 90:
        return line
    lines = "".join(f"    {argument},\n" for argument in split_arguments(node.args))
    return f"def {node.name}(\n{lines}){returns}"


def split_arguments(arguments: ast.arguments) -> Iterator[str]:
    """Each argument as written, in the order of the signature."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        yield with_default(argument, default)
    if arguments.vararg is not None:
        yield f"*{ast.unparse(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield with_default(argument, default)
    if arguments.kwarg is not None:
        yield f"**{ast.unparse(arguments.kwarg)}"


def with_default(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def fields(node: ast.ClassDef, path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, default, docstring) of each field, those of base classes first."""
    for base in reversed(node.bases):  # as dataclasses order them
        for place in (path, *sorted(PACKAGE.rglob("*.py"))):
            found = [n for n in parse(place).body if getattr(n, "name", None) == ast.unparse(base)]
            if found and isinstance(found[0], ast.ClassDef):
                yield from fields(found[0], place)
                break
    following = [*node.body[1:], ast.Pass()]
    for statement, after in zip(node.body, following, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            default = default_text(statement.value, path)
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = inspect.cleandoc(str(after.value.value)) if is_text else ""
            yield statement.target.id, ast.unparse(statement.annotation), default, text


def default_text(value: ast.expr | None, path: Path) -> str:
    """A default as written, but a constant of the same module by its value."""
    if value is None or (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return ""
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(value):
            return ast.unparse(node.value)
    return ast.unparse(value)


def summary(node: ast.AST) -> str:
    return one_line(docstring(node).split("\n\n")[0])


def docstring(node: ast.AST) -> str:
    assert isinstance(node, Definition)
    text = ast.get_docstring(node)
    if text is None:
        raise ValueError(f"{node.name} has no docstring")
    return text


def prose(node: Definition) -> Iterator[str]:
    """A docstring as Markdown, without the attributes, which make a table."""
    for title, text in split_sections(docstring(node)):
        if title == "":
            yield f"{plain(text)}\n\n"
        elif title == "Source":
            yield f"Source: {plain(text)}\n\n"
        elif title in ("Args", "Raises"):
            yield f"**{title}**\n\n"
            yield from (f"- `{name}`: {one_line(about)}\n" for name, about in entries(text))
            yield "\n"
        elif title in ("Returns", "Yields"):
            yield f"**{title}** {plain(text)}\n\n"


def attributes(node: ast.ClassDef) -> dict[str, str]:
    found = dict(split_sections(docstring(node)))
    listed = entries(found["Attributes"]) if "Attributes" in found else []
    return {name: text for names, text in listed for name in names.split(", ")}


def split_sections(text: str) -> list[tuple[str, str]]:
    """(title, text), the first without a title, texts without their indentation."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):[ ]?", text, flags=re.MULTILINE)
    pairs = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    return [(title, inspect.cleandoc("\n" + part).strip()) for title, part in pairs]


def entries(text: str) -> list[tuple[str, str]]:
    """What a section says of each name, "name: text" with more lines indented."""
    found: list[list[str]] = []
    for line in text.splitlines():
        match = re.match(r"(\*{0,2}\w[\w, .]*?): (.*)", line)
        if match:
            found.append([match[1], match[2]])
        else:
            found[-1][1] += f"\n{line}"
    return [(name, about) for name, about in found]


def plain(text: str) -> str:
    """Paragraphs and lists as they are; * of formulas shown as such."""
    return escape(inspect.cleandoc(text))


def one_line(text: str) -> str:
    return escape(" ".join(text.split()))


def escape(text: str) -> str:
    """Text outside of `code`, where * and | would be markup."""
    pieces = re.split(r"(`[^`]*`)", text)
    pieces[::2] = [re.sub(r"(?<!^)([*|_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if text else ""


if __name__ == "__main__":
    main()
