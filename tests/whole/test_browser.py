"""The app in a real browser, in JupyterLab and as a Voila page: what is seen there is what the data say.

Left out, with the reason shown, where there is no Chromium or no Playwright.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from browser import MOVE, ROOT, SERVERS, AppPage, digest, expect, find_browser, open_browser, serve
from invented_runs import invent_cloud_run, invent_text_run
from playwright.sync_api import Browser

import kdviz
from kdviz import sources
from kdviz.testing import random_images, small_cnn
from kdviz.widgets.controls import VIEWS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason="needs Chromium, in Debian the package chromium"),
]

LAYER, MODULE = "fc1", "classifier.fc1"
NETWORKS = {"teacher": "teacher", "student": "student-fc1-s0", "baseline": "baseline-s0"}


@dataclass(frozen=True)
class State:
    """What of the app these tests move."""

    epoch: int
    threshold: float
    sample: str


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=SERVERS)
def app(
    request: pytest.FixtureRequest, chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AppPage]:
    """The notebook 02_explore on a page, all cells run."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "root").mkdir()
    notebook = Path(shutil.copy(ROOT / "notebooks" / "02_explore.ipynb", folder / "root"))
    page = AppPage(chromium.new_page(viewport={"width": 1500, "height": 1400}), notebook.parent)
    with serve(request.param, notebook, folder) as address:
        with page.watched(folder / "opened.png"):
            page.open(address, run_all=request.param == "lab")
        yield page
        page.page.close()


# -- what the data say


@functools.cache
def stored_run() -> kdviz.store.Run:
    return kdviz.open_run(sources.find_data("runs/fashion.nc"))


@functools.cache
def count(threshold: float) -> dict[str, xr.Dataset]:
    """Count the points of every network, as a script would."""
    run = stored_run()
    measured = {role: run.dataset(network, MODULE) for role, network in NETWORKS.items()}
    return {
        role: kdviz.count_points(kdviz.find_points(kdviz.derive_entropy(ds), threshold=threshold))
        for role, ds in measured.items()
    }


def head_columns(state: State) -> dict[str, str]:
    """Return what stands above each network, as a regular expression: epoch, points and ratio."""
    heads = {}
    for role, counts in count(state.threshold).items():
        here = counts.isel(epoch=-1) if role == "teacher" else counts.sel(epoch=state.epoch)
        one = here.sel(sample=state.sample)
        lines = [
            rf"{NETWORKS[role]}",
            rf"({role}, )?epoch {int(one['epoch'])}\b",
            rf"{int(one['n_fg'])} object\b.*",
            rf"{int(one['n_bg'])} background\b.*",
            rf"ratio {float(one['fg_ratio']):.2f}",
        ]
        heads[role] = "^" + r"\n".join(lines) + "$"
    return heads


@functools.cache
def draw(state: State) -> list[str]:
    """Return the pictures of an app that is opened at this state rather than moved there."""
    app = kdviz.explore(
        stored_run(),
        layer=LAYER,
        epoch=state.epoch,
        sample=state.sample,
        settings=kdviz.analysis.Settings(threshold=state.threshold),
    )
    found = pictures_in(app)
    app.close()
    return found


def pictures_in(widget: ipywidgets.Widget) -> list[str]:
    """Return the SHA-256 of every picture inside a widget, in the order of the page."""
    if isinstance(widget, ipywidgets.Image):
        return [digest(widget.value)]
    return [one for child in getattr(widget, "children", ()) for one in pictures_in(child)]


# -- what the page says


def read(app: AppPage) -> State:
    epoch, threshold, sample = (app.reading(name).inner_text() for name in ("epoch", "threshold b", "sample"))
    return State(int(epoch), float(threshold), sample)


def expect_state(app: AppPage, state: State) -> None:
    """Wait until controls, counts and pictures are those of a state."""
    expect(app.reading("epoch")).to_have_text(str(state.epoch), timeout=MOVE)
    expect(app.reading("threshold b")).to_have_text(f"{state.threshold:.3f}", timeout=MOVE)
    expect(app.reading("sample")).to_have_text(state.sample, timeout=MOVE)
    for role, pattern in head_columns(state).items():
        expect(app.heading(NETWORKS[role])).to_have_text(
            re.compile(pattern), use_inner_text=True, timeout=MOVE
        )
    wanted = draw(state)
    assert app.pictures(wanted) == wanted


