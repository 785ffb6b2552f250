"""Teachers of another architecture, of other data or with weights to begin with, and their students."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tiny_study import SIDE, draw_images, make_plan

from kdviz import analysis, models
from kdviz.errors import DataError
from kdviz.networks import load_weights
from kdviz.networks.checkpoints import read_checkpoint
from kdviz.sources import FASHION_CLASSES, FashionComposites
from kdviz.studies import Study, StudyPlan
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord, evaluate

FC1, FC3 = "classifier.fc1", "classifier.fc3"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return draw_images(tmp_path_factory.mktemp("pictures"))


def open_study(folder: Path, images: dict[str, Path], **changes) -> Study:
    return Study(folder / "study", make_plan(images, **changes), progress=False)


def record(study: Study, name: str) -> TrainingRecord:
    return TrainingRecord.open(study.folder / "networks" / name)


def last_weights(study: Study, name: str) -> dict[str, torch.Tensor]:
    points = record(study, name).checkpoints
    return read_checkpoint(points[max(points)])


def test_teacher__of_another_architecture_teaches_and_is_measured_at_its_own_layers(tmp_path, images):
    teacher = {"kind": "trained", "epochs": 2, "architecture": "small_vgg_deep"}
    study = open_study(
        tmp_path, images, layers=("conv", "fc1"), networks={"layers": ["conv", "fc1"], "teacher": teacher}
    )
    study.train()
    run = study.measure()
    assert {*run.layers("teacher")} == {"features.conv7", FC1}
    assert run.layers("student-conv-s0") == ["features.conv4"]
    assert run.dataset("teacher", FC1).attrs["architecture"] == "small_vgg_deep"
    assert run.dataset("baseline-s0", FC1).attrs["architecture"] == "small_vgg"
    told = Workshop(study)
    student = next(one for one in study.subjects() if one.name == "student-conv-s0")
    loss = told._make_loss(student)
    assert (loss.layers, loss.teacher_layers) == (("features.conv4",), ("features.conv7",))
    before, after = record(study, "student-conv-s0/features").history["loss"].iloc[[0, -1]]
    assert after < before
    assert analysis.name_layers(run)["conv"] == ("features.conv4", "features.conv7")
    pairs = analysis.pair_networks(run)
    assert [pairs[layer].teacher.attrs["layer"] for layer in ("conv", "fc1")] == ["features.conv7", FC1]
    assert record(study, "teacher").weight_distance("features.conv7")[-1] > 0  # its own layers are followed
    assert StudyPlan.load(study.folder) == study.plan


def test_teacher__begins_with_the_weights_that_fit(tmp_path, images):
    start = models.build("small_vgg", classes=7, input_size=SIDE, seed=3).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    teacher = {"kind": "trained", "epochs": 1, "start": tmp_path / "start.safetensors"}
    study = open_study(tmp_path, images, networks={"layers": ["fc1"], "teacher": teacher})
    study.train()
    begun = read_checkpoint(record(study, "teacher").checkpoints[0])
    for name, weight in begun.items():
        if name.startswith(FC3):
            assert len(weight) == 2  # its own classes, new weights
        else:
            torch.testing.assert_close(weight, start[name], rtol=0, atol=0)


def test_teacher__weights_of_something_else_are_refused(tmp_path, images):
    save_file({"other": torch.zeros(3)}, tmp_path / "start.safetensors")
    teacher = {"kind": "trained", "epochs": 1, "start": tmp_path / "start.safetensors"}
    study = open_study(tmp_path, images, networks={"layers": ["fc1"], "teacher": teacher})
    with pytest.raises(
        DataError, match=r"start.safetensors holds no weights of a SmallVGG, such as features.conv1"
    ):
        study.train()


def test_fine_tuning__begins_as_the_teacher_but_for_the_last_layer(tmp_path, images):
    others = draw_images(tmp_path / "others", per_class=6)
    teacher = {"kind": "trained", "epochs": 1, "data": {"kind": "image-folder", "size": SIDE, **others}}
    study = open_study(
        tmp_path, images, networks={"layers": ["fc1"], "teacher": teacher}, losses=[{"kind": "fine-tuning"}]
    )
    study.train()
    run = study.measure()
    taught, begun = last_weights(study, "teacher"), record(study, "student-fine-tuning-s0").checkpoints[0]
    for name, weight in read_checkpoint(begun).items():  # both tell two classes, but not the same
        assert torch.equal(weight, taught[name]) == (not name.startswith(FC3)), name
    first = read_checkpoint(record(study, "baseline-s0").checkpoints[0])
    assert not torch.equal(first[f"{FC1}.weight"], taught[f"{FC1}.weight"])
    assert set(analysis.pair_networks(run)) == {"fc1"}
    # the teacher's accuracy is that on its own data
    network = Workshop(study).build(teacher=True)
    load_weights(network, taught)
    unseen = Workshop(study).as_tensors(study.plan.networks.teacher.data.load("held-out"))
    assert float(run.variable("teacher", FC1, "accuracy")[0]) == pytest.approx(evaluate(network, *unseen))


def test_saved_teacher__of_other_classes_has_no_accuracy(tmp_path, images):
    network = models.build("small_vgg", classes=5, input_size=SIDE, seed=3)
    save_file(network.state_dict(), tmp_path / "five.safetensors")
    teacher = {"kind": "checkpoint", "file": tmp_path / "five.safetensors", "classes": 5}
    study = open_study(
        tmp_path, images, networks={"layers": ["fc1"], "teacher": teacher}, losses=[{"kind": "fine-tuning"}]
    )
    study.train()
    run = study.measure()
    assert np.isnan(run.variable("teacher", FC1, "accuracy")).all()
    begun = read_checkpoint(record(study, "student-fine-tuning-s0").checkpoints[0])
    torch.testing.assert_close(begun[f"{FC1}.weight"], network.state_dict()[f"{FC1}.weight"], rtol=0, atol=0)
    assert begun[f"{FC3}.weight"].shape == (2, 128)


@pytest.mark.filterwarnings("ignore::kdviz.errors.KdvizWarning")  # of two outputs behind a ReLU one is dead
def test_logits__a_student_of_them_needs_no_head(tmp_path, images):
    study = open_study(
        tmp_path,
        images,
        layers=("fc3",),
        networks={"layers": ["fc3"]},
        training={"recipes": {"fc3": {"learning_rate": 1e-3}}},
    )
    study.train()
    run = study.measure()
    student = record(study, "student-fc3-s0")
    assert not (study.folder / "networks" / "student-fc3-s0" / "head").exists()
    told = run.variable("student-fc3-s0", FC3, "accuracy")
    np.testing.assert_allclose(told[1:], student.history["validation_accuracy"], rtol=1e-6)
    assert set(analysis.pair_networks(run)) == {"fc3"}
    assert run.dataset("student-fc3-s0", FC3).attrs["distilled_layer"] == FC3


def test_checkpoints__are_what_is_kept_and_measured(tmp_path, images):
    study = open_study(tmp_path, images, training={"epochs": 4, "checkpoints": (0, 1, 4)})
    study.train()
    run = study.measure()
    assert [*record(study, "baseline-s0").checkpoints] == [0, 1, 4]
    assert run.dataset("student-fc1-s0", FC1)["epoch"].values.tolist() == [0, 1, 4]
    distance = record(study, "baseline-s0").weight_distance(FC1)
    np.testing.assert_allclose(
        run.variable("baseline-s0", FC1, "weight_distance"), distance.sel(epoch=[0, 1, 4])
    )


def test_recipes__say_how_each_kind_of_network_is_trained(tmp_path, images):
    recipes = {
        "teacher": {"batch_size": 5},
        "baseline": {"learning_rate": 0.5, "augment": True},
        "student": {"learning_rate": (0.2, 0.1), "weight_decay": 0.0},
        "fc1": {"weight_decay": 0.3},
        "kl": {"optimiser": "adamw"},
        "head": {"momentum": 0.5},
    }
    losses = [{"kind": "features"}, {"kind": "kl"}, {"kind": "hint"}]
    workshop = Workshop(open_study(tmp_path, images, training={"recipes": recipes}, losses=losses))
    plans = {
        kind: workshop.training_plan(kind, 0) for kind in ("teacher", "baseline", "fc1", "kl", "hint", "head")
    }
    assert plans["teacher"].batch_size == 5 and plans["teacher"].epochs == 2
    assert plans["baseline"].learning_rate == 0.5 and plans["baseline"].augment
    assert plans["fc1"].learning_rate == (0.2, 0.1) and plans["fc1"].weight_decay == 0.3
    assert plans["kl"].optimiser == "adamw" and plans["kl"].learning_rate == (0.03, 0.003)
    assert plans["hint"].learning_rate == (0.03, 0.003) and not plans["hint"].augment  # that of a baseline
    assert plans["head"].momentum == 0.5


@pytest.mark.filterwarnings("default:.*begins anew")
def test_divergence__names_the_network_and_what_to_change(tmp_path, images):
    study = open_study(tmp_path, images, training={"recipes": {"fc1": {"learning_rate": 1e20}}})
    with pytest.raises(
        FloatingPointError,
        match=r"^student-fc1-s0: the loss became nan; tried at rates of 1e\+20 \(to epoch 2\), .*; lower "
        r"training.rate_factor, or its rate in training.recipes$",
    ):
        study.train()


def test_train__tells_accuracy_beside_chance_by_the_networks_names(tmp_path, images, capsys):
    Study(tmp_path, make_plan(images)).train()
    told = capsys.readouterr()
    lines = [line for line in told.out.splitlines() if "held-out" in line]
    assert [line.split()[0] for line in lines] == ["teacher", "baseline-s0", "student-fc1-s0"]
    assert all(re.search(r"  held-out accuracy \d\.\d\d \(chance 0\.50\)", line) for line in lines)
    for name in ("teacher", "baseline-s0", "student-fc1-s0", "student-fc1-s0 head"):
        assert f"train {name}:" in told.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("bag", "boots")}, "class of fashion-composites is 'boots'; allowed"),
        ({"classes": ("bag",)}, "must be several different ones"),
        ({"classes": ("bag", "bag")}, "must be several different ones"),
    ],
)
def test_fashion_composites__odd_classes_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        FashionComposites(**change)


def test_fashion_composites__some_classes_are_numbered_as_named():
    few = FashionComposites(classes=("bag", "dress")).load("held-out")
    whole = FashionComposites().load("held-out")
    assert few.classes == ("bag", "dress") and len(few) == 400
    named = dict(zip(whole.sample_ids, whole.labels, strict=True))
    assert all(
        FASHION_CLASSES[named[name]] == few.classes[label]
        for name, label in zip(few.sample_ids, few.labels, strict=True)
    )


def test_origin__is_told_apart_by_what_decides_a_training(images):
    def origins(**changes) -> dict[str, dict]:
        study = Study(Path("none"), make_plan(images, **changes), progress=False)
        return {one.name: study.origin(one) for one in study.subjects()}

    usual = origins()
    assert usual == origins(measurement={"samples": 3, "probes": 9})
    grown = origins(training={"seeds": (0, 1)})
    assert all(grown[name] == usual[name] for name in usual) and grown["baseline-s1"] != usual["baseline-s0"]
    for change in (
        {"training": {"epochs": 3}},
        {"training": {"count": 11}},
        {"networks": {"layers": ["fc1"], "architecture": "small_vgg_deep"}},
    ):
        other = origins(**change)
        assert (
            other["baseline-s0"] != usual["baseline-s0"]
            and other["student-fc1-s0"] != usual["student-fc1-s0"]
        )
    taught = origins(networks={"layers": ["fc1"], "teacher": {"kind": "trained", "epochs": 3}})
    assert (
        taught["baseline-s0"] == usual["baseline-s0"] and taught["student-fc1-s0"] != usual["student-fc1-s0"]
    )
    learned = origins(training={"recipes": {"fc1": {"weight_decay": 0.5}}})
    assert (
        learned["baseline-s0"] == usual["baseline-s0"]
        and learned["student-fc1-s0"] != usual["student-fc1-s0"]
    )
    assert learned["teacher"] == usual["teacher"]
