"""The app on words and on points in space: what is shown is what the gains say, padding is never seen."""

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from invented_runs import TEXTS, InventedRun, invent_cloud_run, invent_text_run
from ipywidgets.widgets.widget import _instances
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image
from traitlets import TraitError

import kdviz
from kdviz import render
from kdviz.analysis import Settings
from kdviz.render import charts, layout
from kdviz.render.canvases import CloudCanvas, GridCanvas, WordCanvas, choose_kind
from kdviz.widgets import Explorer, explorer

MAKERS = {"text": invent_text_run, "cloud": invent_cloud_run}
STUDENT = {"text": "student-hidden-s0", "cloud": "student-fc1-s0"}


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InventedRun]:
    """A run of each kind, with maps of one method for the student."""
    made = {name: make(tmp_path_factory.mktemp(name) / "run.zarr") for name, make in MAKERS.items()}
    for name, one in made.items():
        samples = one.run.samples
        maps = np.random.default_rng(1).standard_normal(samples["valid"].shape).astype(np.float32)
        padded = np.where(samples["valid"], maps, np.nan)[None, None]  # nothing is known of what is not there
        coords = {
            "attribution_method": ["occlusion"],
            "epoch": [5],
            "sample": samples["sample"].values,
            "unit": samples["unit"].values,
        }
        dims = ("attribution_method", "epoch", "sample", "unit")
        variables = {"attribution": (dims, padded), "valid": (dims[2:], samples["valid"].values)}
        attribution = xr.Dataset(variables, coords=coords)
        one.run.write_result(f"attribution/{STUDENT[name]}", attribution)
    return made


