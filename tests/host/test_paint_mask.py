"""Paint Mask: over HTTP, and with ComfyUI's mask editor in both front ends, painted by mouse."""

import urllib.request
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest

from combcn_core.demo import load_demo

from .client import Refused

FRAMES, HEIGHT, WIDTH = 5, 40, 72


@pytest.fixture(scope="module")
def clip(server):
    clip = load_demo(FRAMES, HEIGHT)
    np.save(server.base / "input" / "paint_images.npy", clip.images.astype(np.float32) / 255)
    np.save(server.base / "input" / "paint_mask.npy", clip.masks.astype(np.float32))
    return clip


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**settings):
    form = {"images": ["i", 0], "frame": 2, "image": ""} | settings
    return {
        "i": node("Probe_LoadImages", name="paint_images"),
        "m": node("Probe_LoadMask", name="paint_mask"),
        "p": node("CombCN_PaintMask", **form),
        "s": node("Probe_Save", value=["p", 0], name="painted_mask"),
        "t": node("PreviewAny", source=["p", 1]),
    }


def saved(server):
    return np.load(server.base / "output" / "painted_mask.npy")


def paint(server, frame, mask, name="clipspace/painted.png"):
    """A picture with a mask, as the mask editor saves it."""
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    path = server.base / "input" / name
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.dstack([frame[..., ::-1], alpha]))
    return f"{name} [input]"


def test_paint_mask_waits_until_something_is_painted(client, clip):
    run = client.run(graph())

    assert "nothing is painted on frame 2 yet" in run.error
    assert "mask editor" in run.error
    (shown,) = run.outputs["p"]["images"]  # the frame, to be painted on
    assert shown["type"] == "temp"


@pytest.mark.parametrize("name", ["clipspace/painted.png", "painted.png"])
def test_paint_mask_reads_what_the_editor_saved(name, client, server, clip):
    image = paint(server, clip.images[2], clip.masks[2], name)

    # The newest front ends leave the folder out.
    run = client.run(graph(image=image.removeprefix("clipspace/")))

    assert run.succeeded, run.error
    assert np.array_equal(saved(server), clip.masks[2:3])
    assert run.outputs["t"]["text"] == ["2"]
    (shown,) = run.outputs["p"]["images"]
    assert (shown["filename"], shown["type"]) == ("painted.png", "input")
    (server.base / "input" / name).unlink()


