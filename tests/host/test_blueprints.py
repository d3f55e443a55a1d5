"""Subgraph blueprints and app mode: found, opened and run in both front ends."""

import json

import pytest

from .host import PACK

FOLDER = PACK / "subgraphs"
NAMES = ["Remove object", "Remove object with shadows", "Remove object from video"]
FRONT_ENDS = ("front_end", "newest")

# Typed into the search for nodes, as a user does.
PLACED = """
() => app.graph.nodes.filter((node) => node.isSubgraphNode?.()).map((node) => ({
    title: node.title,
    inputs: node.inputs.map(({ name, type }) => `${name}:${type}`),
    outputs: node.outputs.map(({ name, type }) => `${name}:${type}`),
    widgets: node.widgets.map(({ name, value }) => [name, value]),
}))
"""
# From a sample clip into the blueprint that is there, and from there to what shows its result.
WIRE_IT = """
() => {
    const add = (type) => app.graph.add(LiteGraph.createNode(type)) ?? app.graph.nodes.at(-1);
    const removal = app.graph.nodes.find((node) => node.isSubgraphNode?.());
    const clip = add("CombCN_SampleClip");
    clip.widgets.find(({ name }) => name === "frames").value = 4;
    clip.widgets.find(({ name }) => name === "height").value = 72;
    let first = clip, slot = 0;
    if (removal.inputs[0].type === "VIDEO") {
        first = add("CreateVideo");
        clip.connect(0, first, 0);
    }
    first.connect(0, removal, 0);
    clip.connect(1, removal, 1);
    const last = add(removal.outputs[0].type === "VIDEO" ? "SaveVideo" : "PreviewImage");
    removal.connect(0, last, 0);
}
"""


def blueprint(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.fixture(params=FRONT_ENDS)
def page(request):
    front_end = request.getfixturevalue(request.param)
    front_end.page.keyboard.press("Escape")  # what a search has left open
    front_end.load({**blueprint("Remove object"), "nodes": [], "definitions": {"subgraphs": []}})
    return front_end


def test_all_blueprints_have_tests():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


def test_server_lists_them(client):
    listed = client.get("/global_subgraphs").values()
    names = {one["name"] for one in listed if "CombCN" in one["info"]["node_pack"]}
    assert names == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_blueprint_is_found_and_runs(name, page):
    page.add_by_search(name)

    (placed,) = page.page.evaluate(PLACED)
    (subgraph,) = blueprint(name)["definitions"]["subgraphs"]
    assert placed["title"] == name
    for side in ("inputs", "outputs"):
        assert placed[side] == [f"{one['name']}:{one['type']}" for one in subgraph[side]]
    assert [widget for widget, _ in placed["widgets"]] == ["grow_pixels"]
    assert page.broken_nodes() == []
    page.page.evaluate(WIRE_IT)
    assert page.run()[0] == "execution_success"
    assert page.complaints() == []


# App mode

APPS = {
    "quick_removal": ["frames", "grow pixels", "unseen", "filename_prefix"],
    "long_video": ["frames", "grow pixels", "master", "filename_prefix"],
}
TOGGLE_APP = "app.extensionManager.command.execute('Comfy.ToggleLinear')"


@pytest.mark.parametrize("name", APPS)
def test_app_shows_its_inputs_and_runs(name, newest):
    newest.load(json.loads((PACK / "workflows" / f"{name}.json").read_text()))
    newest.page.evaluate(TOGGLE_APP)
    try:
        for label in APPS[name]:
            newest.page.get_by_text(label, exact=True).last.wait_for()
        assert newest.run(300)[0] == "execution_success"
        newest.page.locator("video").first.wait_for()
    finally:
        newest.page.evaluate(TOGGLE_APP)
    assert newest.broken_nodes() == []


@pytest.mark.parametrize("name", APPS)
def test_front_end_without_apps_keeps_them(name, front_end):
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    front_end.load(workflow)
    kept = front_end.page.evaluate("app.graph.serialize().extra.linearData")
    assert kept == workflow["extra"]["linearData"]