@pytest.fixture(scope="module", params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def opened(invented: dict[str, InventedRun], kind: str) -> Iterator[Explorer]:
    app = kdviz.explore(invented[kind].run)
    yield app
    app.close()


@pytest.fixture
def app(opened: Explorer, kind: str, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Return the app as if new; errors in its callbacks are raised."""
    monkeypatch.setenv("KDVIZ_STRICT", "1")
    monkeypatch.setattr(opened._draw_charts_later, "_call", lambda: None)  # slow, and the same for all kinds
    chosen = opened.selection
    for name in ("overlay", "opacity", "azimuth", "histogram"):
        setattr(chosen, name, chosen.traits()[name].default_value)
    chosen.settings, chosen.epoch = Settings(), 5
    chosen.sample = f"{kind}-0"
    opened.controls["class"].value, opened.controls["order"].value = "", "as stored"
    return opened


OF_WORDS = pytest.mark.parametrize("kind", ["text"], indirect=True)
OF_POINTS = pytest.mark.parametrize("kind", ["cloud"], indirect=True)


def valid_units(one: InventedRun, sample: str) -> np.ndarray:
    return np.flatnonzero(one.run.samples["valid"].sel(sample=sample).values)


def spans(html: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(html).iter("span"))


def style_of(span: ElementTree.Element) -> dict[str, str]:
    return dict(part.split(":", 1) for part in span.get("style").split(";"))


def picture_of(image: widgets.Image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)))


# -- both kinds


def test_explore__knows_the_points_that_were_put_there(
    invented: dict[str, InventedRun], kind: str, app: Explorer
) -> None:
    one = invented[kind]
    for place, sample in enumerate(app._scene.samples):
        units = valid_units(one, sample)
        for index, epoch in enumerate((0, 2, 5)):
            app.selection.sample, app.selection.epoch = sample, epoch
            teacher, student, baseline = app.view.networks
            assert np.array_equal(app.view.canvas.coordinates["unit"], units)
            for shown, at in ((teacher, 0), (student, index), (baseline, index)):
                truth = one.points[shown.network][at, place][units]
                assert np.array_equal(shown.points, truth)
                inside = one.run.samples["foreground"].values[place][units]
                assert np.array_equal(app.view.canvas.foreground, inside)
                assert shown.counts["n_fg"] == (truth & inside).sum()
                assert shown.counts["n_bg"] == (truth & ~inside).sum()
                assert np.isfinite(shown.entropy).all() and np.isfinite(shown.values).all()


def test_explore__limits_and_histogram_leave_padding_out(
    invented: dict[str, InventedRun], kind: str, app: Explorer
) -> None:
    one = invented[kind]
    every = [
        kdviz.derive_entropy(one.run.dataset(network, one.layer), weight=6.0)["entropy"].values
        for network in one.points
    ]
    valid = one.run.samples["valid"].values
    known = np.concatenate([values[:, valid].ravel() for values in every])
    assert app.view.networks[0].limits == pytest.approx(tuple(np.quantile(known, (0.01, 0.99))))
    sample = app._scene.samples[1]
    trace = app._scene.trace(app.view.networks[0], sample, "entropy", app.selection.place)
    figure = charts.view_charts(charts.Charts([trace], 5, "nat", app.view.canvas.vocabulary))
    app.selection.sample = sample
    for quantity in ("entropy", "gain"):
        trace = app._scene.trace(app.view.networks[1], sample, quantity, app.selection.place)
        figure = charts.view_charts(charts.Charts([trace], 5, "nat", app.view.canvas.vocabulary))
        (bars,) = figure.axes[-1].patches
        heights = bars.get_xy()[:, 1]
        assert len(trace.values) == len(valid_units(one, sample))
        assert heights[1:-1:2].sum() == len(trace.values), "every unit of this sample is counted, no other"


def test_explore__gains_of_units_that_differ_in_size_are_shown_by_part(tmp_path: Path) -> None:
    """A grid that does not divide: no cell of the histogram stands out for its area alone."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 2))
    torch.nn.init.constant_(network[1].weight, 0.1)
    kdviz.measure_checkpoints(
        lambda: network,
        {0: network.state_dict()},
        torch.zeros(1, 1, 10, 10),
        network="n",
        role="student",
        layers="1",
        units=kdviz.units.grid(4),
        store=tmp_path / "run.zarr",
        feature="identity",
        progress=False,
    )
    app = kdviz.explore(tmp_path / "run.zarr")
    for unit_gain, label, values in (
        ("mean", "log10 gain of a part", np.full(16, -2)),
        ("sum", "log10 gain", np.log10(0.01 * np.outer([3, 2, 3, 2], [3, 2, 3, 2]).ravel())),
    ):
        app.selection.settings = Settings(unit_gain=unit_gain)
        shown = app._scene.charts(app.view, 0, "gain", app.selection.place)
        assert shown.quantity == label
        np.testing.assert_allclose(shown.traces[0].values, values, atol=1e-3)
    app.close()


def test_overlay__shows_maps_of_these_units(
    invented: dict[str, InventedRun], kind: str, app: Explorer
) -> None:
    maps = invented[kind].run.result(f"attribution/{STUDENT[kind]}")["attribution"].values[0, 0]
    app.selection.overlay = "occlusion"
    teacher, student, _ = app.view.networks
    end = np.nanquantile(abs(maps), 0.99)
    assert np.allclose(student.values, maps[0][valid_units(invented[kind], f"{kind}-0")])
    assert student.limits == pytest.approx((-end, end))
    assert np.isnan(teacher.values).all() and len(teacher.values) == len(student.values)


def test_save__tables_and_datasets_hold_every_unit_once_and_where_it_is(
    invented: dict[str, InventedRun], kind: str, app: Explorer, tmp_path: Path
) -> None:
    app.selection.sample = f"{kind}-1"
    samples = invented[kind].run.samples.sel(sample=f"{kind}-1")
    units = valid_units(invented[kind], f"{kind}-1")
    table = pd.read_csv(app.save(tmp_path / "view.csv"), keep_default_na=False)
    assert len(table) == 3 * len(units)
    rows = table[table["network"] == STUDENT[kind]]
    student = app.view.networks[1]
    assert rows["unit"].tolist() == units.tolist()
    assert rows["knowledge_point"].tolist() == student.points.tolist()
    for name in {"text": ["token"], "cloud": ["x", "y", "z"]}[kind]:
        stored = samples[name].values[units]
        assert rows[name].tolist() == pytest.approx(stored.tolist()) if kind == "cloud" else stored.tolist()
    assert "row" not in table
    with xr.open_dataset(app.save(tmp_path / "view.nc")) as ds:
        assert np.array_equal(ds["entropy"].sel(network=STUDENT[kind]), student.entropy)
        assert np.array_equal(ds["foreground"], app.view.canvas.foreground)
        assert {"text": "token", "cloud": "z"}[kind] in ds.coords
        assert json.loads(ds.attrs["settings"]) == app.selection.as_parameters()


def test_save__pictures_and_settings(
    invented: dict[str, InventedRun], kind: str, app: Explorer, tmp_path: Path
) -> None:
    app.selection.azimuth, app.selection.epoch = 75, 2
    assert Image.open(app.save(tmp_path / "view.png")).width == 2640
    pdf = app.save(tmp_path / "view.pdf").read_bytes()
    assert pdf[:4] == b"%PDF" and b"/Subtype /CIDFontType2" in pdf and b"Type3" not in pdf
    svg = app.save(tmp_path / "view.svg").read_text(encoding="utf-8")
    assert ("image/png;base64" in svg) == (kind == "cloud")
    assert ("azimuth 75" in svg) == (kind == "cloud") and "coarsening" not in svg
    settings = yaml.safe_load(app.save(tmp_path / "view.yaml").read_text(encoding="utf-8"))
    fields = {name: settings.pop(name) for name in Settings.__dataclass_fields__} | {"feature_loss": None}
    again = kdviz.explore(settings.pop("run_path"), settings=Settings(**fields), **settings)
    assert again.selection.as_parameters() == app.selection.as_parameters()
    for kinds in ("map", "points", "detours"):
        assert [one.value for one in again.outputs[kinds]] == [one.value for one in app.outputs[kinds]]
    again.close()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("azimuth", 360, "azimuth"),
        ("azimuth", -1, "azimuth"),
        ("azimuth", 3.5, "azimuth"),
        ("settings", Settings(coarsening=2), "coarsening is 2; allowed: 1"),
        ("sample", "s0", "sample is 's0'"),
    ],
)
def test_selection__refuses_what_there_is_not(
    invented: dict[str, InventedRun], kind: str, app: Explorer, name: str, value: object, message: str
) -> None:
    with pytest.raises((ValueError, TraitError), match=message):
        setattr(app.selection, name, value)
    with pytest.raises(ValueError, match=message):
        kdviz.explore(invented[kind].run, **{name: value})


