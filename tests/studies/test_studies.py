"""Whole studies on sixteen small images: plans, tasks, finished, killed and continued runs."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from pydantic import ValidationError
from run_files import edit_node, plain_files
from safetensors.torch import load_file
from tiny_study import draw_images, make_plan, run_light

import kdviz
from kdviz import analysis, distillation
from kdviz.errors import DataError, KdvizWarning, StoreError
from kdviz.files import read_json
from kdviz.studies import Study, StudyPlan
from kdviz.studies.plans import STUDY_FILE
from kdviz.studies.running import do
from kdviz.studies.work import Workshop
from kdviz.training import PLANS, TrainingRecord, evaluate, probe_accuracy

FC1, FC2 = "classifier.fc1", "classifier.fc2"


@pytest.fixture(scope="module")
def images(study: Study) -> dict[str, Path]:
    return {"images": study.plan.data.images, "masks": study.plan.data.masks}


# -- StudyPlan


def test_plan__defaults_are_the_demo() -> None:
    plan = StudyPlan()
    assert plan.as_json() == {
        "data": {"kind": "fashion-composites", "size": 48, "classes": []},
        "networks": {
            "architecture": "small_vgg",
            "depth": None,
            "layers": {"conv": "features.conv4", "fc1": FC1, "fc2": FC2},
            "teacher": {"kind": "built-in"},
        },
        "losses": [{"kind": "features", "layered": True, "head": True}],
        "training": {
            "seeds": [0],
            "epochs": 12,
            "head_epochs": 8,
            "rate_factor": 1.0,
            "count": 4000,
            "checkpoints": [],
            "recipes": {},
        },
        "measurement": {
            "samples": 50,
            "part": "train",
            "grid": 16,
            "method": None,
            "probes": 40,
            "draws": 4,
            "seed": 0,
        },
        "device": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"kind": "birds"}}, "'birds'"),
        ({"data": {"kind": "image-folder", "masks": "birds"}}, r"data.image-folder.images\n.*required"),
        ({"data": {"kind": "fashion-composites", "size": 8}}, "size\n.*greater than or equal to 28"),
        (
            {"data": {"kind": "fashion-composites", "size": 64}},
            "the built-in teacher is a small_vgg for built-in",
        ),
        ({"networks": {"architecture": "vgg"}}, "networks.architecture is 'vgg'; did you mean 'vgg"),
        ({"networks": {"architecture": "vgg11"}}, "the built-in teacher is a small_vgg for built-in"),
        (
            {"networks": {"layers": ("fc1", "fc9")}},
            "networks.layers names 'fc9'; allowed of small_vgg: conv, fc1, fc2, fc3",
        ),
        ({"networks": {"layers": ()}}, "layers\n.*at least 1 item"),
        (
            {"networks": {"teacher": {"kind": "trained", "architecture": "vgg"}}},
            "networks.teacher.architecture is 'vgg'; did you mean",
        ),
        (
            {"networks": {"teacher": {"kind": "trained", "data": {"kind": "movie-reviews"}}}},
            "networks.teacher.data are texts, and this is a study of images",
        ),
        ({"training": {"checkpoints": (0, 5, 3, 12)}}, "must rise from 0 to epochs=12, got"),
        ({"training": {"recipes": {"fc4": {}}}}, "training.recipes is 'fc4'; did you mean 'fc2'"),
        ({"networks": {"teacher": {"kind": "mine"}}}, "'mine'"),
        ({"training": {"seeds": ()}}, "seeds\n.*at least 1 item"),
        ({"training": {"seeds": (0, 0)}}, r"training.seeds must be different ones, got \(0, 0\)"),
        ({"training": {"seeds": (-1,)}}, r"seeds\.0\n.*greater than or equal to 0"),
        ({"training": {"seeds": (0, 100)}}, "seed 100 is the teacher's"),
        ({"training": {"epochs": 1}}, "epochs\n.*greater than or equal to 2"),
        ({"training": 3}, "training\n"),
        ({"measurement": {"grid": 49}}, "a grid of 49 units a side does not fit pictures of 48 pixels"),
        ({"measurement": {"part": "test"}}, "part\n.*'train' or 'held-out'"),
        ({"measurement": {"method": "guess"}}, "method\n.*'auto', 'gain' or 'path'"),
        ({"measurement": {"grids": 4}}, "grids\n.*Extra inputs are not permitted"),
        ({"losses": ()}, "losses\n.*at least 1"),
    ],
)
def test_plan__bad_value_is_refused_with_a_sentence(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyPlan(**changes)


@pytest.mark.parametrize(
    ("epochs", "measured"), [(2, (0, 1, 2)), (5, (0, 1, 2, 4, 5)), (12, (0, 1, 2, 3, 4, 5, 6, 8, 10, 12))]
)
def test_plan__every_epoch_is_measured_at_first_every_second_later(epochs: int, measured: tuple) -> None:
    assert StudyPlan(training={"epochs": epochs}).training.measured_epochs == measured


def test_plan__is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    plan = make_plan({"images": tmp_path / "a", "masks": tmp_path / "b"}, training={"seeds": (3, 1)})
    plan.save(tmp_path / "study")
    assert StudyPlan.load(tmp_path / "study") == plan


def test_plan__may_grow_in_seeds_and_layers_only(tmp_path: Path) -> None:
    def plan(layers: tuple[str, ...] = ("conv", "fc1"), **changes: dict) -> StudyPlan:
        training = {"seeds": (0, 1, 2)} | changes.pop("training", {})
        return StudyPlan(networks={"layers": layers}, training=training, **changes)

    plan(layers=("fc1",), training={"seeds": (0, 1)}).save(tmp_path)
    grown = plan()
    grown.save(tmp_path)
    assert StudyPlan.load(tmp_path) == grown
    for other, message in (
        (
            plan(training={"seeds": (0, 1)}),
            r"training.seeds \[0, 1, 2\], now \[0, 1\]; choose another folder",
        ),
        (plan(layers=("fc1", "fc2")), "networks.layers"),
        (plan(training={"epochs": 13}), "training.epochs 12, now 13"),
        (plan(measurement={"part": "held-out"}), "measurement.part train, now held-out"),
        (plan(measurement={"seed": 5}), "measurement.seed 0, now 5"),
        (StudyPlan(data={"kind": "movie-reviews"}), "data.kind fashion-composites, now movie-reviews"),
    ):
        with pytest.raises(StoreError, match=f"holds a study with .*{message}"):
            other.save(tmp_path)
    assert StudyPlan.load(tmp_path) == grown
    grown.model_copy(update={"device": "cuda"}).save(tmp_path)
    assert StudyPlan.load(tmp_path).device == "cuda", "another machine may go on with it"


@pytest.mark.parametrize(
    "contents", ["", "{", "training: {epochs: 0}", "unknown: 1", "[]", "data: 2001-13-45", "1: 2"]
)
def test_plan__damaged_file_is_named(tmp_path: Path, contents: str) -> None:
    (tmp_path / STUDY_FILE).write_text(contents)
    with pytest.raises(StoreError, match=r"study\.yaml"):
        StudyPlan.load(tmp_path)


def test_plan__missing_file_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no study: there is no study\.yaml; begin with kdviz train"):
        StudyPlan.load(tmp_path)


def test_plan__teacher_may_be_trained_here_or_come_from_a_file(tmp_path: Path) -> None:
    trained = StudyPlan(networks={"architecture": "vgg11", "teacher": {"kind": "trained", "epochs": 3}})
    assert trained.networks.layers["conv"].startswith("features.") and trained.networks.teacher.epochs == 3
    saved = StudyPlan(networks={"teacher": {"kind": "checkpoint", "file": "mine.safetensors", "epoch": 7}})
    assert saved.networks.teacher.file.is_absolute()
    assert StudyPlan.model_validate(saved.as_json()) == saved


# -- tasks


def test_tasks__come_after_what_they_need_and_can_be_sent_away(study: Study) -> None:
    tasks = study.tasks()
    keys = [task.key for task in tasks]
    assert len(set(keys)) == len(keys)
    for index, task in enumerate(tasks):
        assert {*task.needs} <= {*keys[:index]}
    sent = pickle.loads(pickle.dumps(tasks))
    assert [task.key for task in sent] == keys
    assert [(task.action, task.subject.name) for task in sent if task.action != "attribute"] == [
        (action, name)
        for name in ("teacher", "baseline-s0", "student-fc1-s0")
        for action in ("train", "accuracy", "measure", "repeat")
        if (action, name) != ("repeat", "teacher")
    ]
    assert all(task.is_done() for task in sent if task.action != "attribute")


def test_tasks__are_named_by_what_decides_them(study: Study, images: dict) -> None:
    def keys(plan: StudyPlan) -> set[str]:
        return {task.key for task in Study(study.folder, plan).tasks()}

    mine = keys(study.plan)
    assert mine < keys(make_plan(images, training={"seeds": (0, 1)}))
    assert not mine & keys(make_plan(images, training={"head_epochs": 3}))
    assert mine == keys(study.plan.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(
    ("gone", "undone"),
    [
        ("networks/student-fc1-s0/head/history.json", ("train", "student-fc1-s0")),
        ("networks/baseline-s0/accuracy.json", ("accuracy", "baseline-s0")),
        ("run.zarr/points/teacher/classifier.fc1/accuracy", ("measure", "teacher")),
        ("run.zarr/points/baseline-s0/classifier.fc1/weight_distance", ("measure", "baseline-s0")),
        ("run.zarr/points/baseline-s0-repeat", ("repeat", "baseline-s0")),
    ],
)
def test_task__is_done_again_when_its_result_is_gone(
    study: Study, tmp_path: Path, gone: str, undone: tuple[str, str]
) -> None:
    copy = Study(shutil.copytree(study.folder, tmp_path / "study"), study.plan, progress=False)
    path = copy.folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    left = [task for task in copy.tasks() if task.action != "attribute" and not task.is_done()]
    assert [(task.action, task.subject.name) for task in left] == [undone]
    do(left[0])
    assert left[0].is_done()
    assert_same_files(copy.folder / "networks", study.folder / "networks")


@pytest.mark.parametrize("command", ["train", "measure"])
def test_restart__of_a_finished_study_loads_nothing_heavy(study: Study, tmp_path: Path, command: str) -> None:
    """Without torch there is no network and no pass; the samples are not even there any more."""
    copy = shutil.copytree(study.folder, tmp_path / "study")
    plan = (copy / STUDY_FILE).read_text().replace(str(study.folder.parent), str(tmp_path / "gone"))
    (copy / STUDY_FILE).unlink()
    StudyPlan.model_validate(yaml.safe_load(plan)).save(copy)
    before = plain_files(copy)
    assert "loaded []" in run_light(command, str(copy))
    assert plain_files(copy) == before


def test_restart__makes_no_network_pass(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("work was done again")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    monkeypatch.setattr(Workshop, "build", refuse)
    monkeypatch.setattr(Workshop, "_read", refuse)
    study.train()
    assert study.measure().networks


# -- Study


def test_study__measures_every_network_where_it_should(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    rows = run.summary().set_index(["network", "layer"])
    assert rows["role"].to_dict() == {
        ("baseline-s0", FC1): "baseline",
        ("baseline-s0-repeat", FC1): "baseline",
        ("student-fc1-s0", FC1): "student",
        ("student-fc1-s0-repeat", FC1): "student",
        ("teacher", FC1): "teacher",
    }
    assert rows["epochs"].tolist() == [3, 1, 3, 1, 1] and set(rows["done"]) == {1.0}
    about = run.dataset("student-fc1-s0", FC1).attrs
    assert about["distilled_layer"] == FC1 and about["teacher"] == "teacher" and about["training_seed"] == 0
    assert run.dataset("student-fc1-s0-repeat", FC1).attrs["seed"] == about["seed"] + 1 == 1
    head = TrainingRecord.open(study.folder / "networks" / "student-fc1-s0" / "head")
    assert about["accuracy"] == head.history["validation_accuracy"].iloc[-1]


def test_study__samples_are_training_images_with_their_masks(study: Study, images: dict) -> None:
    samples = kdviz.open_run(study.run_path).samples
    everything = kdviz.sources.image_folder(images["images"], masks=images["masks"], size=16)
    chosen = everything.select(samples["sample"].values.tolist())
    assert samples.sizes["sample"] == 4
    np.testing.assert_array_equal(samples["thumbnail"], chosen.images)
    np.testing.assert_array_equal(samples["label"], chosen.labels)
    cells = chosen.masks[:].reshape(4, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(4, 64)
    assert (
        samples["foreground"].values[cells == 1].all() and not samples["foreground"].values[cells == 0].any()
    )
    assert json.loads(samples.attrs["config"])["classes"] == ["lying", "upright"]


def test_study__student_and_baseline_begin_as_one_network(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    student, baseline = (run.dataset(name, FC1) for name in ("student-fc1-s0", "baseline-s0"))
    for name in ("gain", "entropy", "feature_variance"):
        np.testing.assert_array_equal(student[name][0], baseline[name][0])
        assert not np.array_equal(student[name][-1], baseline[name][-1])
    assert float(student["weight_distance"][0]) == 0 and float(student["weight_distance"][-1]) > 0


def test_study__weight_distance_is_that_of_training(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    for name, folder in (("baseline-s0", "baseline-s0"), ("student-fc1-s0", "student-fc1-s0/features")):
        record = TrainingRecord.open(study.folder / "networks" / folder)
        stored = run.dataset(name, FC1)["weight_distance"]
        np.testing.assert_array_equal(stored.values, record.weight_distance(FC1).values)
        assert stored.attrs["definition"].startswith("step")


def test_study__accuracy_over_training_is_that_of_network_or_head(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    networks = study.folder / "networks"
    baseline = run.dataset("baseline-s0", FC1)["accuracy"]
    record = TrainingRecord.open(networks / "baseline-s0")
    workshop = Workshop(study)
    untrained = evaluate(workshop.build(0), *workshop.held_out_data)
    np.testing.assert_array_equal(baseline, np.float32([untrained, *record.history["validation_accuracy"]]))
    assert baseline.attrs["definition"] == "the network itself"
    student = run.dataset("student-fc1-s0", FC1)["accuracy"]
    probes = read_json(networks / "student-fc1-s0" / "probes" / "probes.json")
    assert sorted(probes) == ["0", "1"], "the head of the last epoch is the student's own"
    head = TrainingRecord.open(networks / "student-fc1-s0" / "head").history["validation_accuracy"].iloc[-1]
    np.testing.assert_array_equal(student, np.float32([probes["0"], probes["1"], head]))
    assert student.attrs["definition"].startswith("a head trained anew above the frozen layer")
    teacher = run.dataset("teacher", FC1)
    assert teacher["accuracy"].values.tolist() == [np.float32(teacher.attrs["accuracy"])]


def test_study__learning_rates_are_those_of_training(study: Study, tmp_path: Path) -> None:
    """Of older runs, which do not tell them, what is missing is measured all the same."""
    run, plans = kdviz.open_run(study.run_path), PLANS["image"]
    told = {name: attrs["learning_rate"] for (name, _), attrs in run.catalogue().items()}
    kinds = {"teacher": "teacher", "baseline-s0": "baseline", "student-fc1-s0": "student"}
    expected = {name: plans[kinds[name.removesuffix("-repeat")]].rate(1) for name in run.networks}
    assert told == pytest.approx(expected, rel=1e-12) and told["student-fc1-s0"] == 0.08
    table = analysis.describe_measurement(analysis.pair_networks(run)).set_index("role")
    assert table["learning_rate"].to_dict() == {role: told[name] for name, role in kinds.items()}
    older = Study(shutil.copytree(study.folder, tmp_path / "older"), study.plan, progress=False)
    layer = older.run_path / "points" / "baseline-s0" / FC1
    edit_node(layer / "zarr.json", lambda node: node["attributes"].pop("learning_rate"))
    (layer / "gain" / "c" / "2" / "0" / "0").unlink()
    with pytest.warns(KdvizWarning, match="chunk gain/c/2/0/0 is missing; that is measured again"):
        again = older.measure()
    xr.testing.assert_equal(again.dataset("baseline-s0", FC1), run.dataset("baseline-s0", FC1))
    assert "learning_rate" not in again.catalogue()["baseline-s0", FC1]


def test_study__of_more_than_nine_epochs_is_measured_whole(images: dict, tmp_path: Path) -> None:
    training, measurement = {"epochs": 10, "head_epochs": 1}, {"samples": 2, "probes": 4, "draws": 2}
    study = Study(tmp_path, make_plan(images, training=training, measurement=measurement), progress=False)
    study.train()
    run = study.measure()
    for subject in study.subjects():
        told = json.loads(study.accuracy_file(subject).read_text())["accuracy"]
        stored = run.dataset(subject.name, FC1)["accuracy"]
        assert stored["epoch"].values.tolist() == sorted(map(int, told))
        assert stored.values.tolist() == pytest.approx([told[str(epoch)] for epoch in stored["epoch"].values])


def test_study__a_probe_of_the_last_epoch_would_be_the_head(study: Study, tmp_path: Path) -> None:
    folder = study.folder / "networks" / "student-fc1-s0"
    last, workshop = study.plan.training.epochs, Workshop(study)
    found = probe_accuracy(
        workshop.build(0),
        {last: TrainingRecord.open(folder / "features").checkpoints[last]},
        *workshop.student_data,
        layer=FC1,
        folder=tmp_path,
        plan=workshop.training_plan("head", 0),
        validation=workshop.held_out_data,
        progress=False,
    )
    head = TrainingRecord.open(folder / "head").history["validation_accuracy"].iloc[-1]
    assert float(found[0]) == np.float32(head)


def test_study__pairs_and_tables_follow(study: Study) -> None:
    pairs = analysis.pair_networks(kdviz.open_run(study.run_path), analysis.Settings(threshold=0.05))
    assert list(pairs) == ["fc1"] and pairs["fc1"].teacher is not None
    table = analysis.compare_layers(pairs).set_index("metric")
    assert table.index.tolist() == list(analysis.METRICS)
    assert (table["student"] - table["baseline"]).equals(table["difference"])
    assert analysis.measure_noise_floor(pairs)["role"].tolist() == ["student", "baseline"]


def test_study__called_again_changes_nothing(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    again = Study(copy, study.plan, progress=False)
    before = plain_files(copy)
    again.train()
    again.measure()
    assert plain_files(copy) == before


def test_study__held_out_images_are_others_than_the_trained_ones(study: Study, images: dict) -> None:
    plan = make_plan(images, measurement={"part": "held-out", "samples": 10})
    held_out, shop = Workshop(Study(study.folder, plan, progress=False)), Workshop(study)
    measured = set(held_out.measured_set.sample_ids)
    trained = set(held_out.training_set.sample_ids)
    assert len(measured) == 4 and len(trained) == 12 and not measured & trained
    assert set(held_out.measured_set.labels.tolist()) == {0, 1}
    assert set(shop.measured_set.sample_ids) <= set(shop.student_set.sample_ids) <= trained
    assert len(shop.student_set) == 10


def test_study__grown_by_a_seed_and_a_layer_keeps_what_is_there(
    study: Study, images: dict, tmp_path: Path
) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    old = kdviz.open_run(study.run_path)
    grown = Study(copy, make_plan(images, layers=("fc1", "fc2"), training={"seeds": (0, 1)}), progress=False)
    grown.train()
    run = grown.measure()
    pairs = analysis.pair_networks(run)
    assert {label: (list(pair.students), list(pair.baselines)) for label, pair in pairs.items()} == {
        "fc1": ([0, 1], [0, 1]),
        "fc2": ([0, 1], [0, 1]),
    }
    for name in old.networks:
        xr.testing.assert_identical(run.dataset(name, FC1), old.dataset(name, FC1))


def test_study__layers_go_by_the_names_that_the_plan_gives_them(
    study: Study, images: dict, tmp_path: Path
) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    layers = {"fc1": FC1, "top": "features.conv4"}
    plan = make_plan(images).model_dump(mode="json")
    plan["networks"]["layers"] = layers
    grown = Study(copy, StudyPlan.model_validate(plan), progress=False)
    grown.train()
    named = analysis.name_layers(grown.measure())
    assert {label: modules[0] for label, modules in named.items() if label in layers} == layers
    assert "conv" not in named and "features.conv4" not in named


def test_study__grows_on_the_samples_it_was_begun_with_only(study: Study, tmp_path: Path) -> None:
    copy, mine = shutil.copytree(study.folder, tmp_path / "study"), draw_images(tmp_path / "own")
    (copy / STUDY_FILE).unlink()
    lying = mine["images"] / "lying"
    (lying / "0.png").write_bytes((lying / "1.png").read_bytes())
    with pytest.raises(StoreError, match=r"was begun with other samples to train under the same names"):
        Study(copy, make_plan(mine, training={"seeds": (0, 1)}), progress=False).train()


def test_train__plan_is_not_kept_when_the_images_cannot_be_read(tmp_path: Path, images: dict) -> None:
    folder = tmp_path / "study"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lacks the masks of 16 images: lying/0"):
        Study(folder, make_plan(images | {"masks": tmp_path / "empty"}), progress=False).train()
    assert not folder.exists()


def test_measure__of_a_plan_changed_by_hand_is_refused(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study")
    plan = yaml.safe_load((copy / STUDY_FILE).read_text())
    plan["measurement"]["probes"] = 65
    (copy / STUDY_FILE).write_text(yaml.safe_dump(plan))
    with pytest.raises(StoreError, match=r"was measured with measurement\.probes 40, now 65"):
        Study(copy, StudyPlan.load(copy), progress=False).measure()


def test_measure__before_training_is_finished_says_so(tmp_path: Path, images: dict) -> None:
    plan = make_plan(images)
    plan.save(tmp_path)
    with pytest.raises(StoreError, match=r"no finished training run in .*networks"):
        Study(tmp_path, plan, progress=False).measure()
    assert sorted(path.name for path in tmp_path.iterdir()) == [STUDY_FILE], "nothing is made"


def test_measure__needs_every_stage_of_every_student(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study", ignore=shutil.ignore_patterns("run.zarr*"))
    (copy / "networks" / "student-fc1-s0" / "head" / "history.json").unlink()
    with pytest.raises(StoreError, match=r"no finished training run in .*student-fc1-s0/head"):
        Study(copy, study.plan, progress=False).measure()
    assert not (copy / "run.zarr").exists()


class Kl(distillation.Loss):
    """A loss of logits: no layer, no head, and the whole student is trained."""

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = temperature

    def __call__(self, student, teacher, labels, rows):
        ours, theirs = (outputs.logits / self.temperature for outputs in (student, teacher))
        return torch.nn.functional.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")


def test_study__takes_students_of_another_loss_beside(
    study: Study, images: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "LOSSES", {"features": distillation.Features, "kl": Kl})
    plan = make_plan(images, losses=[{"kind": "features"}, {"kind": "kl", "temperature": 2.0}])
    assert plan.as_json()["losses"][1] == {
        "kind": "kl",
        "layered": False,
        "head": False,
        "temperature": 2.0,
    }
    grown = Study(shutil.copytree(study.folder, tmp_path / "study"), plan, progress=False)
    grown.train()
    run = grown.measure()
    about = run.catalogue()["student-kl-s0", FC1]
    assert (about["distillation_method"], about.get("distilled_layer")) == ("kl", None)
    record = TrainingRecord.open(grown.folder / "networks" / "student-kl-s0")
    accuracy = run.dataset("student-kl-s0", FC1)["accuracy"]
    np.testing.assert_array_equal(accuracy[1:], np.float32(record.history["validation_accuracy"]))
    with pytest.raises(ValidationError, match="option of kl is 'warmth'; allowed: temperature"):
        make_plan(images, losses=[{"kind": "kl", "warmth": 2.0}])
    with pytest.raises(ValidationError, match="kind of loss is 'crd'; allowed: features, kl"):
        make_plan(images, losses=[{"kind": "crd"}])


class TooWide(Kl):
    """A loss whose parts do not fit the logits."""

    def __init__(self) -> None:
        self.parts = torch.nn.Linear(99, 2)

    def __call__(self, student, teacher, labels, rows):
        return self.parts(student.logits).mean()


def test_study__a_loss_that_fails_is_named_before_a_teacher_is_trained(
    images: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "LOSSES", {"features": distillation.Features, "wide": TooWide})
    plan = make_plan(images, losses=[{"kind": "features"}, {"kind": "wide"}])
    with pytest.raises(ValueError, match="the loss TooWide fails on a first batch of 10: mat1 and mat2"):
        Study(tmp_path / "study", plan, progress=False).train()
    assert not (tmp_path / "study").exists()


# -- kill -9


KILL_OFTEN = """
import os, random, signal, sys, time
import torch, torch._dynamo  # optimisers load the latter at their first step
torch.set_num_threads(1)
import kdviz.studies.work  # everything is imported once; every attempt below is a process of its own
from kdviz import cli

