"""One study of students by every loss: trained and measured from a plan, as any other student is."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from tiny_study import draw_images, make_plan

import kdviz
from kdviz import analysis, cli, distillation
from kdviz.studies import Study, StudyPlan
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord, weight_distance

KINDS = ("kl", "hint", "crd", "attention", "features", "soft-labels")
FC1 = "classifier.fc1"

# of two epochs on ten images, attention at these rates diverges
pytestmark = pytest.mark.filterwarnings("default:.*begins anew")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def study(images, tmp_path_factory):
    """Trained and measured by the command line; read only."""
    folder = tmp_path_factory.mktemp("kinds")
    plan = make_plan(images, losses=[{"kind": kind} for kind in KINDS])
    told = plan.as_json() | {"losses": [{"kind": kind} for kind in KINDS]}
    (folder / "plan.yaml").write_text(yaml.safe_dump(told))
    for command in (
        ["train", str(folder / "study"), "--plan", str(folder / "plan.yaml")],
        ["measure", str(folder / "study")],
    ):
        cli.app([*command, "--no-progress"], standalone_mode=False)
    return Study(folder / "study", StudyPlan.load(folder / "study"), progress=False)


def test_study__measures_students_of_every_loss_beside_each_other(study):
    run = kdviz.open_run(study.run_path)
    names = {kind: f"student-{kind}-s0" for kind in ("kl", "attention", "soft-labels")}
    names |= {kind: f"student-{kind}-fc1-s0" for kind in ("hint", "crd")}
    names["features"] = "student-fc1-s0"
    known = analysis.list_networks(run)
    assert {name: known[name].method for name in names.values()} == {
        name: kind for kind, name in names.items()
    }
    pairs = analysis.pair_networks(run)
    assert set(pairs) == {f"{kind} at fc1" for kind in KINDS}
    for kind, name in names.items():
        pair = pairs[f"{kind} at fc1"]
        assert pair.teacher is not None and set(pair.students) == set(pair.baselines) == {0}
        stored = run.dataset(name, FC1)
        found = kdviz.find_points(stored)["knowledge_point"]
        np.testing.assert_array_equal(pair.students[0]["knowledge_point"], found)
        assert stored["epoch"].values.tolist() == [0, 1, 2] and found.any()
        folder = study.folder / "networks" / name / ("features" if kind == "features" else "")
        record = TrainingRecord.open(folder)
        moved = weight_distance(record.checkpoints, layer=FC1, initial=record.checkpoints[0])
        assert (moved.values[1:] > 0).all() and (
            stored["weight_distance"][1:] >= moved[1:] * (1 - 1e-6)
        ).all()
        assert ("accuracy" in record.history) == (kind != "features")
    finals = [run.dataset(name, FC1)["gain"].isel(epoch=-1) for name in names.values()]
    starts = [run.dataset(name, FC1)["gain"].isel(epoch=0) for name in names.values()]
    assert all(np.array_equal(one, starts[0]) for one in starts), "all start alike"
    assert len({one.values.tobytes() for one in finals}) == len(KINDS), "and each learns otherwise"


def test_study__students_that_learn_labels_are_trained_as_the_baseline_is(study):
    plans = {}
    for name in (
        "baseline-s0",
        "student-hint-fc1-s0",
        "student-crd-fc1-s0",
        "student-kl-s0",
        "student-fc1-s0/features",
    ):
        record = study.folder / "networks" / name / "plan.json"
        plans[name] = yaml.safe_load(record.read_text())["plan"]["learning_rate"]
    assert plans.pop("student-fc1-s0/features") != plans["baseline-s0"]
    assert set(map(tuple, plans.values())) == {tuple(plans["baseline-s0"])}


def test_plan__says_which_layers_a_loss_reads(images):
    asked = [{"kind": "hint"}, {"kind": "hint", "layer": "conv", "weight": 5}, {"kind": "attention"}]
    plan = make_plan(images, losses=asked)
    assert [loss["layered"] for loss in plan.as_json()["losses"]] == [True, False, False]
    assert plan.as_json()["losses"][2]["layer"] == "conv"

    def make_losses(plan):
        workshop = Workshop(Study(Path("nowhere"), plan))
        students = [subject for subject in workshop.study.subjects() if subject.loss is not None]
        return {subject.name: workshop._make_loss(subject) for subject in students}

    losses = make_losses(plan)
    assert losses["student-hint-fc1-s0"].layers == (FC1, distillation.LOGITS)
    assert losses["student-hint-s0"].layers == ("features.conv4", distillation.LOGITS)
    assert losses["student-hint-s0"].weight == 5
    assert losses["student-attention-s0"].layers == ("features.conv4", distillation.LOGITS)
    several = {"kind": "attention", "layer": ["features.conv3", "conv"]}
    (loss,) = make_losses(make_plan(images, losses=[several])).values()
    assert loss.layers == ("features.conv3", "features.conv4", distillation.LOGITS)
    with pytest.raises(ValidationError, match="students of two losses 'attention' would have one name"):
        make_plan(images, losses=[{"kind": "attention"}, several])


@pytest.mark.parametrize(("data", "told"), [("movie-reviews", "texts"), ("furniture", "clouds")])
def test_plan__of_inputs_without_maps_refuses_losses_of_maps(data, told):
    asked = [{"kind": "kl"}, {"kind": "attention"}]
    with pytest.raises(ValidationError, match=f"attention compares maps .*, and this is a study of {told}"):
        StudyPlan.model_validate({"data": {"kind": data}, "losses": asked})
    others = [{"kind": kind} for kind in KINDS if kind != "attention"]
    assert len(StudyPlan.model_validate({"data": {"kind": data}, "losses": others}).losses) == len(others)


def test_plan__weighs_contrast_as_small_networks_bear_it(images):
    plan = make_plan(images, losses=[{"kind": "crd"}])
    assert plan.losses[0].options == {"weight": 0.1}
    assert make_plan(images, losses=[{"kind": "crd", "weight": 0.8}]).losses[0].options == {"weight": 0.8}
    before = {"kind": "crd", "layered": True, "head": False}
    assert make_plan(images, losses=[before]).losses[0].options == {}, "a stored plan stays as it is"


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ({"kind": "features", "layer": "fc1"}, ValidationError, "a student for each of networks.layers"),
        ({"kind": "kl", "temperature": 0}, ValidationError, "temperature must be a positive number"),
        ({"kind": "crd", "negatives": 9}, ValueError, "draws 9 negatives .* there are 5 samples"),
        ({"kind": "attention", "layer": "fc1"}, ValueError, r"layer 'classifier.fc1' gives \(128,\)"),
        (
            {"kind": "hint", "layer": "conv7"},
            ValidationError,
            "layer of the loss hint is 'conv7'; did you mean 'conv'",
        ),
        (
            {"kind": "attention", "layer": ["conv", "nosuch"]},
            ValidationError,
            "attention is 'nosuch'; allowed: conv, fc1, fc2, fc3, features, features.conv1, ",
        ),
        (
            {"kind": "crd", "layer": "fc1", "teacher_layer": "fc9"},
            ValidationError,
            "teacher_layer of the loss crd is 'fc9'",
        ),
    ],
)
def test_study__refuses_a_loss_before_a_teacher_is_trained(images, tmp_path, loss, error, message):
    with pytest.raises(error, match=message):
        Study(tmp_path / "study", make_plan(images, losses=[loss]), progress=False).train()
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("data", "layer"), [("movie-reviews", "encoder.encoder.layer.1"), ("furniture", "head.fc1")]
)
def test_plan__knows_the_modules_of_networks_of_texts_and_clouds(data, layer):
    for name, fits in ((layer, True), (f"{layer}x", False)):
        told = {"data": {"kind": data}, "losses": [{"kind": "hint", "layer": name}]}
        if fits:
            assert StudyPlan.model_validate(told).losses[0].options == {"layer": layer}
        else:
            with pytest.raises(ValidationError, match=f"did you mean .*'{layer}'"):
                StudyPlan.model_validate(told)
