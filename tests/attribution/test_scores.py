"""Scores of stored maps by hand and by other libraries; figures by the data in their axes; the study."""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from tiny_study import finished_study

import kdviz
import kdviz.attribution
from kdviz import analysis, render, schema, testing, units
from kdviz.errors import DegenerateWarning, SchemaError, StoreError
from kdviz.networks.checkpoints import load_weights
from kdviz.sources import normalise
from kdviz.studies import Study
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "04_baselines.ipynb"


def make_maps(values: object, foreground: object, **extra: object) -> xr.Dataset:
    """Maps of shape (method, sample, unit) at epoch 3, named m0, m1, ..."""
    array = np.asarray(values, np.float32)
    methods, samples, count = array.shape
    ds = xr.Dataset(
        {
            "attribution": (schema.VARIABLES["attribution"].dims, array[:, None]),
            "foreground": (("sample", "unit"), np.asarray(foreground, bool)),
            "valid": (("sample", "unit"), np.ones((samples, count), bool)),
        },
        coords={
            "attribution_method": [f"m{i}" for i in range(methods)],
            "epoch": [3],
            "sample": [f"s{i}" for i in range(samples)],
            "unit": np.arange(count),
        },
    )
    return schema.annotate(ds.assign(**extra))


def make_entropies(values: object, like: xr.Dataset) -> xr.Dataset:
    """Entropies of shape (sample, unit) at epochs 0 (all zero) and 3."""
    array = np.asarray(values, np.float32)
    both = np.stack([np.zeros_like(array), array])
    entropy = like.drop_vars(["attribution", "attribution_method"]).drop_dims("epoch")
    entropy = entropy.assign(entropy=(("epoch", "sample", "unit"), both))
    return schema.annotate(entropy.assign_coords(epoch=[0, 3]))


