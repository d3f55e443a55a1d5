"""Every workflow that comes with the pack: over HTTP, and in a browser as a user opens it.

With COMBCN_SCREENSHOTS=FOLDER the browser leaves a picture of each there. The pictures in docs are
made like that: COMBCN_SCREENSHOTS=docs/workflows pytest tests/host -k in_the_browser
"""

import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from .client import to_prompt
from .host import PACK

FOLDER = PACK / "workflows"
NAMES = [  # in the order of the template browser
    "quick_removal",
    "draw_one_mask",
    "long_video",
    "propagation_first",
    "paint_one_frame",
    "three_stages",
    "joint_training",
    "evaluation",
]
THUMBNAIL_PIXELS = 480
NOTES = ("Note", "MarkdownNote")
TITLE_PIXELS = 30
TIMEOUT_SECONDS = 900


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    # A parameter of the module, so that all tests of a workflow follow each other: what the first
    # has computed, ComfyUI still knows in the second.
    return request.param


def test_all_workflows_have_tests():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


def test_workflow_is_tidy(name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}

    assert workflow["version"] == 0.4
    assert any(node["type"] in NOTES for node in nodes.values())
    assert (FOLDER / f"{name}.jpg").stat().st_size < 80_000
    thumbnail = cv2.imread(str(FOLDER / f"{name}.jpg"))
    assert thumbnail.shape == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, 3)  # the browser shows a square
    assert (PACK / "docs" / "workflows" / f"{name}.jpg").stat().st_size < 300_000
    for node in nodes.values():
        if node["type"] in NOTES:
            continue
        properties = node["properties"]
        ours = node["type"].startswith("CombCN_")
        assert properties["cnr_id"] == ("combcn" if ours else "comfy-core")
        assert properties["ver"]
        assert properties["Node name for S&R"] == node["type"]
    assert overlaps(map(box, nodes.values())) == []
    for _, source, _, target, *_ in workflow["links"]:
        (left, _, right, bottom), there = box(nodes[source]), box(nodes[target])
        is_below = left == there[0] and bottom < there[1]
        assert right < there[0] or is_below, "a link runs neither to the right nor straight down"


def test_every_node_is_in_one_group(name):
    workflow = read(name)
    groups = [
        (left, top, left + width, top + height)
        for left, top, width, height in (group["bounding"] for group in workflow["groups"])
    ]
    assert overlaps(groups) == []
    for node in workflow["nodes"]:
        left, top, right, bottom = box(node)
        around = [
            g for g in groups if g[0] < left and g[1] < top and right < g[2] and bottom < g[3]
        ]
        assert len(around) == 1, node["type"]
    titles = [group["title"] for group in workflow["groups"]]
    assert titles == sorted(titles)  # they are numbered, in the order in which they are read
    assert [left for left, *_ in groups] == sorted(left for left, *_ in groups)


def known(prompt, object_info):
    """Without inputs that the front end adds for itself, such as the text of Preview Any."""
    for node in prompt.values():
        form = object_info[node["class_type"]]["input"]
        names = {*form.get("required", {}), *form.get("optional", {})}
        node["inputs"] = {name: node["inputs"][name] for name in names & node["inputs"].keys()}
    return prompt


def box(node):
    """Left, top, right and bottom of a node with its title."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_PIXELS, left + width, top + height


def overlaps(boxes):
    """Pairs of boxes that share a point."""
    return [
        (one, other)
        for one, other in itertools.combinations(boxes, 2)
        if one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
    ]


def curve(workflow, link):
    """Points of a link as it is drawn, (n, 2), without its ends, and where it starts and ends."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    _, source, slot, target, place, *_ = link
    (x, y), (width, _) = nodes[source]["pos"], nodes[source]["size"]
    start = np.array([x + width, y + 20 * slot + 14])
    left, top = nodes[target]["pos"]
    end = np.array([left, top + 20 * place + 14])
    reach = np.array([np.linalg.norm(end - start) / 4, 0])
    t = np.linspace(0, 1, 101)[:, None]
    points = [start, start + reach, end - reach, end]
    weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    return sum(weight * point for weight, point in zip(weights, points, strict=True))


