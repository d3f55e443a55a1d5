"""One ComfyUI and one browser for all tests in this folder."""

import os
import shutil
from typing import NoReturn

import pytest
import torch
from playwright.sync_api import Error, sync_playwright

from combcn_core import CombCN, NetworkConfig

from .browser import FrontEnd, find_browser, launch
from .client import Client
from .host import HERE, HostError, Server, copy_pack, install, newest_front_end


def give_up(reason: str) -> NoReturn:
    """Skip, but fail where everything has to run."""
    if os.environ.get("COMBCN_CI") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def random_model() -> CombCN:
    """Networks of which every layer matters: fresh ones leave a classical fill as it is."""
    torch.manual_seed(0)
    model = CombCN(NetworkConfig(input_fill="classical"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def host():
    """The folder in which ComfyUI is installed."""
    try:
        return install()
    except (HostError, OSError) as error:
        give_up(f"ComfyUI cannot be installed here: {error}")


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    """A ComfyUI that has the pack and the tests' probe, started once for all tests."""
    base = tmp_path_factory.mktemp("comfyui")
    copy_pack(base / "custom_nodes")
    shutil.copytree(HERE / "probe", base / "custom_nodes" / "probe")
    server = Server(host, base)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(server):
    return Client(server.address)


@pytest.fixture(scope="session")
def object_info(client):
    return client.get("/object_info")


# Of the module, because Playwright keeps an event loop running as long as it is open.
@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        give_up("there is no Chromium here; install one, or name one in COMBCN_CHROMIUM")
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright, path)
        except Error as error:
            give_up(f"{path} does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def front_end(browser, server):
    """The front end that this ComfyUI asks for."""
    return FrontEnd(browser, server.address)


@pytest.fixture(scope="module")
def newest(browser, host, tmp_path_factory):
    """The newest front end, on a ComfyUI of its own."""
    base = tmp_path_factory.mktemp("newest")
    copy_pack(base / "custom_nodes")
    server = Server(host, base, "--front-end-root", newest_front_end(host))
    yield FrontEnd(browser, server.address)
    server.stop()