def test_controls__offer_what_the_kind_has(kind: str, app: Explorer) -> None:
    assert "coarsening" not in app.controls
    assert ("azimuth" in app.controls) == ("turn" in app.controls) == (kind == "cloud")


def test_gallery__orders_as_for_images(kind: str, app: Explorer) -> None:
    points = kdviz.find_points(
        kdviz.derive_entropy(app._scene.run.dataset(STUDENT[kind], app.selection.layer), weight=6.0),
        threshold=0.25,
    )["knowledge_point"].values
    changed = (points[0] ^ points[-1]).sum(-1)
    app.controls["order"].value = "most changed"
    place = app._scene.samples.index
    assert [changed[place(name)] for name in app.gallery.listed] == sorted(changed, reverse=True)
    app.gallery.buttons[1].click()
    assert app.selection.sample == app.gallery.listed[1]


def test_walk__through_every_control(kind: str, app: Explorer) -> None:
    for name in ("threshold", "background", "solver", "weight", "overlay", "opacity", "histogram", "epoch"):
        control = app.controls[name]
        before = control.value
        values = [value for _, value in getattr(control, "_options_full", ())]
        for value in values or [control.min, control.max]:
            control.value = value
            assert not app.failed, f"{name} {value}: {app.outputs['status'].value}"
        control.value = before
    app._draw_charts()
    assert not app.failed


FOREIGN = {"text": "object|image|picture|pixel|cloud|mask", "cloud": "image|picture|pixel|text|word|mask"}


def words_of(widget: widgets.Widget) -> Iterator[str]:
    """Yield every text that a widget and what is inside it show."""
    for name in ("value", "description", "tooltip", "title"):
        yield str(getattr(widget, name, ""))
    yield from map(str, getattr(widget, "_options_labels", ()))
    for child in getattr(widget, "children", ()):
        yield from words_of(child)


def test_explore__calls_things_by_the_words_of_their_kind(kind: str, app: Explorer) -> None:
    svg = layout.encode_figure(app.figure(), "svg").decode()
    figure = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    said = f"{' '.join(words_of(app))} {figure}"
    said = re.sub(r"<[^>]*>|b'.*?'", " ", said)  # tags of HTML, and pictures
    own = render.choose_kind(app._scene.run.samples).vocabulary
    assert f"{own.unit}s of this {own.sample}" in said and f"mean of all {own.sample}s" in said
    assert f"knowledge point on the {own.foreground}" in said
    assert re.findall(rf"\b(?:{FOREIGN[kind]})s?\b", said) == []


def test_close__leaves_no_model_behind(invented: dict[str, InventedRun], kind: str) -> None:
    before = set(_instances)
    kdviz.explore(invented[kind].run).close()
    assert set(_instances) == before