def cross(one, other):
    """Whether two curves do: a piece of each has the ends of a piece of the other on two sides."""

    def side(a, b, p):
        (ax, ay), (bx, by) = (np.moveaxis(c, -1, 0) for c in (b - a, p - a))
        return np.sign(ax * by - ay * bx)

    a, b = one[:-1, None], one[1:, None]
    c, d = other[None, :-1], other[None, 1:]
    return bool(((side(a, b, c) != side(a, b, d)) & (side(c, d, a) != side(c, d, b))).any())


def test_links_of_evaluation_cross_once_at_most():
    workflow = read("evaluation")
    crossings = [
        (one, other)
        for one, other in itertools.combinations(workflow["links"], 2)
        if one[1:3] != other[1:3] and cross(curve(workflow, one), curve(workflow, other))
    ]
    assert len(crossings) <= 1


def test_workflow(name, client, object_info):
    prompt = to_prompt(read(name), object_info)

    run = client.run(prompt, TIMEOUT_SECONDS)

    assert run.succeeded, run.error
    shown = {node["class_type"] for number, node in prompt.items() if number in run.outputs}
    assert shown & {"SaveVideo", "PreviewImage", "CombCN_Evaluate", "PreviewAny"}
    busiest = max(run.progress.values(), key=len)
    assert busiest == sorted(busiest)
    assert busiest[-1][0] == busiest[-1][1]


def test_workflow_in_the_browser(name, front_end, object_info, tmp_path):
    workflow = read(name)

    front_end.load(workflow)

    assert front_end.broken_nodes() == []
    assert front_end.complaints() == []
    assert known(front_end.prompt(), object_info) == to_prompt(workflow, object_info)
    assert front_end.run(TIMEOUT_SECONDS)[0] == "execution_success"
    assert front_end.broken_nodes() == []
    assert front_end.complaints() == []
    picture = Path(os.environ.get("COMBCN_SCREENSHOTS", tmp_path)) / f"{name}.jpg"
    front_end.screenshot(picture)
    assert picture.stat().st_size > 0


def test_workflow_opens_in_newest_front_end(name, newest):
    newest.load(read(name))

    assert newest.broken_nodes() == []
    assert newest.complaints() == []


# The corners of nodes as they are drawn, in the graph's own units.
DRAWN_BOXES = """
() => app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const [x, y] = [node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT];
    const width = element ? element.offsetWidth : node.size[0];
    const height = element ? element.offsetHeight : node.size[1] + LiteGraph.NODE_TITLE_HEIGHT;
    return [x, y, x + width, y + height];
})
"""
OPEN_TEMPLATE = """
(workflow) => app.loadGraphData(workflow, true, true, null, { openSource: "template" })
"""


@pytest.mark.parametrize("nodes_2", [False, True])
def test_template_can_be_read_as_it_opens(name, nodes_2, newest, tmp_path):
    before = newest.page.viewport_size
    newest.page.set_viewport_size({"width": 1600, "height": 1000})
    newest.use_nodes_2(nodes_2)
    try:
        newest.page.evaluate(OPEN_TEMPLATE, read(name))
        newest.page.wait_for_timeout(2000)  # it is fitted to the page, and elements are measured
        scale, boxes = (
            newest.page.evaluate("app.canvas.ds.scale"),
            newest.page.evaluate(DRAWN_BOXES),
        )
        drawn = newest.page.locator("[data-node-id]").count()
        folder = Path(os.environ.get("COMBCN_SCREENSHOTS", tmp_path))
        newest.page.screenshot(path=folder / f"{name}_{'nodes_2' if nodes_2 else 'opened'}.png")
    finally:
        newest.use_nodes_2(False)
        newest.page.set_viewport_size(before)

    assert scale >= 0.75
    assert (drawn > 0) == nodes_2
    assert len(boxes) == len(read(name)["nodes"])
    assert overlaps(boxes) == []


