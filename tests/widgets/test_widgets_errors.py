"""What fails in the app is said, and never hidden by an older picture; and its charts."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from explored_runs import MODULES, NAMES, SAMPLES, UNITS, add_network, find, make_run, move, panels
from ipywidgets import Widget

import kdviz
from kdviz import analysis, render
from kdviz.analysis import Settings
from kdviz.errors import DegenerateWarning
from kdviz.store import Run
from kdviz.widgets import Explorer, explorer


@pytest.fixture
def charting(app: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Return the app with its charts on."""
    monkeypatch.setattr(app._draw_charts_later, "_call", app._draw_charts)
    return app


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
