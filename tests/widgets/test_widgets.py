"""The app without a browser: what a selection shows, and that every control moves it."""

import asyncio
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from ipywidgets.widgets.widget import _instances
from PIL import Image
from traitlets import TraitError

import kdviz
from kdviz import analysis, render, schema
from kdviz.errors import DegenerateWarning, StoreError
from kdviz.store import Run, create_run
from kdviz.widgets import Explorer, explorer

SAMPLES, GRID, EPOCHS = 5, 4, (0, 2, 5)
UNITS = GRID * GRID
MODULES = {"fc1": "classifier.fc1", "fc2": "classifier.fc2"}
NAMES = [f"s{index}" for index in range(SAMPLES)]


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
    """Give one app for all tests, as if new, its slow charts switched off."""
    monkeypatch.setattr(opened._draw_charts_later, "_call", lambda: None)
    chosen = opened.selection
    chosen.layer, chosen.seed, chosen.epoch, chosen.sample = "fc1", 0, 5, "s0"
    opened._gallery._label.value, opened._gallery._order.value = "", "as stored"
    for name, value in {"threshold": 0.25, "weight": 6.0}.items():
        setattr(chosen, name, value)
    for name in set(chosen.trait_names()) - {"layer", "seed", "epoch", "sample", "threshold", "weight"}:
        setattr(chosen, name, chosen.traits()[name].default_value)
    opened._other_layer = False
    opened._status.clear()
    opened._draw()
    return opened


