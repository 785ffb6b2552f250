"""The app on runs of every state: without masks, half-measured, damaged, with many networks."""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

import explored_runs
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from explored_runs import MODULES, NAMES, SAMPLES, add_network, find, make_run, panels
from ipywidgets.widgets.widget import _instances

import kdviz
from kdviz import analysis, schema
from kdviz.errors import StoreError
from kdviz.render import Looks, describe_figure, show_verdict
from kdviz.render.style import ROLE_STYLES
from kdviz.sources import find_data
from kdviz.store import Run, create_run
from kdviz.testing import random_images, small_cnn
from kdviz.widgets import explorer
from kdviz.widgets.chapters import CHAPTERS

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


def test_samples__named_by_hashes_are_called_by_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [f"3f2a9c01b7d{at}" for at in range(SAMPLES)]
    monkeypatch.setattr(explored_runs, "NAMES", hashes)
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "teacher", "teacher", "fc1", epochs=(7,))
    app = kdviz.explore(run)
    assert dict(app.controls["sample"].options) == {f"image {at}": name for at, name in enumerate(hashes)}
    app.controls["sample"].value = hashes[3]
    assert app.selection.sample == hashes[3]
    assert "<b>image 3</b>" in app.outputs["explanation"].value
    assert app.figure().subfigs[0].get_suptitle() == "image 3 cat"


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
    for chapter in ("answers", "learning", "transfer", "answers"):
        app.controls["chapter"].value = chapter
    assert len(set(_instances) - before) > 50
    app.close()
    app.close()
    assert set(_instances) == before


# -- unusual runs


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


def test_refresh__shows_what_was_measured_since_and_offers_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "student-fc1-s0", "student", "fc1", epochs=(0, 2))
    app = kdviz.explore(run.path)
    app._status.say("saved view.png")
    assert not app.refresh() and app.selection.epochs == [0, 2] and app.selection.epoch == 2
    assert app.outputs["status"].value == "saved view.png", "looking wipes nothing away"
    shown, charts = panels(app), app.outputs["charts"].value
    add_network(run, "baseline-s0", "baseline", "fc1", epochs=(0, 1, 2, 4))
    add_network(run, "baseline-s0", "baseline", "fc2", epochs=(0,))
    assert panels(app) == shown, "nothing changes by itself without an event loop"
    assert app.refresh() and not app.refresh()
    assert app.controls["layer"].options == {"fc1": "fc1", "fc2": "fc2"}
    assert app.controls["networks"].options == ("student-fc1-s0", "baseline-s0")
    assert panels(app) == shown
    app.selection.networks = ["student-fc1-s0", "baseline-s0"]
    assert app.selection.epochs == [0, 1, 2, 4] and app.selection.epoch == 2
    app.selection.epoch = 4
    add_network(run, "baseline-s1", "baseline", "fc1", seed=1, epochs=(0, 9))
    app.selection.networks = ["student-fc1-s0", "baseline-s0"]
    assert app.refresh()
    app.selection.networks = ["baseline-s1"]
    assert app.outputs["charts"].value != charts and not app.failed
    app.close()


def test_run__being_measured_is_followed_while_the_app_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "_LOOK_AGAIN", 0.01)
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    run = make_run(tmp_path / "run.zarr")
    run.expect({"points/student-fc1-s0/classifier.fc1": {}, "points/baseline-s0/classifier.fc1": {}})
    add_network(run, "student-fc1-s0", "student", "fc1")

    async def follow() -> None:
        app = kdviz.explore(run.path)
        assert "baseline-s0" in app.children[1].value and app.view.networks[0].network == "student-fc1-s0"
        add_network(run, "baseline-s0", "baseline", "fc1", epochs=(0, 1, 2, 3, 4, 5))
        for _ in range(500):  # of 20 ms, on a busy machine
            if not app.children[1].value:
                break
            await asyncio.sleep(0.02)
        assert app.children[1].value == "" and app.controls["networks"].options[1] == "baseline-s0"
        assert not app._look_again.waits, "a whole run is looked at no more"
        app.close()

    asyncio.run(follow())


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
    assert limits == (0.0, 1.0) and drawn.max() == 0.25


def test_overlays__lay_what_a_student_has_apart_over_its_samples_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for name, layer in (("student-s0", "fc1"), ("baseline-s0", "fc1")):
        add_network(run, name, name.split("-")[0], layer)
    maps = np.random.default_rng(0).random((1, 1, SAMPLES, 16)).astype("float32")
    coordinates = {
        **{"layer": ("layer", ["conv"]), "base_layer": ["conv"], "epoch": [5]},
        **{"sample": NAMES, "unit": np.arange(16)},
    }
    ds = schema.build(
        {"distilled": maps, "residual": maps / 2}, coords=coordinates, attrs={"modality": "image"}
    )
    run.write_result("unicam/student-s0", ds)
    overlays = kdviz.explore(run)._scene.overlays
    assert overlays.names == ["entropy", "distilled", "residual"] and not overlays.notes
    drawn, (low, high) = overlays.find("student-s0", "residual", "s1", 1)
    np.testing.assert_array_equal(drawn, maps[0, 0, 1] / 2)
    assert low == 0 and high == pytest.approx(float(np.quantile(maps / 2, 0.99)))
    assert Looks("residual").scale((low, high)).colours == "viridis", "what is never negative is not signed"
    assert overlays.find("baseline-s0", "residual", "s1", 1)[0] is None