def random_maps(seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    rng = np.random.default_rng(seed)
    maps = make_maps(rng.normal(size=(2, 5, 12)).round(1), rng.random((5, 12)) < 0.4)  # rounded: ties
    return maps, make_entropies(rng.normal(size=(5, 12)), maps)


def score_of(scores: xr.Dataset, name: str, method: str) -> list[float]:
    return scores[name].sel(attribution_method=method, epoch=3).values.tolist()


# -- score_attributions


def test_score_attributions__by_hand() -> None:
    # units of the object: 0 and 1. m0 has its largest on it, m1 on the background, ties in the second sample.
    ds = make_maps([[[4, 1, 2, -1], [1, 3, 3, 0]], [[0, 1, 5, 2], [-2, -4, -1, 1]]], [[1, 1, 0, 0]] * 2)
    scores = analysis.score_attributions(ds)
    assert score_of(scores, "pointing", "m0") == [1, 0.5]
    assert score_of(scores, "pointing", "m1") == [0, 0]
    assert score_of(scores, "foreground_mass", "m0") == pytest.approx([5 / 7, 4 / 7])
    assert score_of(scores, "foreground_mass", "m1") == pytest.approx([1 / 8, 0])
    # pairs (object, background): 4>2 4>-1 1<2 1>-1; 1<3 1>0 3=3 3>0
    assert score_of(scores, "auc", "m0") == pytest.approx([3 / 4, 2.5 / 4])
    # sizes of m1, second sample: 2>1 2>1 4>1 4>1
    assert score_of(scores, "auc", "m1")[1] == 0 and score_of(scores, "auc_of_size", "m1")[1] == 1
    assert scores["foreground_share"].values.tolist() == [0.5, 0.5]
    assert "entropy_correlation" not in scores


def test_score_attributions__of_the_entropy_by_hand() -> None:
    ds = make_maps([[[9, 8, 7, 6]], [[6, 7, 8, 9]]], [[1, 0, 0, 1]])
    entropy = make_entropies([[-3, -2, -1, 0]], ds)  # mean -1.5: importance 1.5, 0.5, -0.5, -1.5
    importance = analysis.collect_importance(ds, entropy=entropy)
    assert importance.sel(attribution_method="entropy").values.tolist() == [[[1.5, 0.5, -0.5, -1.5]]]
    scores = analysis.score_attributions(ds, entropy=entropy)
    assert score_of(scores, "pointing", "entropy") == [1]
    assert score_of(scores, "foreground_mass", "entropy") == [0.75]
    assert score_of(scores, "auc", "entropy") == [0.5]
    assert np.isnan(score_of(scores, "auc_of_size", "entropy")[0])
    correlations = [score_of(scores, "entropy_correlation", name)[0] for name in ("m0", "m1", "entropy")]
    assert correlations == pytest.approx([1, -1, 1])  # low entropy is important


def test_score_attributions__auc_is_that_of_sklearn_and_correlation_that_of_scipy() -> None:
    ds, entropy = random_maps()
    scores = analysis.score_attributions(ds, entropy=entropy)
    for method in ("m0", "m1"):
        for at, sample in enumerate(ds["sample"].values):
            values = ds["attribution"].sel(attribution_method=method, sample=sample, epoch=3).values
            mask = ds["foreground"].values[at]
            kept = -entropy["entropy"].sel(sample=sample, epoch=3).values
            assert score_of(scores, "auc", method)[at] == pytest.approx(roc_auc_score(mask, values))
            assert score_of(scores, "auc_of_size", method)[at] == pytest.approx(
                roc_auc_score(mask, abs(values))
            )
            found = score_of(scores, "entropy_correlation", method)[at]
            assert found == pytest.approx(spearmanr(values, kept).statistic)


def test_score_attributions__padded_units_do_not_count() -> None:
    ds, entropy = random_maps()
    whole = analysis.score_attributions(ds, entropy=entropy)
    maps = np.pad(ds["attribution"].values[:, 0], ((0, 0), (0, 0), (0, 3)), constant_values=1e6)
    valid = np.arange(15) < np.full((5, 1), 12)
    longer = make_maps(maps, np.pad(ds["foreground"], ((0, 0), (0, 3))), valid=(("sample", "unit"), valid))
    kept = np.pad(entropy["entropy"].values[1], ((0, 0), (0, 3)), constant_values=-1e6)
    padded = analysis.score_attributions(longer, entropy=make_entropies(kept, longer))
    xr.testing.assert_allclose(padded, whole)


def test_score_attributions__counts_what_is_undefined() -> None:
    ds = make_maps([[[1, 2], [1, 2], [-1, -2]], [[1, 1], [1, 1], [1, 1]]], [[0, 0], [1, 1], [1, 0]])
    entropy = make_entropies([[0, 1], [0, 1], [0, 1]], ds)
    with pytest.warns(DegenerateWarning) as told:
        scores = analysis.score_attributions(ds, entropy=entropy)
    assert [str(one.message) for one in told] == [
        "2 of 3 samples have no foreground or no background, and no scores; "
        "1 maps have no positive value, and no foreground_mass"
    ]
    assert np.isnan(scores["auc"].sel(attribution_method="m0").values).tolist() == [[True, True, False]]
    assert (
        np.isnan(score_of(scores, "foreground_mass", "m0")[2]) and score_of(scores, "pointing", "m0")[2] == 1
    )
    assert score_of(scores, "entropy_correlation", "m0") == pytest.approx([-1, -1, 1])
    assert np.isnan(score_of(scores, "entropy_correlation", "m1")).all()  # constant maps have no ranks


def test_score_attributions__refuses_what_does_not_belong_together() -> None:
    ds, entropy = random_maps()
    with pytest.raises(ValueError, match=r"do not match: samples differ \(5 and 4"):
        analysis.score_attributions(ds, entropy=entropy.isel(sample=slice(4)))
    with pytest.raises(ValueError, match=r"attributions of epochs \[3\]; entropies were measured at \[0\]"):
        analysis.score_attributions(ds, entropy=entropy.sel(epoch=[0]))
    with pytest.raises(ValueError, match="foreground differs"):
        analysis.score_attributions(ds, entropy=entropy.assign(foreground=~entropy["foreground"]))
    with pytest.raises(SchemaError, match="variable 'foreground' is missing"):
        analysis.score_attributions(ds.drop_vars("foreground"))


def test_tabulate_scores__means_and_intervals_over_the_defined_samples() -> None:
    dims = ("attribution_method", "sample")
    values = np.array([[0.0, 1.0, np.nan, 1.0], [0.5, 0.5, 0.5, 0.5], [np.nan] * 4])
    ds = xr.Dataset({"auc": (dims, values)}, coords={"attribution_method": ["a", "b", "c"]})
    table = analysis.tabulate_scores(ds, resamples=4000)
    assert table.loc[("a", "auc"), "mean"] == pytest.approx(2 / 3)
    assert table.loc[("b", "auc")].tolist() == [0.5, 0.5, 0.5, 4]
    assert table["samples"].tolist() == [3, 4, 0]
    assert np.isnan(table.loc[("c", "auc"), ["mean", "low", "high"]].astype(float)).all()
    # of 4 draws of 4 samples: only a 0, as (1/2)^4 / (1 - (1/4)^4) > 2.5 %, and only ones, likewise
    assert table.loc[("a", "auc"), ["low", "high"]].tolist() == [0, 1]
    narrow = analysis.tabulate_scores(ds, confidence=0.2)
    assert narrow.loc[("a", "auc"), "low"] > 0.3 and narrow.loc[("a", "auc"), "high"] < 1
    with pytest.raises(ValueError, match="confidence is 95"):
        analysis.tabulate_scores(ds, confidence=95)


# -- figures


def test_removal_curves__draws_every_method_in_both_panels() -> None:
    curves = {"cam": [1, 0.5, 0], "entropy": [1, 0.2, 0], "random": [1, 0.7, 0]}
    figure = render.removal_curves([0, 0.5, 1], curves, {"cam": [0, 0.9, 1]}, title="teacher")
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == list(curves.values())
    assert [line.get_color() for line in left.lines[1:]] == ["black", "grey"]
    assert right.lines[0].get_ydata().tolist() == [0, 0.9, 1]
    assert right.lines[0].get_color() == left.lines[0].get_color()


def test_similarity_table__writes_every_number() -> None:
    table = pd.DataFrame(
        [[1, -0.001], [np.nan, -0.5]], index=["grad_cam", "entropy fc1"], columns=["a.fc3", "a.b"]
    )
    (axis,) = render.similarity_table(table, title="t").axes
    assert [text.get_text() for text in axis.texts] == ["1.00", "0.00", "none", "-0.50"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["fc3", "b"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["grad cam", "entropy fc1"]


# -- a study


@pytest.fixture
def study(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Study:
    """A copy of the tiny study, to write into."""
    made = finished_study(tmp_path_factory)
    shutil.copytree(made.folder, tmp_path / "study")
    return Study(tmp_path / "study", made.plan, progress=False)


def test_study__attributes_every_network_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    run = study.attribute()
    assert run.results == ["attribution/baseline-s0", "attribution/student-fc1-s0", "attribution/teacher"]
    stored = run.result("attribution/student-fc1-s0")
    assert (stored.attrs["network"], stored.attrs["network_role"]) == ("student-fc1-s0", "student")
    assert stored["epoch"].values.tolist() == [2]
    workshop = Workshop(study)
    network, images = workshop.build(), workshop.measured_set
    head = TrainingRecord.open(study.folder / "networks" / "student-fc1-s0" / "head")
    load_weights(network, head.checkpoints[study.plan.training.head_epochs])
    expected = kdviz.attribute(
        network,
        torch.from_numpy(normalise(images.images)),
        units=units.grid(8),
        labels=images.labels,
        sample_ids=images.sample_ids,
        progress=False,
    )
    assert np.allclose(stored["attribution"], expected["attribution"].values)
    entropy = run.dataset("student-fc1-s0", "classifier.fc1")
    with pytest.warns(DegenerateWarning, match="maps have no positive value"):  # two epochs teach little
        scores = analysis.score_attributions(stored, entropy=entropy)
    assert scores.sizes == {"attribution_method": 8, "epoch": 1, "sample": 4}

    drawn: list[int] = []
    true_attribute = kdviz.attribution.attribute
    monkeypatch.setattr(
        kdviz.attribution,
        "attribute",
        lambda *args, **options: drawn.append(1) or true_attribute(*args, **options),
    )
    study.attribute()
    assert drawn == []
    shutil.rmtree(study.run_path / "attribution" / "teacher")
    assert len(study.attribute().results) == 3 and drawn == [1]


def test_study__is_measured_before_it_is_attributed(study: Study) -> None:
    shutil.rmtree(study.run_path)
    with pytest.raises(StoreError, match="is not measured yet; first kdviz measure"):
        study.attribute()


# -- the notebook


@pytest.fixture
def own_run(tmp_path: Path) -> Path:
    """A run without a study, of another entropy weight and with the networks named against their roles."""
    images, masks = testing.random_images(3, seed=1), np.zeros((3, 8, 8), bool)
    masks[:, :4, :4] = True
    same = {"units": units.grid(4), "labels": [0, 1, 2], "foreground": masks, "progress": False}
    for seed, (name, role) in enumerate([("a", "baseline"), ("b", "teacher")]):
        network = testing.small_cnn(seed=seed)
        kdviz.measure_checkpoints(
            testing.small_cnn,
            {3: network.state_dict()},
            images,
            network=name,
            role=role,
            layers=["fc1"],
            store=tmp_path / "run.zarr",
            weight=6.0,
            **same,
        )
        maps = kdviz.attribute(network, images, methods=["activation", "grad_cam"], epoch=3, **same)
        kdviz.open_run(tmp_path / "run.zarr").write_result(f"attribution/{name}", maps)
    return tmp_path / "run.zarr"


def test_notebook__reads_a_run_that_no_study_made(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    end = next(at for at, cell in enumerate(cells) if "order does the answer follow" in cell.source)
    found: dict = {}
    for cell in (cell for cell in cells[:end] if cell.cell_type == "code"):
        source = re.sub("^%.*$", "", cell.source, flags=re.MULTILINE)
        exec(source.replace('run_path: str = ""', f"run_path = {str(own_run)!r}"), found)
    assert capsys.readouterr().out.startswith("b: epoch 3, 3 samples, layer maps of conv2\na: epoch 3")
    assert {ds["entropy"].attrs["weight"] for ds in found["entropies"].values()} == {6.0}
    assert found["tables"]["b"].index.levels[0].tolist() == ["activation", "entropy", "grad_cam"]