def test_choose_kind__by_the_coordinates() -> None:
    def kind_of(*names: str) -> type:
        return choose_kind(xr.Dataset({name: ("unit", [0]) for name in names}))

    assert kind_of("row", "col") is GridCanvas
    assert kind_of("token") is WordCanvas
    assert kind_of("x", "y", "z") is CloudCanvas
    for names in (("x", "y"), ("row",)):
        with pytest.raises(ValueError, match="they need the coordinates row, col; token; x, y, z"):
            kind_of(*names)


# -- words


@OF_WORDS
def test_words__have_the_colours_marks_and_numbers_of_their_units(app: Explorer) -> None:
    app.selection.opacity = 1.0
    for column, one in enumerate(app.view.networks):
        tokens, inside = app.view.canvas.coordinates["token"], app.view.canvas.foreground
        low, high = one.limits
        scale = colormaps["viridis_r"]
        drawn = {kind: spans(app.outputs[kind][column].value) for kind in ("map", "points", "detours")}
        for place, word in enumerate(tokens):
            shown = drawn["map"][place]
            colour = to_hex(scale(np.clip((one.entropy[place] - low) / (high - low), 0, 1)))
            assert style_of(shown)["background"] == colour and shown.text == word
            assert f"entropy {one.entropy[place]:.3f} nat, gain {one.gain[place]:.3g}" in shown.get("title")
            assert ("foreground" in shown.get("title")) == inside[place]
            assert ("knowledge point" in shown.get("title")) == one.points[place]
            mark = {True: "●\xa0", False: "◆\xa0"}[bool(inside[place])] if one.points[place] else ""
            assert drawn["points"][place].text == f"{mark}{word}"
            held = one.points[place] and inside[place]
            mark = "●\xa0" if held else "✕\xa0" if one.dropped[place] else ""
            assert drawn["detours"][place].text == f"{mark}{word}"
            assert ("text-decoration" in style_of(shown)) == inside[place]
        assert {kind: len(found) for kind, found in drawn.items()} == dict.fromkeys(drawn, len(tokens))


@OF_WORDS
def test_words__are_data_and_never_markup(app: Explorer) -> None:
    app.selection.sample = "text-1"  # holds <b>manufactured</b>
    for html in (app.outputs["input"].value, app.outputs["points"][0].value):
        assert "<b>manufactured" not in html and "&lt;b&gt;manufactured&lt;/b&gt;" in html
    assert [span.text for span in spans(app.outputs["input"].value)] == TEXTS[1].split()


@OF_WORDS
def test_words__gallery_shows_the_first_of_them(app: Explorer) -> None:
    gallery = app.gallery
    assert gallery.pictures == []
    assert gallery.buttons[3].description == "positive: unflinchingly bleak and desperate"
    assert gallery.buttons[0].description == "negative: a deliciously nonsensical comedy about a city co…"
    gallery.buttons[4].click()
    assert app.selection.sample == "text-4" and len(app.view.canvas.coordinates["token"]) == 1


@OF_WORDS
def test_words__are_called_foreground(app: Explorer) -> None:
    assert re.search(r"\d foreground<br>\d background<br>ratio", app.outputs["heads"][1].value)
    assert "object" not in app.outputs["heads"][1].value
    assert "underlined: foreground" in app.outputs["explanation"].value
    assert "white line" not in app.outputs["explanation"].value
    assert [word.text for word in app.view.canvas.draw_input().words] == app.view.canvas.coordinates[
        "token"
    ].tolist()


@OF_WORDS
def test_words__stay_as_they_are_whatever_the_azimuth(app: Explorer) -> None:
    before = [one.value for one in app.outputs["map"]]
    app.selection.azimuth = 200
    assert [one.value for one in app.outputs["map"]] == before


# -- points in space


@OF_POINTS
def test_cloud__panels_are_what_the_functions_draw(app: Explorer) -> None:
    app.selection.azimuth, app.selection.opacity = 60, 1.0
    view, one = app.view, app.view.networks[1]
    canvas = CloudCanvas({axis: view.canvas.coordinates[axis] for axis in "xyz"}, view.canvas.foreground)
    side = {"looks": render.Looks(opacity=1.0, azimuth=60), "size": explorer._PANEL}
    expected = {
        "map": canvas.draw_values(one.entropy, render.Scale(one.limits), **side),
        "points": canvas.draw_points(one.points, **side),
        "detours": canvas.draw_detours(one.points, one.dropped, **side),
    }
    for kinds, picture in expected.items():
        assert np.array_equal(picture_of(app.outputs[kinds][1]), picture)
    shown = canvas.draw_input(side["looks"], explorer._INPUT)
    assert np.array_equal(picture_of(app.outputs["input"]), shown)


