"""A notebook with the app in a real browser: the two servers, and the page as somebody uses it."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install kdviz[browser]")
expect = playwright.expect

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SERVERS = ("lab", "voila")
START, MOVE = 600_000, 120_000  # ms that a start and a move may take on a busy machine
TOKEN = "test"
QUIET_LAB = """{
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}
}"""  # no question at the start, and every cell in the page although it is not in sight

READ_PICTURES = """async (app, [wanted, patience]) => {
    const hash = async image => {
        const bytes = await (await fetch(image.src)).arrayBuffer();
        const digest = await crypto.subtle.digest("SHA-256", bytes);
        return Array.from(new Uint8Array(digest), byte => byte.toString(16).padStart(2, "0")).join("");
    };
    const read = () => Promise.all([...app.querySelectorAll("img.widget-image")].map(hash));
    const end = performance.now() + patience;
    while (performance.now() < end) {
        const found = await read().catch(() => []);  // one that is being replaced cannot be read
        if (JSON.stringify(found) === JSON.stringify(wanted)) return found;
        await new Promise(resolve => setTimeout(resolve, 50));
    }
    return read();
}"""


def find_browser() -> str | None:
    """Return the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """Run Chromium without a window, and without a way to any other machine."""
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--disable-gpu", nowhere])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serve(server: str, notebook: Path, folder: Path) -> Iterator[str]:
    """Serve a notebook by JupyterLab or Voila with no settings but ours, and give its address.

    Parameters
    ----------
    server
        One of `SERVERS`.
    notebook
        Its folder becomes the root of the server.
    folder
        For settings, connection files and ``server.log``.
    """
    port = _free_port()
    options = {
        "lab": [
            "--allow-root",
            f"--IdentityProvider.token={TOKEN}",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.root_dir={notebook.parent}",
        ],
        "voila": [notebook.name, "--Voila.ip=127.0.0.1", f"--Voila.connection_dir_root={folder}"],
    }
    path = {"lab": f"lab/tree/{notebook.name}?token={TOKEN}", "voila": ""}
    module = {"lab": "jupyterlab", "voila": "voila"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module[server], *options[server], "--no-browser", f"--port={port}"],
            cwd=notebook.parent,
            env=os.environ | _own_settings(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be stopped as a whole
        )
    try:
        _wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/{path[server]}"
    finally:
        _stop(process)


class AppPage:
    """The app on a page: what is to be seen, and what a hand can do.

    Parameters
    ----------
    page
        Shows the notebook, all cells run.
    root
        Folder of the notebook.
    """

    def __init__(self, page: "Page", root: Path = Path()) -> None:
        self.page, self.root = page, root
        self.errors: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def app(self) -> "Locator":
        """The output that holds the app."""
        return self.page.locator(".jp-OutputArea-output", has=self.page.locator(".widget-play")).first

    @property
    def red(self) -> "Locator":
        """Every place where something says that it failed."""
        stderr = '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type*="jupyter.error"]'
        return self.page.locator(f'{stderr}, [style*="b00020"]')

    def open(self, address: str, *, run_all: bool) -> None:
        """Go to the notebook and wait until every cell has run; `run_all` where that is left to us."""
        self.page.goto(address, timeout=START)
        if run_all:
            expect(self.page.get_by_text("| Idle")).to_be_visible(timeout=START)
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_text("Run All Cells", exact=True).click()
            still = self.page.locator(".jp-CodeCell .jp-InputArea-prompt", has_text=r"[*]")
        expect(self.app).to_be_visible(timeout=START)
        if run_all:
            expect(still).to_have_count(0, timeout=START)

    def heading(self, role: str) -> "Locator":
        """What stands above the column of a network."""
        return self.app.locator(".widget-html-content", has=self.page.locator("b", has_text=role))

    def control(self, name: str) -> "Locator":
        """A slider or a menu by the word before it."""
        label = self.page.get_by_text(name, exact=True)
        return self.app.locator(".widget-inline-hbox", has=label)

    def press(self, name: str, key: str, times: int = 1) -> None:
        """Press a key on a slider."""
        handle = self.control(name).locator(".noUi-handle")
        for _ in range(times):
            handle.press(key)

    def reading(self, name: str) -> "Locator":
        """What a slider says it is set to, or a menu."""
        return self.control(name).locator(".widget-readout, option:checked")

    def pictures(self, wanted: list[str] | None = None) -> list[str]:
        """SHA-256 of every picture in the app as the browser holds them, in the order of the page.

        Waits for those that are wanted, and after a while gives what there is.
        """
        return self.app.evaluate(READ_PICTURES, [wanted, MOVE if wanted else 0])

    @contextmanager
    def watched(self, screenshot: Path) -> Iterator[None]:
        """See that nothing on the page says that it failed; where that or a test fails, keep a screenshot."""
        try:
            yield
            expect(self.red).to_have_count(0)
            assert self.errors == []
        except Exception as error:
            self.page.screenshot(path=screenshot)
            error.add_note(f"the page, as it was then: {screenshot}")
            raise

    def _hear(self, message: "ConsoleMessage") -> None:
        elsewhere = message.location["url"].startswith(
            "https://"
        )  # icons that the page of Voila can do without
        if message.type == "error" and not elsewhere:
            self.errors.append(message.text)


def digest(picture: bytes) -> str:
    """Return the SHA-256 of a picture as `AppPage.pictures` does."""
    return hashlib.sha256(picture).hexdigest()


def _own_settings(folder: Path) -> dict[str, str]:
    """Return an environment in which no setting of the user's counts, and this copy of kdviz is imported."""
    settings = folder / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(QUIET_LAB, encoding="utf-8")
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {name: str(folder / place) for name, place in places.items()} | {
        "PYTHONPATH": str(ROOT),
        "KDVIZ_STRICT": "0",  # errors are shown on the page
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START / 1000
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start; it said:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen) -> None:
    """End a server; asked to, it ends its kernels, and those of one that had to be killed notice and end."""
    process.terminate()
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
