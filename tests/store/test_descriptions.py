"""Labels, names of classes and accuracies that come later."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from measured_runs import measure_small

import kdviz
from kdviz import analysis, render, testing, units
from kdviz.errors import StoreError
from kdviz.store import descriptions
from kdviz.store.sealing import SealedStore

describe = kdviz.store.describe
LABELS, CLASSES = [2, 0, 1, 0], ["cat", "dog", "owl"]
MASKS = np.zeros((4, 8, 8), bool)
MASKS[:, 2:7, 1:5] = True
SAID = {
    "labels": LABELS,
    "classes": CLASSES,
    "accuracy": {"student": {0: 0.25, 1: 0.9}, "baseline": 0.75},
}


@pytest.fixture
def measure(tmp_path):
    def measure(name="run", epochs=(0, 1), **options):
        for role, seed in (("student", 0), ("baseline", 1)):
            options = {"images": 4, "foreground": MASKS, "epochs": epochs} | options
            run = measure_small(tmp_path / f"{name}.zarr", role, role, seed, **options)
        return run

    return measure


def assert_said(run, classes=CLASSES):
    assert run.samples["label"].values.tolist() == LABELS and "label" in run.samples.coords
    assert kdviz.schema.read_classes(run.samples) == classes
    for layer in ("conv2", "fc1"):
        student, baseline = (run.dataset(name, layer) for name in ("student", "baseline"))
        assert student["accuracy"].values.tolist() == pytest.approx([0.25, 0.9], abs=1e-7)
        assert np.isnan(baseline["accuracy"].values[0]) and baseline["accuracy"].values[1] == 0.75
        assert [student.attrs["accuracy"], baseline.attrs["accuracy"]] == [0.9, 0.75]
        assert student["accuracy"].attrs["definition"] == "as given to kdviz.store.describe"


def test_describe__names_layers_for_tables_exports_and_measuring_on(measure, tmp_path):
    run = describe(measure().path, layers={"second": "conv2"})
    assert analysis.name_layers(run) == {"second": ("conv2",), "fc1": ("fc1",)}
    run = describe(run, layers={"head": "fc1"})
    assert run.layer_names == {"second": ("conv2",), "head": ("fc1",)}
    assert list(analysis.pair_networks(run)) == ["second", "head"]
    copy = kdviz.open_run(run.export(tmp_path / "copy.nc"))
    assert analysis.name_layers(copy) == {"second": ("conv2",), "head": ("fc1",)}
    assert list(analysis.name_layers(measure(epochs=(0, 1, 2)))) == ["second", "head"]
    with pytest.raises(StoreError, match="has other layers second, head; overwrite=True replaces them"):
        describe(run, layers={"head": "conv2"})
    with pytest.raises(StoreError, match="has other layers second; overwrite=True replaces them"):
        describe(run, layers={"third": "conv2"})
    with pytest.raises(ValueError, match="layers has several names of 'conv2'; give it one"):
        describe(run, layers={"third": "conv2", "fourth": "conv2"})
    with pytest.raises(ValueError, match="layers calls 'conv2' 'fc1', the name of another module"):
        describe(run, layers={"fc1": "conv2"}, overwrite=True)
    with pytest.raises(ValueError, match="layers names 'conv3', which was not measured; "):
        describe(run, layers={"third": "conv3"})
    assert describe(run, layers={"top": "conv2"}, overwrite=True).layer_names == {
        "head": ("fc1",),
        "top": ("conv2",),
    }
    swapped = describe(run, layers={"head": "conv2", "second": "fc1"}, overwrite=True)
    assert analysis.name_layers(swapped) == {"head": ("conv2",), "second": ("fc1",)}


@pytest.mark.filterwarnings("ignore::kdviz.errors.KdvizWarning")
def test_describe__one_name_for_layers_of_several_architectures_compares_them_there(measure, tmp_path):
    run = measure()
    kdviz.measure_checkpoints(
        lambda: torch.nn.Sequential(OrderedDict(body=testing.small_cnn(seed=4))),
        {3: torch.nn.Sequential(OrderedDict(body=testing.small_cnn(seed=4))).state_dict()},
        testing.random_images(4),
        network="teacher",
        role="teacher",
        layers=["body.conv2", "body.fc1"],
        units=units.grid(4),
        store=run.path,
        foreground=MASKS,
        method="gain",
        probes=2,
        draws=2,
        progress=False,
    )
    assert [*analysis.name_layers(run)] == ["conv2", "fc1", "body.conv2", "body.fc1"]
    assert analysis.pair_networks(run)["fc1"].teacher is None
    run = describe(run.path, layers={"head": ["fc1", "body.fc1"]})
    assert analysis.name_layers(run) == {
        "head": ("fc1", "body.fc1"),
        "conv2": ("conv2",),
        "body.conv2": ("body.conv2",),
    }
    teacher = analysis.list_networks(run)["teacher"]
    assert teacher.layers == {"body.conv2": "body.conv2", "head": "body.fc1"}
    alone = run.dataset("teacher", "body.fc1")
    for layer in ("head", "fc1", "body.fc1"):
        pair = analysis.pair_networks(run, layers=[layer])["head"]
        assert np.array_equal(pair.teacher["gain"].values, alone["gain"].values)
        assert pair.students[0].attrs["layer"] == "fc1"
    app = kdviz.explore(run)
    assert app.selection.layer == "head" and app.selection.networks == ["teacher", "student", "baseline"]
    assert np.array_equal(app.view.networks[0].gain, alone["gain"].values[-1, 0])
    app.close()
    table = analysis.to_dataframe(run)
    assert set(table.loc[table["layer"] == "head", "network"]) == {"student", "baseline", "teacher"}
    copy = kdviz.open_run(run.export(tmp_path / "copy.nc"))
    assert copy.layer_names == {"head": ("fc1", "body.fc1")}
    with pytest.raises(
        ValueError, match="layers calls both 'conv2' and 'fc1' of 'baseline' 'top'; a name is of one"
    ):
        describe(run, layers={"top": ["conv2", "fc1"]}, overwrite=True)
    with pytest.raises(ValueError, match="layers names no module 'top'; "):
        describe(run, layers={"top": []})


def test_describe__takes_the_log_of_a_whole_training(measure):
    run = describe(measure().path, accuracy={"student": {epoch: epoch / 10 for epoch in range(10)}})
    assert run.dataset("student", "fc1")["accuracy"].values.tolist() == pytest.approx([0, 0.1], abs=1e-7)


def test_pick_samples__takes_other_classes_first():
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 2]
    named = xr.Dataset(coords={"sample": [*"abcdefghi"], "label": ("sample", labels)})
    assert render.pick_samples(named, 3) == ["a", "e", "i"], "by position alone: a, d and g, all of class 0"
    assert render.pick_samples(named.drop_vars("label"), 3) == ["a", "d", "g"]
    assert render.pick_samples(named, 20) == [*"abcdefghi"]


def test_describe__reads_names_of_one_module_as_older_versions_wrote_them(measure):
    run = describe(measure().path, layers={"second": "conv2"})
    points = zarr.open_group(SealedStore(run.path / "points"), mode="r+")
    points.attrs["layer_names"] = '{"second": "conv2"}'
    assert analysis.name_layers(kdviz.open_run(run.path)) == {"second": ("conv2",), "fc1": ("fc1",)}


@pytest.mark.filterwarnings("ignore::kdviz.errors.KdvizWarning")
def test_describe__is_seen_in_app_tables_figures_and_exports(measure, tmp_path):
    run = describe(measure().path, **SAID)
    assert_said(run)
    app = kdviz.explore(run)
    assert list(app._scene.labels.values()) == ["owl", "cat", "dog", "cat"]
    app.selection.sample = app._scene.samples[0]
    assert app.view.label == "owl"
    app.close()
    table = analysis.describe_measurement(analysis.pair_networks(run)).set_index(["layer", "role"])
    assert table["accuracy"].to_dict() == {
        (layer, role): np.float32(value)
        for layer in ("conv2", "fc1")
        for role, value in (("student", 0.9), ("baseline", 0.75))
    }
    counts = analysis.tabulate_counts(kdviz.find_points(run.dataset("student", "fc1")))
    assert counts["accuracy"].tolist() == pytest.approx([0.25, 0.9], abs=1e-7)
    titles = render.canvases.title_samples(run.dataset("student", "fc1"), classes=True)
    assert list(titles.values()) == ["image 0, owl", "image 1, cat", "image 2, dog", "image 3, cat"]
    exported = kdviz.open_run(run.export(tmp_path / "run.nc"))
    assert_said(exported)
    with pytest.raises(StoreError, match="is an exported file and cannot be written; use the run directory"):
        describe(exported, **SAID)


def test_describe__gives_the_labels_that_measuring_with_them_gives(measure):
    later, before = describe(measure("later"), labels=LABELS), measure("before", labels=LABELS)
    assert later.samples.equals(before.samples) and {*later.samples.coords} == {*before.samples.coords}
    # measuring goes on, with the labels or without; what is told stays, an accuracy at its epoch
    describe(later, accuracy=SAID["accuracy"])
    for options in ({}, {"labels": LABELS}):
        measure("later", **options)
    further = measure("later", (0, 1, 2))
    assert further.samples["label"].values.tolist() == LABELS
    ds = further.dataset("student", "fc1")
    assert "accuracy" not in ds.attrs, "it was that of an epoch which is no longer the last"
    assert ds["accuracy"].values[:2].tolist() == pytest.approx([0.25, 0.9], abs=1e-7)
    assert describe(further, accuracy={"student": 0.95}).catalogue()["student", "fc1"]["accuracy"] == 0.95


def test_describe__stopped_anywhere_is_whole_in_part_and_goes_on(measure, monkeypatch):
    """Whatever step it is stopped before, what is written is right, and the same call completes it."""
    measured = measure("run")
    move, set_one, steps, stop = (
        descriptions.replace_folder,
        zarr.core.attributes.Attributes.__setitem__,
        [],
        [0],
    )

    def counted(change):
        def step(*args):
            steps.append(None)
            if len(steps) == stop[0]:
                raise KeyboardInterrupt
            change(*args)

        return step

    monkeypatch.setattr(descriptions, "replace_folder", counted(move))
    monkeypatch.setattr(kdviz.store.run, "replace_folder", counted(move))
    monkeypatch.setattr(zarr.core.attributes.Attributes, "__setitem__", counted(set_one))
    for stop[0] in range(1, 99):
        steps.clear()
        try:
            run = describe(measured, **SAID)
            break
        except KeyboardInterrupt:
            between = kdviz.open_run(measured.path)
            labels = between.samples.get("label")
            assert labels is None or labels.values.tolist() == LABELS
            assert kdviz.schema.read_classes(between.samples) in ([], CLASSES)
            for name, last in (("student", 0.9), ("baseline", 0.75)):
                for layer in ("conv2", "fc1"):
                    ds = between.dataset(name, layer)
                    assert float(ds.attrs.get("accuracy", last)) == pytest.approx(last, abs=1e-7)
                    assert "accuracy" not in ds or ds["accuracy"].values[-1] == np.float32(last)
    assert stop[0] > 8, "a step for the labels, and two for each network and layer"
    assert_said(run)
    assert run.gaps() == ""


def test_describe__contradicts_nothing_unless_told_to(measure):
    run = describe(measure(), **SAID)
    assert_said(describe(run, **SAID))  # the same again
    for wrong, said in (
        ({"labels": [0, 0, 1, 0]}, "holds other labels; overwrite=True"),
        ({"classes": ["cat", "dog", "bird"]}, "holds other classes; overwrite=True"),
        ({"labels": [0] * 4, "classes": ["cat"]}, "holds other labels and classes"),
        (
            {"accuracy": {"student": 0.8}},
            r"another accuracy of 'student' at epochs 1, such as 0.9 instead of 0.8",
        ),
        ({"accuracy": {"baseline": 0.75, "student": {0: 0.3}}}, "of 'student' at epochs 0"),
    ):
        with pytest.raises(StoreError, match=said):
            describe(run, **wrong)
        assert_said(kdviz.open_run(run.path))
    found = describe(run, labels=[0, 0, 1, 0], overwrite=True)
    assert found.samples["label"].values.tolist() == [0, 0, 1, 0]
    assert kdviz.schema.read_classes(found.samples) == CLASSES, "as they were"
    found = describe(found, labels=LABELS, classes=["a", "b", "c"], accuracy={"student": 0.8}, overwrite=True)
    assert kdviz.schema.read_classes(found.samples) == ["a", "b", "c"]
    ds = found.dataset("student", "conv2")
    assert ds["accuracy"].values.tolist() == pytest.approx([0.25, 0.8], abs=1e-7)
    assert ds.attrs["accuracy"] == pytest.approx(0.8, abs=1e-7)
    described = describe(found, accuracy={"baseline": {0: 0.1}})  # unknown till now
    assert described.dataset("baseline", "fc1")["accuracy"].values.tolist() == pytest.approx([0.1, 0.75])


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ({}, ValueError, "nothing is said of the run; pass labels, classes, accuracy or layers"),
        ({"labels": [0, 1]}, ValueError, r"labels must be 4 integers of 0 or more, .*got shape \(2,\)"),
        ({"labels": [0, 1, 2, -1]}, ValueError, "of int64, the smallest -1"),
        ({"labels": [0.0, 1, 2, 0]}, ValueError, "of float64"),
        ({"classes": CLASSES}, ValueError, "classes name labels, and the run has none; pass labels, too"),
        (
            {"labels": LABELS, "classes": "cat"},
            ValueError,
            "classes must be a list of names, got the one text",
        ),
        ({"labels": LABELS, "classes": ["a", ""]}, ValueError, "classes: a name"),
        (
            {"labels": LABELS, "classes": ["a", "b"]},
            ValueError,
            "labels are up to 2, beyond the 2 classes a, b",
        ),
        ({"accuracy": {"studnet": 0.5}}, StoreError, "no network 'studnet'; did you mean 'student'"),
        (
            {"accuracy": {"student": {7: 0.5}}},
            ValueError,
            r"epochs 7, none of which was measured; allowed: 0, 1",
        ),
        ({"accuracy": {"student": 93.5}}, ValueError, "at epoch 1 is 93.5; allowed: a share, 0 to 1"),
        ({"accuracy": {"student": -0.1}}, ValueError, "accuracy of 'student' at epoch 1"),
        ({"accuracy": {"student": np.nan}}, ValueError, "accuracy of 'student' at epoch 1"),
        ({"labels": LABELS, "accuracy": {"student": {0: "high"}}}, ValueError, "at epoch 0"),
    ],
)
def test_describe__refuses_what_it_cannot_say_and_writes_none_of_it(made, said, kind, message):
    with pytest.raises(kind, match=message):
        describe(made, **said)
    run = kdviz.open_run(made.path)
    assert "label" not in run.samples and "accuracy" not in run.dataset("student", "fc1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "run.zarr"
    weights = {epoch: testing.small_cnn(seed=epoch).state_dict() for epoch in (0, 1)}
    options = {"layers": "fc1", "units": units.grid(4), "method": "gain", "probes": 2, "progress": False}
    options |= {"network": "student", "role": "student", "store": path}
    kdviz.measure_checkpoints(testing.small_cnn, weights, testing.random_images(4), **options)
    return kdviz.open_run(path)
