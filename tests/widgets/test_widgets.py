"""The app without a browser: what a selection shows, and that every control moves it."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from explored_runs import MODULES, NAMES, START, find, move, panels
from PIL import Image

import kdviz
from kdviz import render
from kdviz.analysis import Settings
from kdviz.errors import DegenerateWarning
from kdviz.store import Run
from kdviz.widgets import Explorer, explorer

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


def test_pictures__say_in_words_what_they_show(app: Explorer) -> None:
    app.selection.sample = "s1"
    one, out = app.view.networks[1], app.outputs
    start = "student-fc1-s0, epoch 5, "
    assert out["map"][1].tooltip == f"{start}kept (bright) or discarded (dark)"
    points = out["points"][1].tooltip
    assert points.startswith(f"{start}knowledge points, {one.counts['n_fg']:.0f} object")
    assert points.endswith(f"ratio {one.counts['fg_ratio']:.2f}")
    assert out["detours"][1].tooltip.endswith(f"so far, {one.dropped.sum()} dropped")
    assert out["input"].tooltip == "input: s1 cat"
    assert [picture.tooltip for picture in app.gallery.pictures[:2]] == ["input: s0", "input: s1"]
    app._draw_charts()
    assert "3 charts over epoch: points on the object (teacher 3.4" in out["charts"].tooltip
    assert out["charts"].tooltip.endswith("Lines: teacher, student-fc1-s0, baseline-s0.")


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
    assert "teacher: no grad_cam map of s0 is stored." in app.view.notes
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
