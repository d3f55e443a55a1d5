"""The front end in a real browser, driven through what it offers to extensions (`window.app`)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, Playwright, Route

ARGUMENTS = [
    "--no-sandbox",  # which does not start for root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")

# Nodes that the front end does not know, or draws in red after the server has refused them.
BROKEN_NODES = """
() => app.graph.nodes
    .filter((node) => node.has_errors || !(node.type in LiteGraph.registered_node_types))
    .map((node) => node.type)
"""

COMPLAINTS = ", ".join(
    f"{place}:visible" for place in ("[role=dialog]", "[role=alertdialog]", "[role=alert]")
)

QUEUE = """
() => {
    window.ending = null;
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, ({ detail }) => { window.ending ??= [kind, detail]; });
    app.queuePrompt(0, 1).then(() => {
        if (Object.keys(app.lastNodeErrors ?? {}).length)
            window.ending = ["refused", app.lastNodeErrors];
    });
}
"""

# Pictures and videos arrive after the message that says they are there.
RESULTS_ARE_SHOWN = """
() => app.graph.nodes.filter((node) => app.nodeOutputs[node.id]?.images).every((node) => {
    const video = node.videoContainer?.querySelector("video");
    return video ? video.readyState >= 2 : node.imgs?.every((image) => image.complete);
})
"""

# Videos stand still in their middle, without buttons on them.
STOP_VIDEOS = """
() => Promise.all([...document.querySelectorAll("video")].map((video) => {
    video.pause();
    video.controls = false;
    video.currentTime = video.duration / 2;
    return new Promise((resolve) => { video.onseeked = resolve; });
}))
"""

# The graph at its own size in the upper left corner; returns how much of the page it takes.
SHOW_WHOLE_GRAPH = """
(margin) => {
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    const boxes = [
        ...app.graph.nodes.map(({ pos: [x, y], size: [w, h] }) => [x, y - title, w, h + title]),
        ...app.graph.groups.map(({ pos: [x, y], size: [w, h] }) => [x, y, w, h]),
    ];
    const left = Math.min(...boxes.map((box) => box[0])) - margin;
    const top = Math.min(...boxes.map((box) => box[1])) - margin;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [-left, -top];
    app.canvas.setDirty(true, true);
    return [
        Math.ceil(Math.max(...boxes.map((box) => box[0] + box[2])) + margin - left),
        Math.ceil(Math.max(...boxes.map((box) => box[1] + box[3])) + margin - top),
    ];
}
"""

# Buttons that stay on the page when the front end is told to show the graph alone.
HIDE_BUTTONS = ".comfy-menu-hamburger { display: none !important; }"
TOGGLE_FOCUS = "app.extensionManager.command.execute('Workspace.ToggleFocusMode')"


def find_browser() -> str | None:
    """Path of a Chromium; COMBCN_CHROMIUM names another."""
    named = os.environ.get("COMBCN_CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


def launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path, args=ARGUMENTS)


class FrontEnd:
    """A page of the browser with the front end of one server."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1600, "height": 900})
        self.page.set_default_timeout(240_000)  # a busy machine takes minutes

        def stay_here(route: Route) -> None:
            here = route.request.url.startswith((f"http://{address}/", "data:", "blob:"))
            route.continue_() if here else route.abort()

        self.page.route("**/*", stay_here)
        self.page.goto(f"http://{address}")
        self.page.wait_for_function(
            "Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100"
        )
        # The front end brings back the graph of last time, or its own first one, a little later.
        self.page.wait_for_function("window.app?.graph?.nodes.length > 0")

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)

    def broken_nodes(self) -> list[str]:
        return list(self.page.evaluate(BROKEN_NODES))

    def complaints(self) -> list[str]:
        """What lies over the graph: lists of missing nodes, errors, warnings."""
        return self.page.locator(COMPLAINTS).all_inner_texts()

    def prompt(self) -> dict[str, Any]:
        """The graph as the front end would send it, without the titles of the nodes."""
        prompt = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {
            number: {key: node[key] for key in ("class_type", "inputs")}
            for number, node in prompt.items()
        }

    def run(self, timeout_seconds: float = 120) -> tuple[str, dict[str, Any]]:
        """Press Run; how it ended: the kind of the last message or "refused", and what it says."""
        self.page.evaluate(QUEUE)
        ending = self.page.wait_for_function(
            "window.ending", timeout=timeout_seconds * 1000
        ).json_value()
        return ending[0], ending[1]

    def use_nodes_2(self, on: bool = True) -> None:
        """Draw nodes as elements of the page, which only newer front ends can."""
        self.page.evaluate(
            "(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on
        )

    def add_by_search(self, title: str) -> None:
        """Put a node on the graph as a user does: open the search for nodes, type, press Enter."""
        command = "app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
        self.page.evaluate(command)
        self.page.keyboard.type(title)
        self.page.get_by_text(title, exact=True).first.wait_for()
        for _ in range(60):  # on a busy machine the list has nothing chosen at first
            self.page.keyboard.press("Enter")
            self.page.wait_for_timeout(2000)
            if self.page.evaluate("app.graph.nodes.length > 0"):
                break

    def screenshot(self, path: Path, width: int = 1600) -> None:
        """The whole graph with its results, as a picture of this width."""
        self.page.wait_for_function(RESULTS_ARE_SHOWN)
        self.page.evaluate(STOP_VIDEOS)
        self.page.evaluate(TOGGLE_FOCUS)
        self.page.add_style_tag(content=HIDE_BUTTONS)
        graph_width, graph_height = self.page.evaluate(SHOW_WHOLE_GRAPH, 24)
        self.page.set_viewport_size({"width": graph_width, "height": graph_height})
        self.page.wait_for_timeout(500)  # the canvas is drawn when the page finds time
        picture = cv2.imdecode(np.frombuffer(self.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        size = (width, round(width * graph_height / graph_width))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, 82])
        self.page.evaluate(TOGGLE_FOCUS)