def test_sliders__move_counts_and_pictures_as_the_data_say(app: AppPage, tmp_path: Path) -> None:
    with app.watched(tmp_path / "page.png"):
        start = read(app)
        expect_state(app, start)
        first = app.pictures()

        epochs = count(start.threshold)["student"]["epoch"].values.tolist()
        earlier = replace(start, epoch=epochs[epochs.index(start.epoch) - 1])
        app.press("epoch", "ArrowLeft")
        expect_state(app, earlier)
        assert head_columns(earlier)["student"] != head_columns(start)["student"]
        assert head_columns(earlier)["teacher"] == head_columns(start)["teacher"]
        assert app.pictures() != first

        stricter = replace(earlier, threshold=round(start.threshold + 0.05, 2))
        app.press("threshold b", "ArrowRight", times=5)
        expect_state(app, stricter)
        assert all(head_columns(stricter)[role] != head for role, head in head_columns(earlier).items())

        app.press("threshold b", "ArrowLeft", times=5)
        app.press("epoch", "ArrowRight")
        expect_state(app, start)
        assert app.pictures() == first


def test_pictures__have_names_that_say_what_they_show(app: AppPage, tmp_path: Path) -> None:
    with app.watched(tmp_path / "page.png"):
        told = app.app.locator("img").evaluate_all("images => images.map(image => image.title)")
        assert len(told) > 20 and all(len(one.split()) > 1 for one in told), told
        role = next(iter(NETWORKS.values()))
        expect(
            app.app.get_by_role("img", name=re.compile(f"^{role}, epoch .*knowledge points, "))
        ).to_be_visible()


def test_thumbnail__chooses_its_sample(app: AppPage, tmp_path: Path) -> None:
    with app.watched(tmp_path / "page.png"):
        start = read(app)
        other = str(next(name for name in stored_run().samples["sample"].values if name != start.sample))
        app.app.get_by_title(other, exact=True).click()
        expect_state(app, replace(start, sample=other))


def test_play__goes_on_to_the_last_epoch(app: AppPage, tmp_path: Path) -> None:
    with app.watched(tmp_path / "page.png"):
        start = read(app)
        epochs = count(start.threshold)["student"]["epoch"].values.tolist()
        app.press("epoch", "End")
        app.press("epoch", "ArrowLeft", times=2)
        expect_state(app, replace(start, epoch=epochs[-3]))
        app.app.locator(".widget-play button").first.click()
        expect_state(app, replace(start, epoch=epochs[-1]))


