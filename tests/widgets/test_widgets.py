"""The app without a browser: what a selection shows, and that every control moves it."""

import asyncio
import errno
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from ipywidgets import Widget
from ipywidgets.widgets.widget import _instances
from PIL import Image

import kdviz
from kdviz import analysis, render, schema
from kdviz.analysis import Settings
from kdviz.errors import DegenerateWarning, StoreError
from kdviz.store import Run, create_run
from kdviz.testing import random_images, small_cnn
from kdviz.widgets import Explorer, explorer
from kdviz.widgets.exports import KINDS, as_csv

SAMPLES, GRID, EPOCHS = 5, 4, (0, 2, 5)
UNITS = GRID * GRID
MODULES = {"fc1": "classifier.fc1", "fc2": "classifier.fc2"}
NAMES = [f"s{index}" for index in range(SAMPLES)]
START = ["teacher", "student-fc1-s0", "baseline-s0"]


def make_run(
    path: Path, *, masks: bool | str = True, pictures: bool = True, side: int = GRID, rows: int | None = None
) -> Run:
    rng = np.random.default_rng(0)
    rows = side if rows is None else rows
    foreground = np.zeros((SAMPLES, rows, side), bool)
    foreground[:, 1:3, 1:3] = True
    foreground |= masks == "everything"
    variables: dict[str, tuple] = {}
    if masks:
        variables["foreground"] = (("sample", "unit"), foreground.reshape(SAMPLES, -1))
    if pictures:
        pixels = rng.integers(0, 256, (SAMPLES, 8, 8, 3), np.uint8)
        variables["thumbnail"] = (("sample", "y_pixel", "x_pixel", "channel"), pixels)
    row, col = np.divmod(np.arange(rows * side), side)
    samples = xr.Dataset(
        variables,
        coords={
            "sample": NAMES,
            "label": ("sample", [0, 1, 0, 1, 1]),
            "unit": np.arange(rows * side),
            "row": ("unit", row),
            "col": ("unit", col),
        },
    )
    config = {"layer_names": MODULES, "classes": ["bird", "cat"], "threshold": 0.25}
    return create_run(path, samples=samples, attrs=schema.make_attrs(dataset_id="toy", config=config))


