"""What stands on a node ten seconds after a run: its result, whatever was shown on the way.

With COMBCN_SCREENSHOTS=FOLDER a picture of each page is left there.
"""

import os
from pathlib import Path

import pytest

from .test_workflows import TIMEOUT_SECONDS, read

# Live pictures that nodes of a type still show.
LIVE_PICTURES = """
(type) => app.graph.nodes.filter((node) => node.type === type).flatMap(
    (node) => app.nodePreviewImages[node.id] ?? []
)
"""

# Width and height of a picture with such an address.
PICTURE_SIZE = """
async (address) => {
    const image = new Image();
    image.src = address;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
}
"""

# Names of the files of the videos on the page that can be played.
VIDEOS = """
() => [...document.querySelectorAll("video")].filter((video) => video.readyState >= 2).map(
    (video) => new URL(video.currentSrc).searchParams.get("filename")
)
"""
LOOKS = ("front_end", "newest", "nodes_2")


@pytest.fixture(params=LOOKS)
def look(request):
    """The name of each way in which nodes are drawn, and the front end that does it."""
    front_end = request.getfixturevalue("newest" if request.param == "nodes_2" else request.param)
    if request.param != "front_end":
        front_end.use_nodes_2(request.param == "nodes_2")
    yield request.param, front_end
    if request.param != "front_end":
        front_end.use_nodes_2(False)


def shown(workflow, look, tmp_path):
    """The page ten seconds after a run of a short clip that was not computed before."""
    name, front_end = look
    graph = read(workflow)
    (sample,) = (node for node in graph["nodes"] if node["type"] == "CombCN_SampleClip")
    sample["widgets_values"][:3] = [8, 108, 1 + LOOKS.index(name)]
    front_end.load(graph)
    assert front_end.run(TIMEOUT_SECONDS)[0] == "execution_success"
    front_end.page.wait_for_timeout(10_000)
    folder = Path(os.environ.get("COMBCN_SCREENSHOTS", tmp_path))
    front_end.page.screenshot(path=folder / f"{workflow}_{name}.png")
    return front_end.page


def test_result_of_inpaint_video_stands_on_the_node(look, tmp_path):
    page = shown("long_video", look, tmp_path)

    assert page.evaluate(LIVE_PICTURES, "CombCN_InpaintVideo") == []
    # The node's own, and the one of Save Video.
    names = page.evaluate(VIDEOS)
    assert len(names) == 2
    assert any(name.startswith("combcn_") for name in names)
    assert page.get_by_text("Error loading video").count() == 0


def test_last_picture_of_inpaint_is_as_large_as_the_clip(look, tmp_path):
    page = shown("quick_removal", look, tmp_path)

    (picture,) = page.evaluate(LIVE_PICTURES, "CombCN_Inpaint")
    assert page.evaluate(PICTURE_SIZE, picture) == [192, 108]