def test_overlays__pass_over_results_that_are_no_maps_of_this_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "baseline-s0", "baseline", "fc1")
    run.write_result(
        "attribution/scores", xr.Dataset({"area": ("sample", np.zeros(SAMPLES))}, {"sample": NAMES})
    )
    run.write_result("unicam/scores", run.result("attribution/scores"))
    app = kdviz.explore(run)
    assert app._scene.overlays.names == ["entropy"]
    for room in ("attribution", "unicam"):
        assert f"Result &#x27;{room}/scores&#x27; is not shown" in app.outputs["notes"].value


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


def test_explore__of_a_run_that_is_not_whole_says_so_above_all(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    add_network(run, "baseline-s0", "baseline", "fc1")
    assert "incomplete" not in kdviz.explore(run).children[1].get_state().get("value", "")
    run.expect({"points/lost-s0/fc1": {}})
    told = kdviz.explore(run).children[1].value
    assert "incomplete: 1 of 2 " in told and "networks missing: lost-s0; continue with" in told


# -- chapters


def test_chapters__answer_of_the_whole_run_under_the_settings_shown(run: Run) -> None:
    app = kdviz.explore(run)
    chapter = app.controls["chapter"]
    assert app.chapters.shown is None and app.controls["again"].disabled
    chapter.value = "answers"
    settings = analysis.Settings(weight=6.0).of_run(run)
    pairs = analysis.pair_networks(run, settings, finished=True)
    told = show_verdict(**asdict(analysis.give_verdict(run, pairs)))
    assert app.chapters.shown.body == told.body and not app.failed
    (output,) = app.chapters._body.children[0].outputs
    assert output["data"]["text/html"].endswith(f"{told.body}</div>")
    app.selection.settings = replace(app.selection.settings, threshold=0.5)
    assert app.chapters.shown.body == told.body, "worked out again only when asked"
    assert app.controls["again"].button_style == "warning"
    app.controls["again"].click()
    pairs = analysis.pair_networks(run, replace(settings, threshold=0.5), finished=True)
    other = show_verdict(**asdict(analysis.give_verdict(run, pairs)))
    assert app.chapters.shown.body == other.body != told.body and app.controls["again"].button_style == ""
    chapter.value = "none"
    assert app.chapters.shown is None and app.chapters._body.children == ()
    app.close()


def test_chapters__draw_and_tabulate_what_the_run_holds_and_say_what_it_lacks(
    run: Run, tmp_path: Path
) -> None:
    app = kdviz.explore(run)
    found = {}
    for name in [name for name in CHAPTERS if name != "attribution"]:  # of this run without masks
        app.controls["chapter"].value = name
        found[name] = app.chapters.shown
        assert not app.failed, app.outputs["status"].value
    (axis, *_) = found["learning"].axes
    counts = kdviz.count_points(find(run, "student-fc1-s0", "fc1"))["n_fg_mean"].values
    assert np.allclose(axis.lines[-1].get_ydata(), counts)
    assert found["transfer"].startswith("No properties") and "kdviz unicam" in found["UniCAM"]
    titles = [axis.get_title() for axis in found["student against baseline"].axes]
    assert any("n_fg" in title for title in titles)
    app.controls["chapter"].value = "learning"
    told = app.chapters._body.children[0].tooltip
    assert told == describe_figure(app.chapters.shown) and "over weight distance: " in told
    app.close()
    alone = make_run(tmp_path / "alone.zarr", masks=False)
    add_network(alone, "mine", "baseline", "fc1")
    app = kdviz.explore(alone)
    for name in CHAPTERS:
        app.controls["chapter"].value = name
        assert isinstance(app.chapters.shown, str) and not app.failed, name
    app.close()


def test_chapters__score_maps_of_the_networks_shown() -> None:
    run = kdviz.open_run(find_data("runs/fashion.nc"))
    app = kdviz.explore(run, layer="fc1", networks=["student-fc1-s0", "baseline-s0"])
    app.controls["chapter"].value = "attribution"
    shown = app.chapters.shown.body
    for name in app.selection.networks:
        entropy = app._scene.derived(name, app.selection.place).ds
        maps = run.result(f"attribution/{name}")
        table = analysis.tabulate_scores(analysis.score_attributions(maps, entropy=entropy))
        assert f'data-value="{table.loc[("grad_cam", "auc"), "mean"]:.6g}"' in shown
        assert f'data-value="{table.loc[("entropy", "auc"), "mean"]:.6g}"' in shown
    app.close()


def test_networks__keep_their_colour_at_every_layer_and_meet_none_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for layer in ("fc1", "fc2"):
        add_network(run, f"student-{layer}", "student", layer)
        add_network(run, "alone", "baseline", layer)
    add_network(run, "further", "baseline", "fc2", seed=1)
    app = kdviz.explore(run)
    looks = app.view.styles
    assert looks["student-fc1"] == looks["student-fc2"] == ROLE_STYLES["student"], "they never meet"
    assert looks["alone"] == ROLE_STYLES["baseline"] and looks["further"] not in ROLE_STYLES.values()
    app.selection.layer = "fc2"
    assert app.view.styles == looks
    app.close()