def test_paint_mask_starts_from_a_mask(client, server, clip):
    run = client.run(graph(start=["m", 0]))

    assert run.succeeded, run.error
    assert np.array_equal(saved(server), clip.masks[2:3])
    (shown,) = run.outputs["p"]["images"]
    picture = cv2.imread(str(server.base / "temp" / shown["filename"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(picture[..., 3] == 0, clip.masks[2] > 0)  # where the editor starts


def test_paint_masks_one_behind_the_other(client, server, clip):
    prompt = graph(start=["m", 0], masks=["q", 0], frames=["q", 1])
    prompt["q"] = node("CombCN_PaintMask", images=["i", 0], frame=4, image="", start=["m", 0])

    run = client.run(prompt)

    assert run.succeeded, run.error
    assert np.array_equal(saved(server), clip.masks[[4, 2]])
    assert run.outputs["t"]["text"] == ["4, 2"]


@pytest.mark.parametrize("case", ["another frame", "another size", "nothing", "no alpha"])
def test_paint_mask_rejects_pictures(case, client, server, clip):
    frame, mask = clip.images[2], clip.masks[2]
    name, message = f"{case}.png", "is not painted on frame 2"
    if case == "another frame":
        paint(server, clip.images[0], mask, name)
    elif case == "another size":
        paint(server, frame[:-2], mask[:-2], name)
    elif case == "nothing":
        paint(server, frame, np.zeros_like(mask), name)
        message = "nothing is painted on frame 2"
    else:
        cv2.imwrite(str(server.base / "input" / name), frame)
        message = "no picture with alpha"

    run = client.run(graph(image=f"{name} [input]"))

    assert message in run.error
    assert run.of("execution_error")[0]["exception_type"] == "ValueError"


@pytest.mark.parametrize("image", ["lost.png [input]", "../server.log [input]", "/etc/passwd"])
def test_paint_mask_stays_within_comfyuis_folders(image, client, clip):
    with pytest.raises(Refused) as refused:
        client.run(graph(image=image))

    (error,) = refused.value.errors["p"]["errors"]
    assert "is not there" in error["details"] or "leads out of" in error["details"]


def test_paint_mask_of_a_frame_that_is_not_there(client, clip):
    assert "frame is 5, but images has frames 0 to 4" in client.run(graph(frame=5)).error


# Centre and width of what the mask editor shows of the frame, on the page.
EDITOR_CANVAS = """
() => {
    const boxes = [...document.querySelectorAll("[role=dialog] canvas, .mask-editor-dialog canvas")]
        .map((canvas) => canvas.getBoundingClientRect()).filter(({ width }) => width > 200);
    const { left, top, width, height } = boxes[0];
    return [left + width / 2, top + height / 2, width];
}
"""
GRAPH = """
() => {
    app.graph.clear();
    const add = (type, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 0];
        app.graph.add(node);
        return node;
    };
    const clip = add("CombCN_SampleClip", 0);
    const paint = add("CombCN_PaintMask", 400);
    const picture = add("MaskToImage", 800);
    const save = add("SaveImage", 1200);
    const set = (node, name, value) => {
        node.widgets.find((widget) => widget.name === name).value = value;
    };
    set(clip, "frames", 4);
    set(clip, "height", 108);
    set(paint, "frame", 1);
    clip.connect(0, paint, 0);
    paint.connect(0, picture, 0);
    picture.connect(0, save, 0);
    app.canvas.selectNode(paint);
}
"""
IMAGE = """
() => app.graph.nodes.find(({ type }) => type === "CombCN_PaintMask")
    .widgets.find(({ name }) => name === "image").value
"""
SAVED = """
() => {
    const { id } = app.graph.nodes.find(({ type }) => type === "SaveImage");
    return app.nodeOutputs[id].images[0];
}
"""


@pytest.mark.parametrize("look", ["front_end", "newest", "nodes_2"])
def test_paint_mask_with_the_mask_editor(look, request):
    front_end = request.getfixturevalue("newest" if look == "nodes_2" else look)
    page = front_end.page
    if look != "front_end":
        front_end.use_nodes_2(look == "nodes_2")
    try:
        page.evaluate(GRAPH)
        kind, detail = front_end.run()
        assert kind == "execution_error"
        assert "nothing is painted on frame 1 yet" in detail["exception_message"]
        page.wait_for_timeout(2000)
        page.keyboard.press("Escape")  # what the front end says of it
        page.wait_for_timeout(1000)
        page.evaluate("app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
        page.get_by_text("Mask Editor").first.wait_for()
        page.wait_for_timeout(3000)
        x, y, width = page.evaluate(EDITOR_CANVAS)
        page.mouse.move(x - width / 4, y)
        page.mouse.down()
        page.mouse.move(x, y, steps=20)
        page.mouse.up()
        page.get_by_text("Save", exact=True).last.click()
        page.wait_for_function(f"({IMAGE})() !== ''")
        kind, detail = front_end.run()
        assert kind == "execution_success", detail
        address = f"{page.url.split('#')[0]}api/view?{urlencode(page.evaluate(SAVED))}"
    finally:
        if look != "front_end":
            front_end.use_nodes_2(False)

    with urllib.request.urlopen(address, timeout=60) as answer:
        mask = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == (108, 192)
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 54) < 4
    assert 48 - 12 < columns.min() < columns.max() < 96 + 12  # a brush of 10 pixels around the line
    assert columns.max() - columns.min() > 48