@pytest.fixture
def charting(app: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Give the app with its charts on."""
    monkeypatch.setattr(app._draw_charts_later, "_call", app._redraw_charts)
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
    return [bytes(image.value) for images in app._images.values() for image in images]


# -- what is shown


@pytest.mark.parametrize(
    ("traits", "settings"),
    [
        ({}, {}),
        ({"threshold": 0.1}, {"threshold": 0.1}),
        ({"background": "sample"}, {"background": "sample"}),
        ({"weight": 9.0}, {"weight": 9.0}),
        ({"target": 0.5}, {"calibration": 0.5}),
        ({"solver": "optimum"}, {"solver": "optimum"}),
        ({"calibration": "loss", "feature_loss": 1.7}, {"feature_loss": 1.7}),
        ({"calibration": "none"}, {"calibration": None}),
        ({"coarsening": 2}, {"factor": 2}),
    ],
)
def test_explore__shows_what_the_public_functions_say(
    run: Run, app: Explorer, traits: dict[str, object], settings: dict[str, object]
) -> None:
    for name, value in {"sample": "s3", "epoch": 2, **traits}.items():
        setattr(app.selection, name, value)
    assert [one.role for one in app.view.networks] == ["teacher", "student", "baseline"]
    assert [one.epoch for one in app.view.networks] == [9, 2, 2]
    for one in app.view.networks:
        found = find(run, one.network, "fc1", **settings)
        counts = kdviz.count_points(found).sel(epoch=one.epoch, sample="s3")
        now = found.sel(epoch=one.epoch, sample="s3")
        assert np.array_equal(one.entropy, now["entropy"])
        assert np.array_equal(one.points, now["knowledge_point"])
        assert np.array_equal(one.uncertain, now["uncertain"])
        assert {name: counts[name].item() for name in one.counts} == one.counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        learning = kdviz.measure_learning(find(run, "student-fc1-s0", "fc1", **settings))
    dropped = learning["dropped"].sel(epoch=2, sample="s3")
    assert np.array_equal(app.view.networks[1].dropped, dropped)


def test_explore__draws_what_it_shows(app: Explorer) -> None:
    app.selection.sample = "s1"
    one, view = app.view.networks[2], app.view
    picture = np.asarray(Image.open(io.BytesIO(app._images["points"][2].value)))
    places = {"unit": np.arange(16), "row": np.arange(16) // 4, "col": np.arange(16) % 4}
    canvas = render.GridCanvas(places, view.foreground, view.picture, rows=4, cols=4)
    expected = canvas.draw_points(one.points, size=explorer._PANEL)
    assert np.array_equal(picture, expected)
    heading = app._heads[2].value
    assert "baseline-s0" in heading and "epoch 5" in heading
    assert f"{one.counts['n_fg']:.0f} object" in heading
    assert f"ratio {one.counts['fg_ratio']:.2f}" in heading


def test_explore__starts_where_it_was_asked_to(run: Run) -> None:
    app = kdviz.explore(run, layer="fc2", sample="s2", epoch=1, threshold=0.4)
    assert repr(app) == "<kdviz.Explorer run.zarr: fc2, epoch 1, s2>"
    assert [one.epoch for one in app.view.networks] == [9, 1, 0]  # the baseline has no epoch 1
    assert [one.network for one in app.view.networks] == ["teacher", "student-fc2-s0", "baseline-s0"]
    assert app.selection.threshold == 0.4
    assert app.selection.weight == 6.0  # of the measurement
    app.close()


def test_explore__takes_a_path_a_study_folder_and_the_threshold_of_the_run(run: Run) -> None:
    for path in (run.path, run.path.parent, str(run.path)):
        app = kdviz.explore(path)
        assert app.selection.threshold == 0.25
        app.close()


def test_explore__loads_no_torch_and_starts_no_computation(run: Run) -> None:
    code = (
        "import sys, kdviz\n"
        f"app = kdviz.explore({str(run.path)!r})\n"
        "app.selection.epoch = 2\napp.selection.coarsening = 2\napp.selection.layer = 'fc2'\n"
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
        ("target", 0.9),
        ("solver", "optimum"),
        ("background", "sample"),
        ("calibration", "loss"),
        ("coarsening", 2),
        ("seed", 3),
        ("layer", "fc2"),
        ("overlay", "occlusion"),
        ("opacity", 0.1),
    ],
)
def test_selection__moves_the_panels_once_and_back_to_the_same_bytes(
    app: Explorer, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "background":  # few units lie between the two means
        app.selection.threshold = 0.0
    before, old = panels(app), getattr(app.selection, name)
    drawn = []
    draw = app._draw
    monkeypatch.setattr(app, "_draw", lambda: (drawn.append(name), draw()))
    setattr(app.selection, name, value)
    assert len(drawn) == 1
    assert panels(app) != before
    assert app._status.value == ""
    setattr(app.selection, name, value)
    assert len(drawn) == 1  # nothing changed, nothing drawn
    setattr(app.selection, name, old)
    assert panels(app) == before


def test_controls__move_the_selection_and_follow_it(app: Explorer) -> None:
    controls = app._controls
    controls._epoch.value = 0
    assert app.selection.epoch == 0 and app.view.networks[1].epoch == 0
    controls._play.value = 1  # as the running Play sends it
    assert app.selection.epoch == 2
    app.selection.epoch = 5
    assert controls._epoch.value == 5 and controls._play.value == 2
    boxes = {getattr(one, "description", ""): one for one in controls.settings.children}
    boxes["threshold b"].value = 0.05
    boxes["grid"].value = 2
    boxes["overlay"].value = "grad_cam"
    chosen = app.selection
    assert (chosen.threshold, chosen.coarsening, chosen.overlay) == (0.05, 2, "grad_cam")
    assert boxes["target (nat)"].layout.display == "flex"
    assert boxes["feature loss"].layout.display == "none"
    boxes["calibrate on"].value = "loss"
    assert boxes["target (nat)"].layout.display == "none"
    assert boxes["feature loss"].layout.display == "flex"


def test_layer__brings_its_own_seeds_and_epochs(app: Explorer) -> None:
    app.selection.seed = 3
    app.selection.epoch = 2
    app.selection.layer = "fc2"  # has no seed 3; students of 0, 1 and 5 and a baseline of 0, 2 and 5 epochs
    assert (app.selection.seed, app.selection.epoch) == (0, 2)
    assert app._controls._epoch.options == (0, 1, 2, 5) and app._controls._seed.options == (0,)
    assert [one.epoch for one in app.view.networks] == [9, 1, 2]
    app.selection.epoch = 1
    app.selection.layer = "fc1"
    assert app.selection.epoch == 0  # the nearest before
    assert app._controls._play.max == 2


def test_layer__warns_that_layers_do_not_compare_under_one_mean_entropy(app: Explorer) -> None:
    assert "several layers" not in app._notes.value
    app.selection.layer = "fc2"
    assert "calibrate on the feature loss" in app._notes.value
    app.selection.calibration = "loss"
    assert "several layers" not in app._notes.value


def test_notes__say_what_is_doubtful(app: Explorer) -> None:
    assert app._notes.value == ""
    app.selection.weight = 8.0
    assert "Extrapolated" in app._notes.value
    app.selection.weight = 6.0
    assert app._notes.value == ""
    app.selection.solver = "optimum"
    assert "three times" in app._notes.value
    app.selection.solver = "descent"
    app.selection.target = 60.0  # beyond the clamp of any unit
    assert app._notes.value.count("calibration was not met") == 3
    app.selection.epoch = 2  # nothing is derived anew, and still it is said
    assert app._notes.value.count("calibration was not met") == 3


def test_overlay__shows_stored_maps_on_one_scale_and_nothing_where_there_are_none(
    run: Run, app: Explorer
) -> None:
    maps = run.result("attribution/student-fc1-s0")["attribution"].sel(attribution_method="grad_cam", epoch=5)
    app.selection.overlay = "grad_cam"
    teacher, student, _ = app.view.networks
    assert np.isnan(teacher.values).all()
    assert np.array_equal(student.values, maps.sel(sample="s0"))
    end = np.quantile(abs(maps), 0.99)
    assert student.limits == (-end, end)
    app.selection.coarsening = 2
    by_hand = maps.sel(sample="s0").values.reshape(2, 2, 2, 2).mean(axis=(1, 3)).ravel()
    assert np.allclose(app.view.networks[1].values, by_hand)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer", "fc", "layer is 'fc'; did you mean fc"),
        ("sample", "x9", "sample is 'x9'; this run has s0, s1, s2, s3, s4"),
        ("epoch", 3, "epoch is 3; this run has 0, 2, 5"),
        ("epoch", 50, "epoch is 50; this run has 0, 2, 5"),
        ("seed", 1, "seed is 1; this run has 0, 3"),
        ("coarsening", 3, "coarsening is 3; this run has 1, 2"),
        ("overlay", "gradcam", "did you mean grad_cam"),
        ("threshold", -0.1, "threshold"),
        ("solver", "newton", "solver"),
    ],
)
def test_selection__refuses_what_the_run_does_not_have(
    run: Run, app: Explorer, name: str, value: object, message: str
) -> None:
    before = app.selection.as_parameters()
    with pytest.raises(TraitError, match=message):
        setattr(app.selection, name, value)
    assert app.selection.as_parameters() == before
    with pytest.raises(ValueError, match=message):
        kdviz.explore(run, **{name: value})


# -- samples


def test_gallery__filters_orders_and_selects(run: Run, app: Explorer) -> None:
    gallery = app._gallery
    assert gallery._shown == NAMES
    gallery._label.value = "cat"
    assert gallery._shown == ["s1", "s3", "s4"]
    gallery._buttons[2].click()
    assert app.selection.sample == "s4"
    assert gallery._buttons[2].button_style == "primary" and gallery._buttons[0].button_style == ""
    gallery._label.value = ""
    found = {role: find(run, name, "fc1") for role, name in (("s", "student-fc1-s0"), ("b", "baseline-s0"))}
    points = found["s"]["knowledge_point"].values
    changed = (points[0] ^ points[-1]).sum(-1)
    gallery._order.value = "most changed"
    assert [changed[NAMES.index(name)] for name in gallery._shown] == sorted(changed, reverse=True)
    last = {role: kdviz.count_points(ds)["n_fg"].values[-1] for role, ds in found.items()}
    apart = abs(last["s"] - last["b"])
    gallery._order.value = "student apart from baseline"
    assert [apart[NAMES.index(name)] for name in gallery._shown] == sorted(apart, reverse=True)
    assert len(set(apart)) > 1 and len(set(changed)) > 1  # an order that could be wrong


def test_gallery__turns_pages(run: Run, app: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdviz.widgets.gallery._PAGE", 2)
    gallery = kdviz.explore(run)._gallery
    assert gallery._where.value == "1 to 2 of 5" and gallery._earlier.disabled
    gallery._later.click()
    gallery._later.click()
    assert gallery._where.value == "5 to 5 of 5" and gallery._later.disabled
    assert gallery._cells[1].layout.display == "none"
    gallery._buttons[0].click()
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
    assert app._status.failed
    assert "RuntimeError: no &lt;b&gt;ink&lt;/b&gt;" in app._status.value
    monkeypatch.setenv("KDVIZ_STRICT", "1")
    with pytest.raises(RuntimeError, match="ink"):
        app.selection.epoch = 2
    monkeypatch.undo()
    app.selection.epoch = 5
    assert app._status.value == "" and not app._status.failed


def test_charts__that_fail_are_shown(charting: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr(render, "view_charts", lambda *args, **options: 1 / 0)
    charting.selection.epoch = 0
    assert "ZeroDivisionError" in charting._status.value


def test_charts__wait_for_quiet_where_an_event_loop_runs(
    charting: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charting._draw_charts_later, "_delay", 0.05)
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    calls = []
    charts = charting._draw_charts
    monkeypatch.setattr(charting, "_draw_charts", lambda: (calls.append(charting.selection.epoch), charts()))

    async def move() -> None:
        before = charting._charts.value
        charting.selection.epoch = 0
        charting.selection.epoch = 2
        assert charting._charts.value == before and not calls
        await asyncio.sleep(0.3)
        assert calls == [2] and charting._charts.value != before
        monkeypatch.setenv("KDVIZ_STRICT", "1")
        charting.selection.epoch = 5
        assert calls == [2, 5]  # at once: an error must reach the cell

    asyncio.run(move())
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
    app.selection.background = "sample"
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
    assert rows["foreground"].tolist() == app.view.foreground.tolist()
    assert rows["epoch"].unique().tolist() == [2]
    with xr.open_dataset(app.save(tmp_path / "view.nc")) as ds:
        assert ds["network"].values.tolist() == ["teacher", "student-fc1-s0", "baseline-s0"]
        assert np.array_equal(ds["gain"].sel(network="baseline-s0"), app.view.networks[2].gain)
        assert json.loads(ds.attrs["settings"]) == app.selection.as_parameters()


def test_save__settings_lead_back_to_the_view(run: Run, app: Explorer, tmp_path: Path) -> None:
    for name, value in {"layer": "fc2", "epoch": 1, "threshold": 0.31, "calibration": "loss"}.items():
        setattr(app.selection, name, value)
    text = app.save(tmp_path / "view.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    again = kdviz.explore(settings.pop("run_path"), **settings)
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


def test_save_button__writes_and_says_where(
    app: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app._controls._kind.value = ".csv"
    app._controls.save.click()
    assert (tmp_path / "kdviz-views" / "s0-fc1-s0-epoch5.csv").is_file()
    assert app._status.value == "saved kdviz-views/s0-fc1-s0-epoch5.csv"


# -- other runs


def test_explore__without_masks_shows_entropies_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", masks=False)
    add_network(run, "mine", "baseline", "fc1")
    app = kdviz.explore(run)
    (one,) = app.view.networks
    expected = kdviz.derive_entropy(run.dataset("mine", MODULES["fc1"]), weight=6.0)["entropy"].values[-1, 0]
    assert np.array_equal(one.entropy, expected)
    assert len(app._panels.children) == 3  # heading, title and pictures of the map
    assert "no knowledge points" in app._notes.value
    assert "knowledge point" not in app._explanation.value and "white line" not in app._explanation.value
    assert "knowledge_point" not in pd.read_csv(app.save(tmp_path / "view.csv"))
    app.selection.epoch = 0
    app._gallery._order.value = "most changed"
    assert app._gallery._shown == NAMES and app._status.value == ""
    app.save(tmp_path / "view.png")


def test_explore__without_pictures_draws_on_grey(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", pictures=False)
    add_network(run, "teacher", "teacher", "fc1", epochs=(7,))
    app = kdviz.explore(run)
    assert (app.view.picture == 128).all()
    assert app.selection.epochs == [7] and not app.view.networks[0].dropped.any()


def test_explore__refuses_runs_with_nothing_to_show(tmp_path: Path) -> None:
    run = make_run(tmp_path / "empty.zarr")
    with pytest.raises(StoreError, match="holds no measured network yet"):
        kdviz.explore(run)
    words = xr.Dataset(coords={"sample": ["a"], "unit": [0, 1]})
    attrs = schema.make_attrs(dataset_id="words")
    with pytest.raises(ValueError, match="no image grid"):
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
    assert "baseline: first measured at epoch 5." in app._notes.value
    app.selection.epoch = 5
    assert "first measured" not in app._notes.value


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
    assert "no knowledge points" in app._notes.value


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
    layer = next(one for one in app._controls.settings.children if getattr(one, "description", "") == "layer")
    layer.value = "fc2"
    assert app.failed and "StoreError" in app._status.value and "gain" in app._status.value
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
    assert "baseline-s0/classifier.fc1 has no finished epoch yet" in app._notes.value
    with pytest.raises(StoreError, match="no epoch of any network is finished yet"):
        app.selection.layer = "fc2"


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
    scene = kdviz.explore(run)._scene
    scene.__dict__["_maps"] = {"baseline-s0": xr.DataArray(values, coordinates, dims)}
    drawn, limits = scene._attribution("baseline-s0", "grad_cam", 0, 1)
    assert limits == (-1.0, 1.0) and drawn.max() == 0.25


def test_overlays__pass_over_results_that_are_no_maps_of_this_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "baseline-s0", "baseline", "fc1")
    run.write_result(
        "attribution/scores", xr.Dataset({"auc": ("sample", np.zeros(SAMPLES))}, {"sample": NAMES})
    )
    app = kdviz.explore(run)
    assert app._scene.overlays == ["entropy"]
    assert "attribution/scores" in app._notes.value and "attribution/&lt;network&gt;" in app._notes.value


def test_datasets__are_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    dataset = Run.dataset
    monkeypatch.setattr(
        Run, "dataset", lambda self, *key, **how: read.append(key) or dataset(self, *key, **how)
    )
    app = kdviz.explore(run, layer="fc2")
    app.selection.coarsening = 2
    app.selection.epoch = 0
    assert sorted(read) == sorted(
        (name, MODULES["fc2"]) for name in ("teacher", "student-fc2-s0", "baseline-s0")
    )
    app.close()


def test_slider__widens_to_a_value_beyond_its_ends(app: Explorer) -> None:
    app.selection.threshold = 2.0
    slider = app._controls._bound["threshold"]
    assert slider.value == 2.0 and slider.max == 2.0


def test_gallery__order_follows_the_settings(app: Explorer) -> None:
    app._gallery._order.value = "most changed"
    for threshold in (0.05, 0.9):
        app.selection.threshold = threshold
        expected = app._scene.choose("most changed", "", app.selection.place)
        assert app._gallery._shown == expected


def test_walk__through_every_control_with_charts_on(run: Run) -> None:
    app = kdviz.explore(run)
    for name, control in app._controls._bound.items():
        before, charts = control.value, app._charts.value
        values = (
            [value for _, value in control._options_full]
            if hasattr(control, "_options_full")
            else [control.min, control.max]
        )
        for value in [*values, before]:
            control.value = value
            assert not app.failed, f"{name} {value}: {app._status.value}"
            assert getattr(app.selection, name) == value
        assert bytes(app._charts.value) == bytes(charts), f"{name} goes back"
    app.close()


def test_selection__refuses_a_misspelt_trait(app: Explorer) -> None:
    with pytest.raises(AttributeError, match="a selection has no 'treshold'; did you mean 'threshold'"):
        app.selection.treshold = 0.3


def test_figure__states_scale_settings_and_doubts(app: Explorer) -> None:
    app.selection.weight = 9.0
    text = " ".join(one.get_text() for one in app.figure().findobj(lambda one: hasattr(one, "get_text")))
    low, high = app.view.networks[0].limits
    assert f"entropy from {low:.2f} (yellow, kept) to {high:.2f} nat (dark blue, discarded)" in text
    assert "overlay entropy" in text and "weight 9.0" in text and "target 0.386" in text
    assert "Extrapolated" in text and render.LEGEND in text
    app.selection.overlay = "occlusion"
    text = " ".join(one.get_text() for one in app.figure().findobj(lambda one: hasattr(one, "get_text")))
    assert "occlusion: blue negative, red positive" in text