@OF_POINTS
def test_cloud__the_nearest_point_has_the_colour_of_its_entropy_and_turns_away(app: Explorer) -> None:
    app.selection.opacity = 1.0
    one, view = app.view.networks[1], app.view
    places = np.stack([view.canvas.coordinates[axis] for axis in "xyz"], axis=1)
    low, high = one.limits
    seen = []
    for azimuth in (0, 90, 180, 270):
        app.selection.azimuth = azimuth
        projected = render.project_cloud(places, azimuth=azimuth, size=explorer._PANEL)
        nearest = int(projected[:, 2].argmin())
        column, row = projected[nearest, :2].astype(int)
        colour = colormaps["viridis_r"](np.clip((one.entropy[nearest] - low) / (high - low), 0, 1))
        picture = picture_of(app.outputs["map"][1])
        around = picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3).astype(int)
        assert abs(around - np.rint(255 * np.array(colour[:3]))).max(axis=1).min() <= 1
        seen.append(nearest)
    assert len(set(seen)) == 4


@OF_POINTS
def test_cloud__turning_derives_nothing_and_draws_no_charts(
    app: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    misses = [cache.cache_info().misses for cache in (app._scene._derivation.points, app._scene._limits)]
    charts = []
    monkeypatch.setattr(app._draw_charts_later, "_call", lambda: charts.append(1))
    before = bytes(app.outputs["map"][0].value)
    slider = app.controls["azimuth"]
    slider.value = 100
    assert app.selection.azimuth == 100 and bytes(app.outputs["map"][0].value) != before
    play = app.controls["turn"]
    play.value = 115  # as the running Play sends it
    assert app.selection.azimuth == slider.value == 115 and play.repeat
    app.selection.azimuth = 30
    assert play.value == 30 and bytes(app.outputs["map"][0].value) == before
    assert charts == []
    after = [cache.cache_info().misses for cache in (app._scene._derivation.points, app._scene._limits)]
    assert after == misses
    app.selection.epoch = 2
    assert charts == [1]


@OF_POINTS
def test_cloud__gallery_shows_small_pictures(app: Explorer) -> None:
    gallery = app.gallery
    pictures = [picture_of(image) for image in gallery.pictures[:4]]
    assert all(picture.shape == (144, 144, 3) and (picture < 200).any() for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    assert [button.description for button in gallery.buttons[:4]] == ["box", "ring", "box", "ring"]


# -- runs that lack something


@pytest.mark.parametrize("kind", MAKERS)
def test_explore__without_masks_shows_values_alone(
    invented: dict[str, InventedRun], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDVIZ_STRICT", "1")
    source = invented[kind].run
    run = kdviz.store.create_run(
        tmp_path / "bare.zarr", samples=source.samples.drop_vars("foreground"), attrs=source.attrs
    )
    layer = invented[kind].layer
    ds = source.dataset("teacher", layer)
    names = ("gain", "gain_error", "feature_variance", "method")
    attrs = {
        name: ds.attrs[name] for name in ("network_role", "base_noise", "weight", "calibration", "solver")
    }
    run.create_group("teacher", layer, epochs=[9], attrs=attrs, block=ds.sizes["sample"], variables=names)
    run.write_block("teacher", layer, 0, 0, ds[[*names, "valid"]].drop_vars("foreground", errors="ignore"))
    app = kdviz.explore(run)
    assert len(app._panels.children) == 3 and not app.view.canvas.foreground.any()
    assert "no knowledge points" in app.outputs["notes"].value
    app.save(tmp_path / "view.png")
    assert "knowledge_point" not in pd.read_csv(app.save(tmp_path / "view.csv"))
    app.close()


def test_grid__with_a_unit_that_is_not_there_draws_the_others(tmp_path: Path) -> None:
    canvas = GridCanvas(
        {"unit": np.array([0, 1, 3]), "row": np.array([0, 0, 1]), "col": np.array([0, 1, 1])},
        np.array([True, False, False]),
        picture=np.full((8, 8, 3), 100, np.uint8),
        rows=2,
        cols=2,
    )
    spread = canvas._spread(np.array([1.0, 2.0, 3.0]), np.nan)
    np.testing.assert_array_equal(spread, [[1.0, 2.0], [np.nan, 3.0]])
