"""Take the pictures of the tour: the app by itself, as a browser shows it.

PYTHONPATH=tests python docs/make_tour.py
"""

import shutil
import tempfile
from pathlib import Path

from browser import AppPage, open_browser, serve
from playwright.sync_api import Locator

from kdviz.reports import prepare_notebook
from kdviz.sources import find_data

DOCS = Path(__file__).parent
NOTEBOOK = DOCS.parent / "notebooks" / "02_explore.ipynb"
WIDTH, HEIGHT, SCALE = 1240, 1500, 1.5
QUALITY = 66  # of the JPEG, for less than 300 kB
REST = 3000  # ms; the charts follow a moment later


def take(shown: Locator, name: str) -> None:
    """Keep a picture of what is shown once it has come to rest."""
    shown.page.wait_for_timeout(REST)
    shown.screenshot(path=DOCS / "images" / name, type="jpeg", quality=QUALITY)


def take_kind(folder: Path, run: str) -> None:
    """Take the app as it opens on a stored run of another kind of input."""
    path = str(find_data(f"runs/{run}.nc"))
    folder.mkdir()
    notebook = prepare_notebook("02_explore", {"run_path": path}, folder=folder / "root")
    with serve("voila", notebook, folder) as address, open_browser() as browser:
        size = {"width": WIDTH, "height": HEIGHT}
        page = AppPage(browser.new_page(viewport=size, device_scale_factor=SCALE))
        page.open(address, run_all=False)
        take(page.app, f"explore_{run}.jpg")


def main(folder: Path) -> None:
    """Serve the notebook and take the app as it opens, then its panels where more happens."""
    for run in ("reviews", "furniture"):
        take_kind(folder / run, run)
    (folder / "root").mkdir()
    notebook = Path(shutil.copy(NOTEBOOK, folder / "root"))
    with serve("voila", notebook, folder) as address, open_browser() as browser:
        size = {"width": WIDTH, "height": HEIGHT}
        page = AppPage(browser.new_page(viewport=size, device_scale_factor=SCALE))
        page.open(address, run_all=False)
        take(page.app, "explore.jpg")
        page.control("order").locator("select").select_option("apart")
        page.page.wait_for_timeout(REST)
        page.app.locator("button[title^=train]").first.click()
        head, controls = page.page.locator("b", has_text="teacher"), page.page.locator("select")
        take(page.app.locator(".widget-vbox", has=head, has_not=controls).first, "explore_apart.jpg")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        main(Path(empty))