@pytest.mark.parametrize(
    "chosen", ["quick_removal", "draw_one_mask", "paint_one_frame", "propagation_first"]
)
def test_workflow_runs_in_newest_front_end(chosen, newest):
    newest.use_nodes_2(True)  # where nodes grow with what they show
    try:
        newest.load(read(chosen))
        assert newest.run(TIMEOUT_SECONDS)[0] == "execution_success"
        newest.page.wait_for_timeout(2000)
        boxes = newest.page.evaluate(DRAWN_BOXES)
    finally:
        newest.use_nodes_2(False)
    assert newest.broken_nodes() == []
    assert overlaps(boxes) == []


# The template browser

NODES_WITH_SEEDS = ("CombCN_SampleClip", "CombCN_MakeHoles", "CombCN_JointTrainer")
SEED_CONTROLS = """
(types) => types.map((type) => {
    const node = LiteGraph.createNode(type);
    return node.widgets.find(({ name }) => name === "control_after_generate").value;
})
"""
TEMPLATE_CARDS = """
() => [...document.querySelectorAll("[data-testid^=template-workflow-]")].map((card) => {
    const picture = card.querySelector("img");
    return [card.innerText, picture?.naturalWidth];
})
"""


FRONT_ENDS = ("front_end", "newest")


def texts(language):
    path = PACK / "locales" / language / "main.json"
    return json.loads(path.read_text(encoding="utf-8"))["templateWorkflows"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_template_has_a_title_and_a_line(language):
    titles, lines = (texts(language)[key]["CombCN"] for key in ("template", "templateDescription"))
    assert list(titles) == list(lines) == NAMES
    assert all("-" not in line and "_" not in line for line in lines.values())  # shown as spaces


@pytest.mark.parametrize("which", FRONT_ENDS)
def test_template_browser_shows_titles_in_order(which, request, tmp_path):
    page = request.getfixturevalue(which).page
    folder = Path(os.environ.get("COMBCN_SCREENSHOTS", tmp_path))
    before = page.viewport_size
    page.set_viewport_size({"width": 1600, "height": 1000})
    try:
        page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        page.get_by_text(texts("en")["category"]["ComfyUI-CombCN"], exact=True).first.click()
        page.wait_for_timeout(2000)
        cards = page.evaluate(TEMPLATE_CARDS)
        page.screenshot(path=folder / f"templates_{which}.png")
        page.locator("[data-testid=template-workflow-draw_one_mask]").click()
        page.wait_for_function("app.graph.nodes.some(({ type }) => type === 'CombCN_FollowMask')")
    finally:
        page.keyboard.press("Escape")
        page.set_viewport_size(before)

    titles, lines = (texts("en")[key]["CombCN"] for key in ("template", "templateDescription"))
    shown = [text for text, _ in cards]
    assert len(shown) == len(NAMES)
    for text, name in zip(shown, NAMES, strict=True):
        assert titles[name] in text
        assert which == "newest" or lines[name] in text  # its cards have no room for them
    assert [pixels for _, pixels in cards] == [THUMBNAIL_PIXELS] * len(NAMES)


@pytest.mark.parametrize("language", ["en", "zh", "fr"])
def test_template_browser_knows_languages(language, newest):
    newest.page.evaluate("app.api.getWorkflowTemplates()")
    groups = newest.page.evaluate("(name) => app.api.getCoreWorkflowTemplates(name)", language)
    expected = texts("en" if language == "fr" else language)["template"]["CombCN"]
    assert [entry["title"] for entry in groups[-1]["templates"]] == list(expected.values())
    assert len([group for group in groups if group["moduleName"] == "ComfyUI-CombCN"]) == 1


@pytest.mark.parametrize("which", FRONT_ENDS)
def test_new_nodes_keep_their_seed(which, request):
    page = request.getfixturevalue(which).page
    controls = page.evaluate(SEED_CONTROLS, NODES_WITH_SEEDS)
    assert controls == ["fixed"] * len(NODES_WITH_SEEDS)
