"""What a study's students have beside their baselines, from the command line to tables and maps."""

import shutil

import numpy as np
import pytest
import xarray as xr
from tiny_study import draw_images, make_plan
from torch import nn

import kdviz
from kdviz import analysis, cli, unicam
from kdviz.networks import load_weights
from kdviz.studies import Study, StudyPlan, explaining
from kdviz.studies.work import Workshop

ROOMS = ("unicam", "unicam-progress", "unicam-scores")
STUDENT, BASE = "student-kl-s0", "baseline-s0"


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A tiny study, trained, and explained by the command line."""
    folder = tmp_path_factory.mktemp("explaining")
    plan = make_plan(
        draw_images(folder, per_class=40), training={"count": 60, "epochs": 3}, losses=[{"kind": "kl"}]
    )
    study = Study(folder / "study", plan, progress=False)
    study.train()
    cli.app(["unicam", str(study.folder), "--samples", "20", "--no-progress"], standalone_mode=False)
    return study


def load(study, network):
    workshop = Workshop(study)
    subject = next(one for one in study.subjects() if one.name == network)
    built = workshop.build_for(subject)()
    load_weights(built, workshop.finished(subject)[1])
    return built


def test_unicam__scores_are_those_of_the_finished_networks(explained):
    run, workshop = kdviz.open_run(explained.run_path), Workshop(explained)
    assert [*run.results] == [f"{room}/{STUDENT}" for room in ROOMS]
    ds = run.result(f"unicam-scores/{STUDENT}")
    asked = workshop.held_out_set.select(np.arange(min(20, len(workshop.held_out_set))))
    inputs, labels = workshop.as_tensors(asked)
    names = [STUDENT, BASE, "teacher"]
    expected = unicam.score(
        {name: load(explained, name) for name in names}, inputs, labels.numpy(), student=STUDENT, base=BASE,
        teacher="teacher", layers=["features.conv4", "classifier.fc1"], progress=False,
    )  # fmt: skip
    assert ds["network"].values.tolist() == names and ds["input"].values.tolist() == ["plain", "perturbed"]
    for name in ("rs", "rs_distilled", "rs_residual", "fss"):
        np.testing.assert_allclose(
            ds[name].sel(input="plain"),
            expected[name].isel(epoch=0, input=0).expand_dims("epoch", 1),
            rtol=1e-6,
        )
    assert ds["epoch"].values.tolist() == [3]


def test_unicam__follows_scores_from_the_networks_that_both_began_as(explained):
    ds = kdviz.open_run(explained.run_path).result(f"unicam-progress/{STUDENT}")
    assert ds["epoch"].values.tolist() == [0, 1, 3]
    last = kdviz.open_run(explained.run_path).result(f"unicam-scores/{STUDENT}")
    np.testing.assert_allclose(ds["rs"].sel(epoch=3, input="plain"), last["rs"].sel(epoch=3, input="plain"))
    same = ds.sel(epoch=0, pair="student-base")
    np.testing.assert_allclose(same["fss"], 1.0, atol=1e-9)
    assert same["rs_distilled"].isnull().all(), "nothing is apart before training"
    assert ds["rs_distilled"].sel(epoch=3).notnull().all()


def test_unicam__maps_the_measured_samples(explained):
    run = kdviz.open_run(explained.run_path)
    ds = run.result(f"unicam/{STUDENT}")
    assert ds["sample"].values.tolist() == run.samples["sample"].values.tolist()
    np.testing.assert_array_equal(ds["foreground"], run.samples["foreground"])
    maps = analysis.as_attributions(ds)["attribution"].values
    np.testing.assert_array_equal(maps, np.stack([ds["distilled"].values[0], ds["residual"].values[0]]))
    assert maps.max() > 0


def test_unicam__finished_needs_no_pass_and_lost_answers_come_back_the_same(explained, tmp_path, monkeypatch):
    shutil.copytree(explained.folder, tmp_path / "study")
    study = Study(tmp_path / "study", StudyPlan.load(tmp_path / "study"), progress=False)
    run = kdviz.open_run(study.run_path)
    before = {name: run.result(name) for name in run.results}
    shutil.rmtree(study.run_path / "unicam-scores" / STUDENT)
    study.explain(20)
    for name, ds in before.items():
        xr.testing.assert_equal(kdviz.open_run(study.run_path).result(name), ds)

    def refuse(*_, **__):
        raise AssertionError("a network ran")

    monkeypatch.setattr(nn.Module, "__call__", refuse)
    study.explain(20)
    study.explain()  # as many as before
    with pytest.raises(AssertionError, match="a network ran"):
        study.explain(12)  # another question


def test_unicam__prints_what_is_apart(explained, capsys):
    cli.app(["unicam", str(explained.folder), "--samples", "20", "--no-progress"], standalone_mode=False)
    told = capsys.readouterr().out
    assert "distilled  residual" in told and "student-teacher" in told and told.count(STUDENT) == 4
    assert "kdviz rerun 11_unicam" in told


def test_unicam__stopped_midway_goes_on_to_the_same_answers(explained, tmp_path, monkeypatch):
    shutil.copytree(explained.folder, tmp_path / "study")
    study = Study(tmp_path / "study", StudyPlan.load(tmp_path / "study"), progress=False)
    before = {
        name: kdviz.open_run(study.run_path).result(name) for name in kdviz.open_run(study.run_path).results
    }
    for room in ROOMS:
        shutil.rmtree(study.run_path / room)
    calls, score = [], unicam.score

    def stop(*arguments, **options):
        calls.append(options["epoch"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(unicam, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        study.explain(20)
    assert kdviz.open_run(study.run_path).results == [
        f"{room}/{STUDENT}" for room in ("unicam", "unicam-scores")
    ]
    study.explain(20)
    assert calls == [3, 0, 1, 0, 1, 3], "what was kept is not asked again"
    for name, ds in before.items():
        other = kdviz.open_run(study.run_path).result(name)
        for one in (ds, other):
            one.attrs.pop("created_at", None)
        xr.testing.assert_identical(other, ds)


def test_unicam__another_version_is_asked_again(explained, monkeypatch):
    asked = []
    monkeypatch.setattr(explaining._Asker, "_map", lambda *_: asked.append("map") or 1 / 0)
    explained.explain(20)
    monkeypatch.setattr(explaining, "_VERSION", explaining._VERSION + 1)
    with pytest.raises(ZeroDivisionError):
        explained.explain(20)
    assert asked == ["map"]


def test_unicam__of_a_head_of_its_own_looks_no_deeper_than_what_was_distilled(tmp_path):
    """Layers above were trained on labels; at the epochs of the distillation they were not trained at all."""
    plan = make_plan(
        draw_images(tmp_path, per_class=40), networks={"layers": {"early": "features.conv2"}},
        training={"count": 60, "epochs": 3},
    )  # fmt: skip
    study = Study(tmp_path / "study", plan, progress=False)
    study.train()
    run = study.explain(20)
    (student,) = (one.name for one in study.subjects() if one.role == "student")
    ends, steps = (run.result(f"{room}/{student}") for room in ("unicam-scores", "unicam-progress"))
    assert ends["layer"].values.tolist() == steps["layer"].values.tolist() == ["features.conv2"]
    plain = ends.sel(input="plain")
    for name in ("rs", "rs_distilled", "fss"):
        np.testing.assert_allclose(steps[name].sel(epoch=3, input="plain"), plain[name].sel(epoch=3))
    assert run.result(f"unicam/{student}")["layer"].values.tolist() == ["features.conv2"]
