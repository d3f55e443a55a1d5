"""The documentation: what it links to, the commands it quotes, and the reference of the API."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import combcn_core
from combcn_core import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "combcn_core/networks/weights/*.md", "web/docs/**/*.md")
    for path in ROOT.glob(pattern)
)
names = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=names)

spec = importlib.util.spec_from_file_location("generate_api", ROOT / "docs" / "generate_api.py")
generate_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate_api)


def outside_of_code(text):
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def anchors(page):
    """The names GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@each_page
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_of_code(page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_of_docs_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def quoted_commands(page):
    """Every `combcn ...` line of the shell examples, with its continuations."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;", line):
            # What a farm puts in stands for a number.
            words = shlex.split(re.sub(r"\$\(\([^)]*\)\)|\$\w+", "7", part), comments=True)
            if "combcn" in words or "combcn_core" in words:
                start = next(n for n, word in enumerate(words) if word in ("combcn", "combcn_core"))
                yield words[start + 1 :]


@each_page
def test_quoted_commands_parse(page, monkeypatch, capsys):
    done = []
    for name in cli.COMMANDS:
        kind = cli.load_command(name)
        monkeypatch.setattr(kind, "run", lambda command: done.append(command) or 0)
    for command in quoted_commands(page):
        before = len(done)
        code = cli.main(command)
        assert code == 0, f"{command}: {capsys.readouterr().err}"
        assert len(done) == before + 1 or command[-1] == "--help"


def flags_of(subcommand, capsys):
    cli.main([subcommand, "--help"])
    return set(re.findall(r"--[a-z0-9][a-z0-9-]*", capsys.readouterr().out))


def test_flags_named_in_the_text_exist(capsys):
    known = {"--help", "--version"}
    for subcommand in cli.COMMANDS:
        known |= flags_of(subcommand, capsys)
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`(--[^`]*|combcn [^`]*)`", text):
            for flag in re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", span):
                assert flag in known, f"{page.name} names {flag}"


@pytest.mark.parametrize(
    ("subcommand", "page"),
    [("inpaint", "inpaint"), ("train", "training"), ("evaluate", "evaluating"), ("batch", "farm")],
)
def test_every_flag_is_documented(subcommand, page, capsys):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for flag in flags_of(subcommand, capsys) - {"--help"}:
        # Of a pair, the one that changes something is enough.
        either = {flag, flag.replace("--no-", "--"), flag.replace("--", "--no-", 1)}
        assert any(re.search(rf"`[^`]*{name}\b(?!-)[^`]*`", text) for name in either), flag


def texts_of_sources():
    """Every string in the sources, with dots where values are put in."""
    for path in [ROOT / "__init__.py", *(ROOT / "combcn_core").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    getattr(part, "value", "...") if isinstance(part, ast.Constant) else "..."
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_quoted_are_those_of_the_sources():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| (\*.*?\*) \|", page, re.MULTILINE)
    assert len(messages) > 10
    # Several values side by side, and what stands between two of them, are one run of dots.
    known = [re.sub(r"\.\.\.[ x]?(?=\.\.\.)", "", text) for text in texts_of_sources()]
    for message in ", ".join(messages).strip("*").split("*, *"):
        assert any(message.removesuffix("...").strip() in text for text in known), message


def test_reference_is_up_to_date():
    written = (ROOT / "docs" / "api.md").read_text()
    assert written == generate_api.reference(), "run python docs/generate_api.py"


@pytest.mark.parametrize("name", combcn_core.__all__)
def test_everything_exported_is_documented(name):
    thing = getattr(combcn_core, name)
    if name != "__version__":
        assert thing.__doc__
        assert f"\n## {name}\n" in (ROOT / "docs" / "api.md").read_text()


def test_python_examples_are_python():
    for page in PAGES:
        for block in re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            if page.name != "api.md":  # whose signatures have no bodies
                ast.parse(block)


def test_exported_names_are_those_of_their_modules():
    tree = ast.parse((ROOT / "combcn_core" / "__init__.py").read_text())
    homes = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("combcn_core.")
        for alias in node.names
    }
    assert sorted(homes) == sorted(combcn_core.__all__) == sorted(set(combcn_core.__all__))
    for name, module in homes.items():  # as type checkers and readers see it
        assert getattr(combcn_core, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        combcn_core.no_such_name  # noqa: B018
    assert set(combcn_core.__all__) <= set(dir(combcn_core))
