"""What a user reads in ComfyUI: names, tooltips, help, in English and Chinese."""

import json
import urllib.error
import urllib.request

import pytest

from .host import PACK

LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def ours(object_info):
    return {name: node for name, node in object_info.items() if name.startswith("CombCN_")}


def sockets(node):
    """Name and description of every input."""
    return {
        name: options[0] if options else {}
        for group in ("required", "optional")
        for name, (_, *options) in node["input"].get(group, {}).items()
    }


def test_every_input_and_output_has_a_tooltip(ours):
    assert ours
    for name, node in ours.items():
        assert node["category"] == "CombCN"
        assert node["description"]
        for socket, options in sockets(node).items():
            assert options.get("tooltip"), (name, socket)
        assert all(node["output_tooltips"]), name


def test_translations_fit_the_nodes(ours, client):
    texts = client.get("/i18n")
    for language in LANGUAGES:
        assert texts[language]["nodeDefs"].keys() >= ours.keys()
        for name, node in ours.items():
            translated = texts[language]["nodeDefs"][name]
            assert translated["inputs"].keys() == sockets(node).keys(), name
            assert len(translated["outputs"]) == len(node["output"]), name


def test_english_says_what_the_nodes_say(ours):
    path = PACK / "locales" / "en" / "nodeDefs.json"
    texts = json.loads(path.read_text(encoding="utf-8"))
    for name, node in ours.items():
        expected = {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": {
                socket: {"name": socket.replace("_", " "), "tooltip": options["tooltip"]}
                for socket, options in sockets(node).items()
            },
            "outputs": {
                str(number): {"name": title.replace("_", " "), "tooltip": tooltip}
                for number, (title, tooltip) in enumerate(
                    zip(node["output_name"], node["output_tooltips"], strict=True)
                )
            },
        }
        assert texts[name] == expected


def test_help_is_served(ours, client):
    for name, node in ours.items():
        folder = node["python_module"].removeprefix("custom_nodes.")
        for page in (f"{name}.md", f"{name}/zh.md"):
            address = f"http://{client.address}/extensions/{folder}/docs/{page}"
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.read().startswith(b"# CombCN ")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{client.address}/extensions/{folder}/docs/none.md")
