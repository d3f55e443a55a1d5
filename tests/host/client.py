"""What a front end does, without one: graphs over HTTP, progress over the websocket."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import websocket

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PICTURE_HEADER_BYTES = 8  # kind of message and of picture, four bytes each
TEXT = 3  # the kind of message that is a line of text
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


class Refused(Exception):
    """The server did not take the graph; `errors` is what it says, by node."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer)[:2000])
        self.errors = answer.get("node_errors", {})


@dataclass
class Run:
    """A graph that has come to its end."""

    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)  # live ones, of all nodes
    lines: dict[str, list[str]] = field(default_factory=dict)  # of text on nodes, by node

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for name, data in self.messages if name == kind]

    @property
    def succeeded(self) -> bool:
        return bool(self.of("execution_success"))

    @property
    def interrupted(self) -> bool:
        return bool(self.of("execution_interrupted"))

    @property
    def error(self) -> str:
        """Message of the node that failed, or nothing."""
        return "".join(data["exception_message"].strip() for data in self.of("execution_error"))

    @property
    def cached(self) -> set[str]:
        return {node for data in self.of("execution_cached") for node in data["nodes"]}

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """What each output node shows."""
        return {data["node"]: data["output"] or {} for data in self.of("executed")}

    @property
    def progress(self) -> dict[str, list[tuple[float, float]]]:
        """Steps done and steps in all, as each node told them."""
        steps: dict[str, list[tuple[float, float]]] = {}
        for data in self.of("progress"):
            steps.setdefault(data["node"], []).append((data["value"], data["max"]))
        return steps


class Client:
    def __init__(self, address: str) -> None:
        self.address = address
        self._id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def run(self, prompt: dict[str, Any], timeout_seconds: float = 120) -> Run:
        run = Run()
        for _ in self.follow(prompt, run, timeout_seconds):
            pass
        return run

    def follow(
        self, prompt: dict[str, Any], run: Run, timeout_seconds: float = 120
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Queue a graph and yield what the server says of it, to the end.

        Raises:
            Refused: the server did not take it.
            TimeoutError: it took too long.
        """
        deadline = time.monotonic() + timeout_seconds
        socket = websocket.create_connection(f"ws://{self.address}/ws?clientId={self._id}")
        try:
            prompt_id = self._queue(prompt)
            while time.monotonic() < deadline:
                socket.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    message = socket.recv()
                except websocket.WebSocketTimeoutException:
                    break
                if isinstance(message, bytes):
                    kind_of_bytes, length = struct.unpack(">II", message[:8])
                    if kind_of_bytes == TEXT:
                        node, text = message[8 : 8 + length].decode(), message[8 + length :]
                        run.lines.setdefault(node, []).append(text.decode())
                    else:
                        run.pictures.append(message[PICTURE_HEADER_BYTES:])
                    continue
                message = json.loads(message)
                kind, data = message["type"], message.get("data", {})
                if data.get("prompt_id", prompt_id) != prompt_id:
                    continue
                run.messages.append((kind, data))
                yield kind, data
                if kind in ENDINGS:
                    return
            raise TimeoutError(f"no end after {timeout_seconds} s; last was {run.messages[-1:]}")
        finally:
            socket.close()

    def _queue(self, prompt: dict[str, Any]) -> str:
        try:
            return str(self.post("/prompt", {"prompt": prompt, "client_id": self._id})["prompt_id"])
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(json.load(error)) from None


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The graph of a workflow file with its inputs by name, as the server takes it.

    Shares no code with the front end, whose own reading of the same file it is compared with.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] not in object_info:  # notes
            continue
        described = object_info[node["type"]]
        values = iter(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for group, names in described["input_order"].items():
            for name in names:
                kind, *rest = described["input"][group][name]
                options = rest[0] if rest else {}
                if group == "hidden" or not _is_widget(kind, options):
                    continue
                inputs[name] = next(values)
                if options.get("control_after_generate") or name == "seed":
                    next(values)  # what becomes of it after a run: "fixed"
        assert not list(values), f"{node['type']} has more widget values than widgets"
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                inputs[socket["name"]] = sources[socket["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")