patience, chance, kills = float(sys.argv[1]), random.Random(0), 0
sys.argv = ["kdviz", *sys.argv[2:]]
while True:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        cli.main()
    deadline = time.monotonic() + chance.uniform(0, patience * 1.5**kills)  # ever longer, so that it ends
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            print("kills", kills)
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
"""


def kill_often(patience: float, *arguments: str | Path) -> int:
    """Call the command line until it ends by itself, killing it before; how often it was killed."""
    command = [sys.executable, "-c", KILL_OFTEN, str(patience), *map(str, arguments), "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = re.search(r"kills (\d+)", done.stdout)
    assert found, done.stdout
    return int(found[1])


def assert_same_files(ours: Path, theirs: Path) -> None:
    one, two = plain_files(ours), plain_files(theirs)
    assert one.keys() - two.keys() == two.keys() - one.keys() == set()
    assert [name for name in one if one[name] != two[name]] == []


def test_train__killed_at_random_moments_ends_bit_equal(study: Study, images: dict, tmp_path: Path) -> None:
    options = ["--images", images["images"], "--masks", images["masks"], "--size=16", "--layers=fc1"]
    options += ["--teacher-epochs=2", "--set=training.epochs=2", "--set=training.count=10"]
    options += ["--set=measurement.grid=8", "--set=measurement.samples=4"]
    kills = kill_often(0.05, "train", tmp_path / "study", *options)
    assert kills >= 3
    assert_same_files(tmp_path / "study" / "networks", study.folder / "networks")
    assert (tmp_path / "study" / STUDY_FILE).read_bytes() == (study.folder / STUDY_FILE).read_bytes()
    suffixes = {path.suffix for path in (tmp_path / "study" / "networks").rglob("*") if path.is_file()}
    assert suffixes >= {".safetensors", ".json"}, "checkpoints and histories were compared"


def test_measure__killed_at_random_moments_ends_bit_equal(study: Study, tmp_path: Path) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "study", ignore=shutil.ignore_patterns("run.zarr*"))
    kills = kill_often(0.2, "measure", copy)
    assert kills >= 3
    assert_same_files(copy / "run.zarr", study.run_path)
    ours, theirs = kdviz.open_run(copy / "run.zarr"), kdviz.open_run(study.run_path)
    for network in theirs.networks:
        one, two = ours.dataset(network, FC1), theirs.dataset(network, FC1)
        assert set(one.variables) == set(two.variables)
        for name in two.variables:
            np.testing.assert_array_equal(one[name].values, two[name].values)


def test_study__teacher_of_own_images_starts_elsewhere(study: Study) -> None:
    folder = study.folder / "networks"
    teacher, baseline = (
        load_file(folder / name / "epoch-000.safetensors") for name in ("teacher", "baseline-s0")
    )
    assert teacher.keys() == baseline.keys()
    assert not any(torch.equal(teacher[name], baseline[name]) for name in teacher if "weight" in name)


def test_study__measured_images_know_their_split_and_no_path(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    assert set(run.samples["split"].values) == {study.plan.measurement.part}
    assert str(study.plan.data.images) not in str(run.attrs)
    assert 0 <= float(run.catalogue()["teacher", run.layers("teacher")[0]]["accuracy"]) <= 1


def test_study__rate_factor_scales_every_learning_rate(tmp_path: Path) -> None:
    plain, slow = (
        Workshop(Study(tmp_path, StudyPlan(training={"rate_factor": factor}))) for factor in (1.0, 0.5)
    )
    for kind in ("teacher", "baseline", "conv", "fc1", "head"):
        whole, half = (workshop.training_plan(kind, 0).learning_rate for workshop in (plain, slow))
        assert half == (0.5 * whole[0], 0.5 * whole[1])


def test_study__of_a_teacher_from_a_file(study: Study, images: dict, tmp_path: Path) -> None:
    """The teacher that another study trained gives the same student."""
    trained = TrainingRecord.open(study.folder / "networks" / "teacher").checkpoints[2]
    teacher = {"kind": "checkpoint", "file": trained, "epoch": 2}
    other = Study(tmp_path / "study", make_plan(images, networks={"teacher": teacher}), progress=False)
    other.train()
    ours, theirs = (
        TrainingRecord.open(one.folder / "networks" / "student-fc1-s0" / "head").checkpoints[8].read_bytes()
        for one in (other, study)
    )
    assert ours == theirs
    told = [json.loads((one.folder / "networks/teacher/accuracy.json").read_text()) for one in (other, study)]
    assert told[0]["accuracy"].keys() == {"2"} == told[1]["accuracy"].keys()
    assert told[0]["accuracy"]["2"] == pytest.approx(told[1]["accuracy"]["2"])