def add_network(
    run: Run,
    name: str,
    role: str,
    layer: str,
    *,
    epochs: tuple[int, ...] = EPOCHS,
    seed: int = 0,
    finished: int | None = None,
) -> None:
    """Write gains that change from epoch to epoch and, for each network, in their own way."""
    count = run.samples.sizes["unit"]
    about = {"distilled_layer": MODULES[layer]} if role == "student" else {}
    attrs = schema.make_attrs(
        network_role=role, training_seed=seed, seed=0, base_noise=0.01, weight=6.0, calibration=0.386,
        solver="descent", **about,
    )  # fmt: skip
    module = MODULES[layer]
    names = ("gain", "gain_error", "feature_variance", "method")
    run.create_group(name, module, epochs=epochs, attrs=attrs, block=SAMPLES, variables=names)
    rng = np.random.default_rng([len(role), seed, len(epochs), ord(layer[-1])])
    inside = run.samples.get("foreground", xr.zeros_like(run.samples["valid"])).values
    for index, epoch in enumerate(epochs[:finished]):
        gain = np.exp(0.5 * rng.standard_normal((1, SAMPLES, count)) + 0.2 * epoch * inside)
        block = xr.Dataset(
            {
                "gain": (("epoch", "sample", "unit"), gain.astype(np.float32)),
                "gain_error": (("epoch", "sample", "unit"), (0.03 * gain).astype(np.float32)),
                "feature_variance": (("epoch", "sample"), (1e-4 * gain.sum(-1)).astype(np.float32)),
                "method": (("epoch", "sample"), np.zeros((1, SAMPLES), np.int8)),
                "valid": (("sample", "unit"), np.ones((SAMPLES, count), bool)),
            },
            coords={"epoch": [epoch], "sample": NAMES, "unit": np.arange(count)},
        )
        run.write_block(name, module, index, 0, block)
    if role != "teacher":
        moved = xr.DataArray(np.sqrt(epochs).astype(np.float32), dims="epoch", coords={"epoch": [*epochs]})
        run.write_variable(name, module, moved.rename("weight_distance"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Teacher, and students and baselines of two seeds at fc1, of one at fc2; maps of two methods."""
    run = make_run(tmp_path_factory.mktemp("widgets") / "run.zarr")
    for layer in MODULES:
        add_network(run, "teacher", "teacher", layer, epochs=(9,))
        add_network(run, "baseline-s0", "baseline", layer)
    add_network(run, "student-fc1-s0", "student", "fc1")
    add_network(run, "student-fc2-s0", "student", "fc2", epochs=(0, 1, 5))
    add_network(run, "student-fc1-s3", "student", "fc1", seed=3)
    add_network(run, "baseline-s3", "baseline", "fc1", seed=3)
    maps = np.random.default_rng(1).standard_normal((2, 1, SAMPLES, UNITS)).astype(np.float32)
    dims = ("attribution_method", "epoch", "sample", "unit")
    coords = {
        "attribution_method": ["grad_cam", "occlusion"],
        "epoch": [5],
        "sample": NAMES,
        "unit": np.arange(UNITS),
    }
    run.write_result("attribution/student-fc1-s0", xr.Dataset({"attribution": (dims, maps)}, coords=coords))
    return run


@pytest.fixture(scope="module")
def opened(run: Run) -> Iterator[Explorer]:
    app = kdviz.explore(run)
    yield app
    app.close()


@pytest.fixture
def app(opened: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Return one app for all tests, as if new, its slow charts switched off."""
    monkeypatch.setattr(opened._draw_charts_later, "_call", lambda: None)
    chosen = opened.selection
    chosen.layer, chosen.networks, chosen.epoch, chosen.sample = "fc1", START, 5, "s0"
    opened.controls["class"].value, opened.controls["order"].value = "", "as stored"
    chosen.settings = Settings()
    for name in ("overlay", "opacity", "histogram"):
        setattr(chosen, name, chosen.traits()[name].default_value)
    opened._other_layer = False
    opened._status.clear()
    opened._draw()
    return opened


@pytest.fixture
def charting(app: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Return the app with its charts on."""
    monkeypatch.setattr(app._draw_charts_later, "_call", app._draw_charts)
    return app


def find(run: Run, network: str, layer: str, **settings: object) -> xr.Dataset:
    """Derive what the app must show, straight from the public functions."""
    threshold = settings.pop("threshold", 0.25)
    background = settings.pop("background", "checkpoint")
    factor = settings.pop("factor", 1)
    ds = analysis.coarsen_grid(run.dataset(network, MODULES[layer]), factor)
    derived = kdviz.derive_entropy(ds, **({"weight": 6.0} | settings))
    return kdviz.find_points(derived, threshold=threshold, background=background)


def panels(app: Explorer) -> list[bytes]:
    return [bytes(image.value) for kind in ("map", "points", "detours") for image in app.outputs[kind]]


def move(app: Explorer, **values: object) -> None:
    """Set traits of the selection, or fields of its settings."""
    for name, value in values.items():
        if app.selection.has_trait(name):
            setattr(app.selection, name, value)
        else:
            app.selection.settings = replace(app.selection.settings, **{name: value})


# -- what is shown


@pytest.mark.parametrize(
    ("traits", "settings"),
    [
        ({}, {}),
        ({"threshold": 0.1}, {"threshold": 0.1}),
        ({"background": "sample"}, {"background": "sample"}),
        ({"weight": 9.0}, {"weight": 9.0}),
        ({"calibration": 0.5}, {"calibration": 0.5}),
        ({"solver": "optimum"}, {"solver": "optimum"}),
        ({"feature_loss": 1.7}, {"feature_loss": 1.7}),
        ({"calibration": None}, {"calibration": None}),
        ({"coarsening": 2}, {"factor": 2}),
    ],
)
def test_explore__shows_what_the_public_functions_say(
    run: Run, app: Explorer, traits: dict[str, object], settings: dict[str, object]
) -> None:
    move(app, sample="s3", epoch=2, **traits)
    assert [one.role for one in app.view.networks] == ["teacher", "student", "baseline"]
    assert [one.epoch for one in app.view.networks] == [9, 2, 2]
    for one in app.view.networks:
        found = find(run, one.network, "fc1", **settings)
        counts = kdviz.count_points(found).sel(epoch=one.epoch, sample="s3")
        now = found.sel(epoch=one.epoch, sample="s3")
        assert np.array_equal(one.entropy, now["entropy"])
        assert np.array_equal(one.points, now["knowledge_point"])
        assert np.array_equal(one.uncertain, now["uncertain"])
        np.testing.assert_equal({name: counts[name].item() for name in one.counts}, one.counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        learning = kdviz.measure_learning(find(run, "student-fc1-s0", "fc1", **settings))
    dropped = learning["dropped"].sel(epoch=2, sample="s3")
    assert np.array_equal(app.view.networks[1].dropped, dropped)


def test_explore__draws_what_it_shows(app: Explorer) -> None:
    app.selection.sample = "s1"
    one, view = app.view.networks[2], app.view
    picture = np.asarray(Image.open(io.BytesIO(app.outputs["points"][2].value)))
    places = {"unit": np.arange(16), "row": np.arange(16) // 4, "col": np.arange(16) % 4}
    canvas = render.GridCanvas(places, view.canvas.foreground, view.canvas.draw_input(), rows=4, cols=4)
    expected = canvas.draw_points(one.points, size=explorer._PANEL)
    assert np.array_equal(picture, expected)
    heading = app.outputs["heads"][2].value
    assert "baseline-s0" in heading and "epoch 5" in heading
    assert f"{one.counts['n_fg']:.0f} object" in heading
    assert f"ratio {one.counts['fg_ratio']:.2f}" in heading


def test_explore__starts_where_it_was_asked_to(run: Run) -> None:
    app = kdviz.explore(run, layer="fc2", sample="s2", epoch=1, settings=Settings(threshold=0.4))
    assert repr(app) == "<kdviz.Explorer run.zarr: fc2, epoch 1, s2>"
    assert [one.epoch for one in app.view.networks] == [9, 1, 0]  # the baseline has no epoch 1
    assert [one.network for one in app.view.networks] == ["teacher", "student-fc2-s0", "baseline-s0"]
    assert app.selection.settings.threshold == 0.4
    assert app.selection.settings.weight == 6.0  # of the measurement
    app.close()


def test_explore__takes_a_path_a_study_folder_and_the_threshold_of_the_run(run: Run) -> None:
    for path in (run.path, run.path.parent, str(run.path)):
        app = kdviz.explore(path)
        assert app.selection.settings.threshold == 0.25
        app.close()


def test_explore__loads_no_torch_and_starts_no_computation(run: Run) -> None:
    code = (
        "import sys, kdviz\n"
        f"app = kdviz.explore({str(run.path)!r})\n"
        "app.selection.epoch = 2\napp.controls['coarsening'].value = 2\napp.selection.layer = 'fc2'\n"
        "heavy = {'torch', 'captum', 'kdviz.gain', 'kdviz.measuring'} & set(sys.modules)\n"
        "print(heavy, app.view.networks[1].epoch)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "set() 1"), result.stderr


# -- moving


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", 2),
        ("sample", "s4"),
        ("threshold", 0.6),
        ("weight", 12.0),
        ("calibration", 0.9),
        ("solver", "optimum"),
        ("background", "sample"),
        ("feature_loss", 1.5),
        ("coarsening", 2),
        ("networks", ["teacher", "student-fc1-s3", "baseline-s3"]),
        ("layer", "fc2"),
        ("overlay", "occlusion"),
        ("opacity", 0.1),
    ],
)
def test_selection__moves_the_panels_once_and_back_to_the_same_bytes(
    app: Explorer, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "background":  # few units lie between the two means
        move(app, threshold=0.0)
    before, old = panels(app), app.selection.as_parameters()[name]
    drawn = []
    draw = app._draw
    monkeypatch.setattr(app, "_draw", lambda: (drawn.append(name), draw()))
    move(app, **{name: value})
    assert len(drawn) == 1
    assert panels(app) != before
    assert app.outputs["status"].value == ""
    move(app, **{name: value})
    assert len(drawn) == 1  # nothing changed, nothing drawn
    move(app, **{name: old})
    if name == "layer":
        move(app, networks=START)
    assert panels(app) == before


def test_controls__move_the_selection_and_follow_it(app: Explorer) -> None:
    controls = app.controls
    controls["epoch"].value = 0
    assert app.selection.epoch == 0 and app.view.networks[1].epoch == 0
    controls["play"].value = 1  # as the running Play sends it
    assert app.selection.epoch == 2
    app.selection.epoch = 5
    assert controls["epoch"].value == 5 and controls["play"].value == 2
    controls["threshold"].value = 0.05
    controls["coarsening"].value = 2
    controls["overlay"].value = "grad_cam"
    settings = app.selection.settings
    assert (settings.threshold, settings.coarsening, app.selection.overlay) == (0.05, 2, "grad_cam")
    shown = {"entropy": ("flex", "none"), "loss": ("none", "flex"), "none": ("none", "none")}
    for kind, displays in shown.items():
        controls["calibrate_on"].value = kind
        levels = [controls[name] for name in ("calibration", "feature_loss")]
        assert tuple(one.layout.display for one in levels) == displays
    assert app.selection.settings.calibration is app.selection.settings.feature_loss is None


def test_layer__brings_its_own_networks_and_epochs(app: Explorer) -> None:
    app.selection.networks = ["student-fc1-s3", "baseline-s3"]
    app.selection.epoch = 2
    app.selection.layer = "fc2"  # measured neither
    assert app.selection.networks == ["teacher", "student-fc2-s0", "baseline-s0"]
    assert app.selection.epoch == 2 and app.controls["epoch"].options == (0, 1, 2, 5)
    assert set(app.controls["networks"].options) == {"teacher", "student-fc2-s0", "baseline-s0"}
    assert [one.epoch for one in app.view.networks] == [9, 1, 2]
    app.selection.epoch = 1
    app.selection.networks = ["baseline-s0", "teacher"]
    app.selection.layer = "fc1"
    assert app.selection.networks == ["baseline-s0", "teacher"]
    assert app.selection.epoch == 0  # the nearest before
    assert app.controls["play"].max == 2


def test_layer__warns_that_layers_do_not_compare_under_one_mean_entropy(app: Explorer) -> None:
    assert "several layers" not in app.outputs["notes"].value
    app.selection.layer = "fc2"
    assert "calibrate on the feature loss" in app.outputs["notes"].value
    move(app, feature_loss=1.5)
    assert "several layers" not in app.outputs["notes"].value


def test_notes__say_what_is_doubtful(app: Explorer) -> None:
    assert app.outputs["notes"].value == ""
    move(app, weight=8.0)
    assert "Extrapolated" in app.outputs["notes"].value
    move(app, weight=6.0)
    assert app.outputs["notes"].value == ""
    move(app, solver="optimum")
    assert "three times" in app.outputs["notes"].value
    move(app, solver="descent")
    move(app, calibration=60.0)  # beyond the clamp of any unit
    assert app.outputs["notes"].value.count("calibration was not met") == 3
    app.selection.epoch = 2  # nothing is derived anew, and still it is said
    assert app.outputs["notes"].value.count("calibration was not met") == 3


def test_overlay__shows_stored_maps_on_one_scale_and_nothing_where_there_are_none(
    run: Run, app: Explorer
) -> None:
    maps = run.result("attribution/student-fc1-s0")["attribution"].sel(attribution_method="grad_cam", epoch=5)
    app.selection.overlay = "grad_cam"
    teacher, student, _ = app.view.networks
    assert np.isnan(teacher.values).all()
    assert "teacher: no grad_cam of s0 is stored." in app.view.notes
    assert not any("student-fc1-s0: no grad_cam" in note for note in app.view.notes)
    assert np.array_equal(student.values, maps.sel(sample="s0"))
    end = np.quantile(abs(maps), 0.99)
    assert student.limits == (-end, end)
    move(app, coarsening=2)
    by_hand = maps.sel(sample="s0").values.reshape(2, 2, 2, 2).mean(axis=(1, 3)).ravel()
    assert np.allclose(app.view.networks[1].values, by_hand)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer", "fc", "layer is 'fc'; did you mean 'fc"),
        ("sample", "x9", "sample is 'x9'; allowed: s0, s1, s2, s3, s4"),
        ("epoch", 3, "epoch is 3; allowed: 0, 2, 5"),
        ("epoch", 50, "epoch is 50; "),
        ("networks", ["teacher", "student"], "networks is 'student'; did you mean"),
        ("networks", [], "choose 1 to 6 networks"),
        ("networks", ["teacher", "teacher"], "each once"),
        ("settings", Settings(coarsening=3), "coarsening is 3; allowed: 1, 2"),
        ("overlay", "gradcam", "did you mean 'grad_cam"),
    ],
)
def test_selection__refuses_what_the_run_does_not_have(
    run: Run, app: Explorer, name: str, value: object, message: str
) -> None:
    before = app.selection.as_parameters()
    with pytest.raises(ValueError, match=message):
        setattr(app.selection, name, value)
    assert app.selection.as_parameters() == before
    with pytest.raises(ValueError, match=message):
        kdviz.explore(run, **{name: value})


# -- samples


def test_gallery__filters_orders_and_selects(run: Run, app: Explorer) -> None:
    gallery = app.gallery
    assert gallery.listed == NAMES
    app.controls["class"].value = "cat"
    assert gallery.listed == ["s1", "s3", "s4"]
    gallery.buttons[2].click()
    assert app.selection.sample == "s4"
    assert gallery.buttons[2].button_style == "primary" and gallery.buttons[0].button_style == ""
    app.controls["class"].value = ""
    found = {role: find(run, name, "fc1") for role, name in (("s", "student-fc1-s0"), ("b", "baseline-s0"))}
    points = found["s"]["knowledge_point"].values
    changed = (points[0] ^ points[-1]).sum(-1)
    app.controls["order"].value = "most changed"
    assert [changed[NAMES.index(name)] for name in gallery.listed] == sorted(changed, reverse=True)
    last = {role: kdviz.count_points(ds)["n_fg"].values[-1] for role, ds in found.items()}
    apart = abs(last["s"] - last["b"])
    app.controls["order"].value = "apart"
    assert [apart[NAMES.index(name)] for name in gallery.listed] == sorted(apart, reverse=True)
    assert len(set(apart)) > 1 and len(set(changed)) > 1  # an order that could be wrong


def test_gallery__turns_pages(run: Run, app: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdviz.widgets.gallery.PAGE", 2)
    gallery = kdviz.explore(run).gallery
    assert gallery._where.value == "1 to 2 of 5" and gallery.by_name["earlier"].disabled
    gallery.by_name["later"].click()
    gallery.by_name["later"].click()
    assert gallery._where.value == "5 to 5 of 5" and gallery.by_name["later"].disabled
    assert gallery._cells[1].layout.display == "none"
    gallery.buttons[0].click()
    assert gallery._selection.sample == "s4"


# -- errors, charts


def test_callback__that_fails_is_shown_and_raised_only_when_strict(
    app: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no <b>ink</b>")

    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(render.GridCanvas, "draw_points", fail)
    app.selection.epoch = 0
    assert app.failed
    assert "RuntimeError: no &lt;b&gt;ink&lt;/b&gt;" in app.outputs["status"].value
    monkeypatch.setenv("KDVIZ_STRICT", "1")
    with pytest.raises(RuntimeError, match="ink"):
        app.selection.epoch = 2
    monkeypatch.undo()
    app.selection.epoch = 5
    assert app.outputs["status"].value == "" and not app.failed


def test_charts__that_fail_are_shown(charting: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(explorer, "view_charts", lambda *args, **options: 1 / 0)
    charting.selection.epoch = 0
    assert "ZeroDivisionError" in charting.outputs["status"].value

    assert charting.outputs["charts"].value == b"" and hidden(charting.outputs["charts"])


def hidden(widget: Widget) -> bool:
    return widget.layout.visibility == "hidden"


def test_charts__that_failed_stay_away_until_they_are_drawn_anew(
    charting: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    charting._draw_charts()
    charts, before = charting.outputs["charts"], bytes(charting.outputs["charts"].value)
    assert before and not hidden(charts)
    with monkeypatch.context() as patch:
        patch.setattr(explorer, "view_charts", lambda *args, **options: 1 / 0)
        charting.selection.epoch = 0
        charting.selection.opacity = 0.3  # changes no chart, and brought the old one back
        assert charting.failed and charts.value == b"" and hidden(charts)
    charting.selection.opacity = 0.4
    assert not charting.failed and charts.value not in (b"", before) and not hidden(charts)
    with monkeypatch.context() as patch:
        patch.setattr(render.GridCanvas, "draw_points", lambda *args, **options: 1 / 0)
        charting.selection.epoch = 5
        assert charting.failed and charts.value == b"" and hidden(charts)
    charting.selection.opacity = 0.5
    assert charts.value == before and not hidden(charts)


def test_gallery__a_page_that_fails_shows_no_earlier_pictures(
    app: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    canvas = app._scene.canvas
    monkeypatch.setattr(app._scene, "canvas", lambda name: canvas(name) if name != "s3" else 1 / 0)
    app.controls["class"].value = "cat"  # s1, s3, s4
    assert app.failed and app.gallery.listed == ["s1", "s3", "s4"]
    assert [cell.layout.display for cell in app.gallery._cells] == ["flex", *["none"] * 11]


def test_own_background__of_which_one_sample_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", masks=False)
    add_network(run, "student-fc1-s0", "student", "fc1")
    foreground = np.zeros((SAMPLES, UNITS), bool)
    foreground[:, 5:11], foreground[3] = True, True
    with pytest.warns(DegenerateWarning, match="1 of 5 samples have no background"):
        run = kdviz.store.add_masks(run, foreground)
    app = kdviz.explore(run, settings=Settings(background="sample"), sample="s1")
    note = "Without a background of their own, and so without points and in no mean: s3."
    assert not app.failed and note in app.outputs["notes"].value
    derived = kdviz.derive_entropy(run.dataset("student-fc1-s0", MODULES["fc1"]), weight=6.0)
    expected = kdviz.find_points(
        derived.sel(sample=["s0", "s1", "s2", "s4"]), threshold=0.25, background="sample"
    )
    (one,), at = app.view.networks, {"epoch": 5, "sample": "s1"}
    for shown, name in ((one.points, "knowledge_point"), (one.uncertain, "uncertain")):
        np.testing.assert_array_equal(shown, expected[name].sel(at))
    assert one.points.any() and one.counts["n_fg"] == kdviz.count_points(expected)["n_fg"].sel(at)
    trace = app._scene.trace(one, "s1", "entropy", app.selection.place)
    np.testing.assert_array_equal(trace.counts["n_fg"], kdviz.count_points(expected)["n_fg_mean"])
    app.selection.sample = "s3"
    (one,) = app.view.networks
    assert not app.failed and not one.points.any() and not one.counts and app.outputs["charts"].value
    np.testing.assert_array_equal(one.entropy, derived["entropy"].sel(epoch=5, sample="s3"))
    app.save(tmp_path / "view.svg")
    app.controls["order"].value = "most changed"
    assert not app.failed and {*app.gallery.listed} == {*NAMES}


def test_charts__wait_for_quiet_where_an_event_loop_runs(
    charting: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charting._draw_charts_later, "_delay", 0.05)
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    calls = []
    charts = charting._draw_charts
    record = lambda: (calls.append(charting.selection.epoch), charts())  # noqa: E731
    monkeypatch.setattr(charting._draw_charts_later, "_call", record)

    async def step() -> None:
        before = charting.outputs["charts"].value
        charting.selection.epoch = 0
        charting.selection.epoch = 2
        assert charting.outputs["charts"].value == before and not calls
        while not calls:
            await asyncio.sleep(0.01)
        assert calls == [2] and charting.outputs["charts"].value != before
        monkeypatch.setenv("KDVIZ_STRICT", "1")
        charting.selection.epoch = 5
        assert calls == [2, 5]  # at once: an error must reach the cell

    asyncio.run(step())
    charting.selection.epoch = 0  # no loop: at once
    assert calls == [2, 5, 0]


def test_charts__show_the_counts_of_this_sample_and_its_peak(run: Run, app: Explorer) -> None:
    app.selection.sample = "s2"
    student = app.view.networks[1]
    trace = app._scene.trace(student, "s2", "entropy", app.selection.place)
    found = find(run, "student-fc1-s0", "fc1")
    assert np.array_equal(trace.n_fg, kdviz.count_points(found)["n_fg"].sel(sample="s2"))
    assert trace.peak_epoch == kdviz.measure_learning(found)["peak_epoch"].sel(sample="s2")
    assert trace.cutoff == pytest.approx(found["background_entropy"].sel(epoch=5).item() - 0.25)
    assert trace.counts.equals(analysis.tabulate_counts(found))
    gain = app._scene.trace(student, "s2", "gain", app.selection.place)
    expected = np.log10(found["gain"].sel(epoch=5, sample="s2").values)
    assert np.allclose(gain.values, expected) and np.isnan(gain.cutoff)
    move(app, background="sample")
    own = find(run, "student-fc1-s0", "fc1", background="sample")["sample_background_entropy"]
    trace = app._scene.trace(app.view.networks[1], "s2", "entropy", app.selection.place)
    assert trace.cutoff == pytest.approx(own.sel(epoch=5, sample="s2").item() - 0.25)


# -- files


def test_save__units_as_table_and_dataset(app: Explorer, tmp_path: Path) -> None:
    app.selection.epoch = 2
    table = pd.read_csv(app.save(tmp_path / "new" / "view.csv"))
    assert len(table) == 3 * UNITS
    rows = table[table["network"] == "student-fc1-s0"]
    student = app.view.networks[1]
    assert np.allclose(rows["entropy"], student.entropy)
    assert rows["knowledge_point"].tolist() == student.points.tolist()
    assert rows["foreground"].tolist() == app.view.canvas.foreground.tolist()
    assert rows["epoch"].unique().tolist() == [2]
    said = {name: rows[name].unique().tolist() for name in ("sample", "layer", "threshold")}
    assert said == {"sample": [app.view.sample], "layer": ["fc1"], "threshold": [0.25]}
    with xr.open_dataset(app.save(tmp_path / "view.nc")) as ds:
        assert ds["network"].values.tolist() == ["teacher", "student-fc1-s0", "baseline-s0"]
        assert np.array_equal(ds["gain"].sel(network="baseline-s0"), app.view.networks[2].gain)
        assert json.loads(ds.attrs["settings"]) == app.selection.as_parameters()
        assert ds["entropy"].attrs["units"] == "nat"


def test_save__settings_lead_back_to_the_view(run: Run, app: Explorer, tmp_path: Path) -> None:
    chosen = ["student-fc2-s0", "teacher"]
    move(app, layer="fc2", networks=chosen, epoch=1, threshold=0.31, feature_loss=1.5)
    text = app.save(tmp_path / "view.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    fields = {name: settings.pop(name) for name in Settings.__dataclass_fields__}
    again = kdviz.explore(settings.pop("run_path"), settings=Settings(**fields), **settings)
    assert again.selection.as_parameters() == app.selection.as_parameters()
    assert panels(again) == panels(app)


def test_save__pictures(app: Explorer, tmp_path: Path) -> None:
    png = app.save(tmp_path / "view.png")
    assert Image.open(png).width == 2640  # 13.2 inches at 200 dots
    svg = app.save(tmp_path / "view.svg").read_text(encoding="utf-8")
    assert "<svg" in svg and "image/png;base64" in svg
    assert app.save(tmp_path / "view.pdf").read_bytes()[:4] == b"%PDF"


def test_save__refuses_other_endings_and_folders_that_are_files(app: Explorer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot save as 'view.jpg'; allowed endings: .png, .svg"):
        app.save(tmp_path / "view.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        app.save(tmp_path / "file" / "view.csv")


@pytest.mark.parametrize("ending", KINDS)
def test_save__a_full_disk_leaves_the_older_file(
    app: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"view{ending}"
    path.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        app.save(path)
    assert path.read_bytes() == b"older" and [*tmp_path.iterdir()] == [path]


def test_save__replaces_files_only(app: Explorer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "view.csv")
    with pytest.raises(StoreError, match="no regular file; name another"):
        app.save(tmp_path / "view.csv")
    assert (tmp_path / "view.csv").is_fifo() and app.save(tmp_path / "another.csv").is_file()


def test_save__a_table_holds_no_formula(run: Run, tmp_path: Path) -> None:
    app = kdviz.explore(run, layer="fc1")
    view = replace(app.view, sample="=1+1")
    table = pd.read_csv(io.StringIO(as_csv(app._scene, app.selection, view)))
    assert set(table["sample"]) == {"'=1+1"} and (table["entropy"] < 0).any()


def test_save__on_a_served_page_goes_to_one_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOILA_REQUEST_URL", "http://localhost:8866/")
    app = kdviz.explore(run, layer="fc1")
    assert app.controls["folder"].disabled
    app.controls["folder"].value = str(tmp_path / "elsewhere")  # a page may send what it likes
    app.controls["file_kind"].value = ".csv"
    app.controls["save"].click()
    assert [path.name for path in tmp_path.iterdir()] == ["kdviz-views"]


def test_save_button__writes_and_says_where(
    app: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app.controls["file_kind"].value = ".csv"
    app.controls["save"].click()
    assert (tmp_path / "kdviz-views" / "s0-fc1-epoch5.csv").is_file()
    assert app.outputs["status"].value == "saved kdviz-views/s0-fc1-epoch5.csv"


# -- other runs


def test_explore__without_masks_shows_entropies_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", masks=False)
    add_network(run, "mine", "baseline", "fc1")
    app = kdviz.explore(run)
    (one,) = app.view.networks
    expected = kdviz.derive_entropy(run.dataset("mine", MODULES["fc1"]), weight=6.0)["entropy"].values[-1, 0]
    assert np.array_equal(one.entropy, expected)
    assert len(app._panels.children) == 3  # heading, title and pictures of the map
    assert "no knowledge points" in app.outputs["notes"].value
    assert (
        "knowledge point" not in app.outputs["explanation"].value
        and "white line" not in app.outputs["explanation"].value
    )
    assert "knowledge_point" not in pd.read_csv(app.save(tmp_path / "view.csv"))
    app.selection.epoch = 0
    app.controls["order"].value = "most changed"
    assert app.gallery.listed == NAMES and app.outputs["status"].value == ""
    app.save(tmp_path / "view.png")


def test_explore__without_pictures_draws_on_grey(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", pictures=False)
    add_network(run, "teacher", "teacher", "fc1", epochs=(7,))
    app = kdviz.explore(run)
    assert (app.view.canvas.draw_input() == 128).all()
    assert app.selection.epochs == [7] and not app.view.networks[0].dropped.any()


def test_explore__refuses_runs_with_nothing_to_show(tmp_path: Path) -> None:
    run = make_run(tmp_path / "empty.zarr")
    with pytest.raises(StoreError, match="holds no measured network yet"):
        kdviz.explore(run)
    words = xr.Dataset(coords={"sample": ["a"], "unit": [0, 1]})
    attrs = schema.make_attrs(dataset_id="words")
    with pytest.raises(ValueError, match="of no kind that can be drawn"):
        kdviz.explore(create_run(tmp_path / "words.zarr", samples=words, attrs=attrs))
    with pytest.raises(StoreError, match="there is no run"):
        kdviz.explore(tmp_path / "nothing.zarr")


def test_close__leaves_no_model_behind(run: Run) -> None:
    before = set(_instances)
    app = kdviz.explore(run)
    app._lay_out_panels(1)  # as another layer may have fewer networks
    app._lay_out_panels(3)
    assert len(set(_instances) - before) > 50
    app.close()
    app.close()
    assert set(_instances) == before


# -- what a review found


def test_limits__hold_nearly_all_entropies_whatever_the_grid(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", side=7)
    add_network(run, "baseline-s0", "baseline", "fc1")
    app = kdviz.explore(run)
    values = kdviz.derive_entropy(run.dataset("baseline-s0", MODULES["fc1"]), weight=6.0)["entropy"]
    assert app.view.networks[0].limits == pytest.approx(tuple(np.quantile(values, (0.01, 0.99))))


def test_teacher__alone_follows_the_epoch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "teacher", "teacher", "fc1", epochs=(0, 5, 9))
    app = kdviz.explore(run, epoch=5)
    assert app.view.networks[0].epoch == 5
    app.selection.epoch = 0
    assert app.view.networks[0].epoch == 0


def test_network__that_begins_later_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "student-fc1-s0", "student", "fc1")
    add_network(run, "baseline-s0", "baseline", "fc1", epochs=(5, 9))
    app = kdviz.explore(run, epoch=2)
    assert [one.epoch for one in app.view.networks] == [2, 5]
    assert "baseline-s0: first measured at epoch 5." in app.outputs["notes"].value
    app.selection.epoch = 5
    assert "first measured" not in app.outputs["notes"].value


def test_save__refuses_while_nothing_is_shown(
    app: Explorer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(render.GridCanvas, "draw_points", lambda *args, **options: 1 / 0)
    app.selection.epoch = 0
    assert app.failed
    with pytest.raises(ValueError, match="nothing is shown: the last drawing failed"):
        app.save(tmp_path / "view.nc")
    monkeypatch.undo()
    app.selection.epoch = 2
    assert not app.failed and app.save(tmp_path / "view.nc").exists()


def test_explore__with_masks_that_cover_all_shows_entropies_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", masks="everything")
    add_network(run, "baseline-s0", "baseline", "fc1")
    app = kdviz.explore(run)
    assert not app.failed and len(app._panels.children) == 3
    assert "no knowledge points" in app.outputs["notes"].value


def test_layer__that_cannot_be_read_is_refused_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    run = make_run(tmp_path / "run.zarr")
    for layer in MODULES:
        add_network(run, "baseline-s0", "baseline", layer)
    for chunk in (run.path / "points" / "baseline-s0" / MODULES["fc2"] / "gain" / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
    app = kdviz.explore(run)
    layer = app.controls["layer"]
    layer.value = "fc2"
    assert (
        app.failed and "StoreError" in app.outputs["status"].value and "gain" in app.outputs["status"].value
    )
    assert app.selection.layer == layer.value == "fc1", "what is shown is what is selected"
    with pytest.raises(StoreError):
        app.selection.layer = "fc2"
    layer.value = "fc1"
    app.selection.epoch = 2
    assert not app.failed


def test_run__being_measured_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "student-fc1-s0", "student", "fc1")
    add_network(run, "baseline-s0", "baseline", "fc1", finished=0)
    add_network(run, "baseline-s0", "baseline", "fc2", finished=0)
    app = kdviz.explore(run)
    assert [one.role for one in app.view.networks] == ["student"]
    assert "baseline-s0/classifier.fc1 has no finished epoch yet" in app.outputs["notes"].value
    with pytest.raises(StoreError, match="no epoch of any network is finished yet"):
        app.selection.layer = "fc2"


def test_run__with_more_begun_networks_than_are_shown_starts_with_the_finished_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for seed in range(7):
        add_network(run, f"student-s{seed}", "student", "fc1", seed=seed, finished=1 if seed == 6 else 0)
    app = kdviz.explore(run)
    assert app.selection.networks == ["student-s6"] and app.selection.epochs == [0]


def test_grid__of_one_row_has_no_coarser_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", side=4, rows=1)
    add_network(run, "baseline-s0", "baseline", "fc1")
    assert list(kdviz.explore(run)._scene.grids) == ["1 x 4"]


def test_overlays__draw_a_map_of_hardly_anything_but_zeros(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", side=8)
    add_network(run, "baseline-s0", "baseline", "fc1")
    values = np.zeros((1, 1, SAMPLES, 64), "float32")
    values[0, 0, 0, 0] = 0.25  # beyond the quantile that ends the scale
    dims = ("attribution_method", "epoch", "sample", "unit")
    coordinates = {"attribution_method": ["grad_cam"], "epoch": [5], "sample": NAMES, "unit": np.arange(64)}
    maps = xr.Dataset({"attribution": (dims, values)}, coordinates)
    run.write_result("attribution/baseline-s0", maps)
    overlays = kdviz.explore(run)._scene.overlays
    drawn, limits = overlays.find("baseline-s0", "grad_cam", "s0", 1)
    assert limits == (-1.0, 1.0) and drawn.max() == 0.25


def test_overlays__pass_over_results_that_are_no_maps_of_this_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "baseline-s0", "baseline", "fc1")
    run.write_result(
        "attribution/scores", xr.Dataset({"area": ("sample", np.zeros(SAMPLES))}, {"sample": NAMES})
    )
    app = kdviz.explore(run)
    assert app._scene.overlays.names == ["entropy"]
    assert "Result &#x27;attribution/scores&#x27; is not shown" in app.outputs["notes"].value


def test_datasets__are_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    dataset = Run.dataset
    monkeypatch.setattr(
        Run, "dataset", lambda self, *key, **how: read.append(key) or dataset(self, *key, **how)
    )
    app = kdviz.explore(run, layer="fc2")
    move(app, coarsening=2)
    app.selection.epoch = 0
    assert sorted(read) == sorted(
        (name, MODULES["fc2"]) for name in ("teacher", "student-fc2-s0", "baseline-s0")
    )
    app.close()


def test_slider__widens_to_a_value_beyond_its_ends(app: Explorer) -> None:
    move(app, threshold=2.0)
    slider = app.controls["threshold"]
    assert slider.value == 2.0 and slider.max == 2.0


def test_gallery__order_follows_the_settings(app: Explorer) -> None:
    app.controls["order"].value = "most changed"
    for threshold in (0.05, 0.9):
        move(app, threshold=threshold)
        expected = app._scene.choose("most changed", "", app.selection.place)
        assert app.gallery.listed == expected


def test_walk__through_every_control_with_charts_on(run: Run) -> None:
    app = kdviz.explore(run)
    layer = {"fc1": "fc2", "fc2": "fc1"}
    for name in ("threshold", "background", "solver", "weight", "coarsening", "overlay", "opacity", "epoch"):
        control, charts = app.controls[name], bytes(app.outputs["charts"].value)
        before = control.value
        values = [value for _, value in getattr(control, "_options_full", ())]
        for value in [*(values or [control.min, control.max]), before]:
            control.value = value
            assert not app.failed, f"{name} {value}: {app.outputs['status'].value}"
            assert app.selection.as_parameters()[name] == value
        assert bytes(app.outputs["charts"].value) == charts, f"{name} goes back"
    app.controls["layer"].value = layer[app.selection.layer]
    assert not app.failed
    app.close()


def test_selection__refuses_a_misspelt_trait(app: Explorer) -> None:
    with pytest.raises(AttributeError, match="a selection has no 'overlai'; did you mean 'overlay'"):
        app.selection.overlai = "gain"


def test_figure__states_scale_settings_and_doubts(app: Explorer) -> None:
    move(app, weight=9.0)
    text = " ".join(one.get_text() for one in app.figure().findobj(lambda one: hasattr(one, "get_text")))
    low, high = app.view.networks[0].limits
    assert f"entropy from {low:.2f} (yellow, kept) to {high:.2f} nat (dark blue, discarded)" in text
    assert "overlay entropy" in text and "weight 9.0" in text and "calibration 0.386" in text
    assert "Extrapolated" in text and app.view.canvas.legend in text
    app.selection.overlay = "occlusion"
    text = " ".join(one.get_text() for one in app.figure().findobj(lambda one: hasattr(one, "get_text")))
    assert "occlusion: blue negative, red positive" in text


# -- networks by name

LONG = "student-by-KL_with-a-name-that-is-much-too-long-for-a-column"


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six measured networks, among them two students of one seed by different methods."""
    path = tmp_path_factory.mktemp("six") / "run.zarr"
    about = {
        "teacher": ("teacher", {}),
        "student-by-features": ("student", {"distillation_method": "features"}),
        LONG: ("student", {"distillation_method": "kl"}),
        "alone": ("baseline", {}),
        "pruned": ("pruned", {}),
        "quantised": ("quantised", {}),
    }
    foreground = np.zeros((2, 8, 8), bool)
    foreground[:, 2:6, 2:6] = True
    for place, (name, (role, details)) in enumerate(about.items()):
        epochs = (3,) if role == "teacher" else (0, 3)
        kdviz.measure_checkpoints(
            small_cnn,
            {epoch: small_cnn(seed=10 * place + epoch).state_dict() for epoch in epochs},
            random_images(2),
            network=name,
            role=role,
            layers="fc1",
            units=kdviz.units.grid(4),
            foreground=foreground,
            details={"training_seed": 0} | details,
            store=path,
            progress=False,
        )
    return kdviz.open_run(path)


def test_networks__are_chosen_by_name_two_of_one_seed_and_six_at_once(six: Run, tmp_path: Path) -> None:
    app = kdviz.explore(six)
    assert app.selection.networks == [
        "teacher",
        LONG,
        "alone",
    ]
    colours = dict(app.view.styles)
    assert len({style.colour for style in colours.values()}) == 6
    app.controls["networks"].value = tuple(app.controls["networks"].options)
    assert not app.failed and len(app.view.networks) == 6 and app.view.styles == colours
    heads = [one.value for one in app.outputs["heads"]]
    for one, head in zip(app.view.networks, heads, strict=True):
        assert one.network in head and colours[one.network].colour in head
        ds = six.dataset(one.network, "fc1")
        found = analysis.apply_settings(ds, app.selection.settings)
        sample = app.selection.sample
        assert np.array_equal(one.points, found["knowledge_point"].sel(epoch=one.epoch, sample=sample))
    table = pd.read_csv(app.save(tmp_path / "six.csv"))
    assert list(dict.fromkeys(table["network"])) == app.selection.networks
    for ending in ("png", "svg", "pdf", "nc"):
        assert app.save(tmp_path / f"six.{ending}").stat().st_size > 0
    app.close()


def test_networks__apart_compares_the_first_two_learners(six: Run) -> None:
    names = ["student-by-features", "teacher", LONG, "alone"]
    app = kdviz.explore(six, networks=names)
    app.controls["order"].value = "apart"
    first, second = (
        kdviz.count_points(analysis.apply_settings(six.dataset(name, "fc1"), app.selection.settings))
        for name in (names[0], names[2])
    )
    apart = abs(first["n_fg"].values[-1] - second["n_fg"].values[-1])
    order = [app._scene.samples.index(name) for name in app.gallery.listed]
    assert apart[order].tolist() == sorted(apart, reverse=True)
    app.close()


def test_panels__that_failed_show_nothing_of_the_last_view(
    app: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    parts = (app._panels, app._beside, app.outputs["charts"], app.outputs["notes"])
    before = panels(app)
    monkeypatch.setattr(render.GridCanvas, "draw_points", lambda *args, **options: 1 / 0)
    app.selection.epoch = 0
    assert app.failed and all(part.layout.visibility == "hidden" for part in parts)
    monkeypatch.undo()
    app.selection.epoch = 5
    assert panels(app) == before and all(part.layout.visibility == "visible" for part in parts)