def test_save__writes_the_view_or_says_in_red_why_not(app: AppPage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = app.control("save into").locator("input")
    save = app.app.locator("button", has_text="save")
    with app.watched(tmp_path / "page.png"):
        if served := folder.is_disabled():  # by Voila, to whoever comes
            views = app.root / VIEWS
        else:
            views = tmp_path / "views"
            folder.fill(str(tmp_path / "file"))
            save.click()
            expect(app.red).to_contain_text("StoreError: cannot write", timeout=MOVE)
            folder.fill(str(views))
        save.click()
        expect(app.app.get_by_text("saved ")).to_be_visible(timeout=MOVE)
    assert served == ("ipynb" not in app.page.url)
    (picture,) = views.iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert read(app).sample in picture.name


def test_page__cuts_nothing_off_on_a_laptop(app: AppPage, tmp_path: Path) -> None:
    with app.watched(tmp_path / "page.png"):
        app.page.set_viewport_size({"width": 1366, "height": 768})
        hidden = app.app.evaluate(
            "app => [...app.querySelectorAll('.widget-box')].map(box => box.scrollWidth - box.clientWidth)"
        )
        assert len(hidden) > 10
        assert max(hidden) < 6  # pixels; the margins of a picture


# -- words and points in space


@contextmanager
def page_of(
    run: kdviz.store.Run, chromium: Browser, folder: Path, networks: tuple[str, ...] = ()
) -> Iterator[AppPage]:
    """Open the notebook 02_explore on another run, as a Voila page."""
    notebook = json.loads((ROOT / "notebooks" / "02_explore.ipynb").read_text(encoding="utf-8"))
    (cell,) = (one for one in notebook["cells"] if "parameters" in one["metadata"].get("tags", []))
    chosen = f"\nnetworks = {[*networks]!r}" if networks else ""
    cell["source"] = [*cell["source"], f"\nrun_path = {str(run.path)!r}{chosen}"]
    (folder / "root").mkdir()
    path = folder / "root" / "02_explore.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    page = AppPage(chromium.new_page(viewport={"width": 1366, "height": 1400}), path.parent)
    with serve("voila", path, folder) as address, page.watched(folder / "page.png"):
        page.open(address, run_all=False)
        yield page
        page.app.screenshot(path=folder / "app.png")
    page.page.close()


def test_words__are_seen_marked_and_say_their_numbers(chromium: Browser, tmp_path: Path) -> None:
    invented = invent_text_run(tmp_path / "run.zarr")
    with page_of(invented.run, chromium, tmp_path) as page:
        page.app.get_by_title("text-1", exact=True).click()  # a text that holds <b>manufactured</b>
        expect(page.reading("sample")).to_have_text("text-1", timeout=MOVE)
        app = kdviz.explore(invented.run, sample="text-1")
        one = app.view.networks[1]
        place = [*app.view.canvas.coordinates["token"]].index("<b>manufactured</b>")
        said = f"entropy {one.entropy[place]:.3f} nat, gain {one.gain[place]:.3g}"
        words = page.app.locator(f"span[title^='{said}']")
        expect(words).to_have_count(3, timeout=MOVE)  # in the map, the points and the detours
        shown = [word.removeprefix("\u25cf\xa0") for word in words.all_inner_texts()]
        assert shown == ["<b>manufactured</b>"] * 3
        expect(page.app.locator("b", has_text="manufactured")).to_have_count(0)
        marks = len(page.app.get_by_text(re.compile("^[\u25cf\u25c6]\xa0")).all())
        held = [int((one.points & app.view.canvas.foreground).sum()) for one in app.view.networks]
        assert marks == sum(int(one.points.sum()) for one in app.view.networks) + sum(held)
        page.press("threshold b", "End")  # so far below the mean lies nothing
        expect(page.heading("student-hidden-s0")).to_contain_text("0 foreground", timeout=MOVE)
        expect(page.app.get_by_text(re.compile("^[\u25cf\u25c6]\xa0"))).to_have_count(0, timeout=MOVE)
        app.close()


def test_cloud__turns_as_the_geometry_says(chromium: Browser, tmp_path: Path) -> None:
    invented = invent_cloud_run(tmp_path / "run.zarr", points=600)
    with page_of(invented.run, chromium, tmp_path) as page:
        expect(page.reading("azimuth")).to_have_text("30", timeout=MOVE)
        page.press("azimuth", "ArrowRight", times=3)
        expect(page.reading("azimuth")).to_have_text("45", timeout=MOVE)
        turned = kdviz.explore(invented.run, azimuth=45)
        wanted = pictures_in(turned)
        assert page.pictures(wanted) == wanted
        before = kdviz.explore(invented.run)
        assert pictures_in(before)[4:14] != wanted[4:14]
        page.app.locator(".widget-play").last.locator("button").first.click()
        expect(page.reading("azimuth")).not_to_have_text("45", timeout=MOVE)
        for app in (turned, before):
            app.close()


# -- more networks than a student and a baseline

SIX = {
    "teacher": {"role": "teacher"},
    "by-features": {"role": "student", "details": {"distillation_method": "features"}},
    "by-kl": {"role": "student", "details": {"distillation_method": "kl"}},
    "alone": {"role": "baseline"},
    "pruned": {"role": "pruned"},
    "quantised": {"role": "quantised"},
}


def test_six_networks__are_seen_chosen_and_saved_by_name(chromium: Browser, tmp_path: Path) -> None:
    foreground = np.zeros((6, 8, 8), bool)
    foreground[:, 2:6, 2:6] = True
    for seed, (name, about) in enumerate(SIX.items()):
        details = {"training_seed": 0} | about.get("details", {})
        kdviz.measure_checkpoints(
            partial(small_cnn, seed=seed),
            {epoch: small_cnn(seed=10 * seed + epoch).state_dict() for epoch in (0, 3)},
            random_images(6),
            network=name,
            role=about["role"],
            layers="fc1",
            units=kdviz.units.grid(4),
            foreground=foreground,
            sample_ids=list("abcdef"),
            details=details,
            store=tmp_path / "six.zarr",
            progress=False,
        )
    run = kdviz.open_run(tmp_path / "six.zarr")
    with page_of(run, chromium, tmp_path, tuple(SIX)) as page:
        sample = page.reading("sample").inner_text()
        for name in SIX:
            points = kdviz.find_points(kdviz.derive_entropy(run.dataset(name, "fc1")))
            one = kdviz.count_points(points).isel(epoch=-1).sel(sample=sample)
            held = f"{int(one['n_fg'])} object"
            expect(page.heading(name)).to_contain_text(held, use_inner_text=True, timeout=MOVE)
        shown = page.app.locator("select[multiple] option")
        shown.filter(has_text="by-kl").click()
        for other in ("quantised", "pruned"):
            expect(page.heading(other)).to_have_count(0, timeout=MOVE)
        shown.filter(has_text="pruned").click(modifiers=["Control"])
        expect(page.heading("pruned")).to_be_visible(timeout=MOVE)  # a click on save overtakes what waits
        page.app.locator("select", has_text="units (CSV)").select_option("units (CSV)")
        page.app.locator("button", has_text="save").click()
        expect(page.app.get_by_text("saved ")).to_be_visible(timeout=MOVE)
    (file,) = (page.root / VIEWS).iterdir()
    table = pd.read_csv(file)
    assert [*table["network"].unique()] == ["by-kl", "pruned"]
    for name, of_one in table.groupby("network"):
        measured = run.dataset(str(name), "fc1")["gain"].isel(epoch=-1).sel(sample=sample)
        np.testing.assert_allclose(of_one["gain"], measured, rtol=1e-6)
