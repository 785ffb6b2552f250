"""A teacher with a bias that was planted in it, and students that take over a share of it that is known.

A sample holds its object and, by some strength, a background, each as the place of a class: linear networks
answer by the background where its strength times their weight for backgrounds exceeds that for objects.
"""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import analysis, transfer
from kdviz.distillation import KL
from kdviz.training import CrossEntropy, TrainingPlan, train

CLASSES = 3
STRENGTHS = (0.5, 1.5, 3.0)  # of backgrounds: those of the last two are above 1, that of the last above 2
COUNTS = (8, 4, 8)  # of samples of each, in either group


class ByPlace(nn.Module):
    """Logits are those of the object plus `weight` times those of the background; linear."""

    def __init__(self, weight):
        super().__init__()
        both = torch.cat([torch.eye(CLASSES), weight * torch.eye(CLASSES)], 1)
        self.linear = nn.Linear(2 * CLASSES, CLASSES, bias=False)
        self.linear.weight.data = both

    def forward(self, inputs):
        return self.linear(inputs)


@pytest.fixture(scope="module")
def scenes():
    """Inputs (40, 6), classes of objects, and groups: half of them on a background of another class."""
    inputs, labels, groups = [], [], []
    for group, step in (("fitting", 0), ("foreign", 1)):
        for at, strength in enumerate(np.repeat(STRENGTHS, COUNTS)):
            one, label = torch.zeros(2, CLASSES), at % CLASSES
            one[0, label], one[1, (label + step) % CLASSES] = 1.0, float(strength)
            inputs.append(one.flatten())
            labels.append(label)
            groups.append(group)
    return torch.stack(inputs), np.array(labels), groups


def shares(table, column):
    """Return ``{network: {group: value}}``."""
    return {
        name: dict(zip(rows["part"], rows[column], strict=True)) for name, rows in table.groupby("network")
    }


def test_bias__that_a_student_takes_over_by_two_thirds_is_told_so(scenes):
    inputs, labels, groups = scenes
    networks = {"teacher": ByPlace(1.0), "alone": ByPlace(0.0), "student": ByPlace(0.5)}
    asked = {"teacher": "teacher", "independent": "alone", "progress": False}
    wrong = {"teacher": 12 / 20, "student": 8 / 20, "alone": 0.0}  # of backgrounds that win

    ds = transfer.bias(networks, inputs, labels, group=groups, **asked)
    right = ds["right"].groupby("group").mean()
    table = analysis.score_transfer([ds])
    table = table[table["property"] == "bias"]
    score, margin = shares(table, "score"), shares(table, "margin")
    for name, share in wrong.items():
        assert right.sel(network=name, group="foreign").item() == pytest.approx(1 - share)
        assert score[name] == pytest.approx({"fitting": 1.0, "foreign": 1 - share})
        if name != "alone":
            assert margin[name] == pytest.approx({"fitting": 0.0, "foreign": -share})
    assert margin["student"]["foreign"] / margin["teacher"]["foreign"] == pytest.approx(2 / 3)

    ds = transfer.consensus(networks, inputs, labels, domain=groups, **asked)
    table = analysis.score_transfer([ds])
    table = table[table["property"] == "consensus"]
    score, margin = shares(table, "score"), shares(table, "margin")
    assert score["alone"] == pytest.approx({"fitting": 1.0, "foreign": 8 / 20})
    assert score["student"] == pytest.approx({"fitting": 1.0, "foreign": 16 / 20})
    assert margin["student"] == pytest.approx({"fitting": 0.0, "foreign": 8 / 20})
    assert margin["teacher"] == pytest.approx({"fitting": 0.0, "foreign": 12 / 20})
    told = ds["same_answer"].sel(network="student").values
    assert np.flatnonzero(~told.astype(bool)).tolist() == [28, 29, 30, 31], "strength 1.5, foreign"


# -- learned


def linear(*weights):
    """Two classes, whose logits differ by `weights` times object and background; float64."""
    network = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    half = torch.tensor(weights, dtype=torch.float64) / 2
    network.weight.data = torch.stack([-half, half])
    return network


def test_bias__that_a_student_learns_from_answers_is_all_of_the_teachers(tmp_path):
    """A linear student with the teacher's softened answers on samples of full rank ends at its weights.

    There no sample pulls, so that small batches lead to the same. One that learns the labels of objects, all
    on all backgrounds, learns none of these: as many samples pull its weight either way.
    """
    backgrounds = [sign * strength for strength in (0.5, 1.0, 2.0, 3.0) for sign in (-1, 1)]
    inputs = torch.tensor([(o, b) for o in (-1.0, 1.0) for b in backgrounds], dtype=torch.float64)
    labels = (inputs[:, 0] > 0).long()
    teacher = linear(1.2, 0.8)
    networks = {"teacher": teacher, "alone": linear(0.0, 0.0), "student": linear(0.0, 0.0)}
    taught = {"loss": KL(temperature=2.0, class_weight=0.0, weight=1.0), "teacher": teacher}
    shared = {"learning_rate": 1.0, "momentum": 0.5, "weight_decay": 0.0, "checkpoints": (0, 10)}
    for name, batch, more in (("alone", 640, {"loss": CrossEntropy()}), ("student", 16, taught)):
        plan = TrainingPlan(epochs=10, batch_size=batch, **shared)
        repeated = inputs.repeat(40, 1), labels.repeat(40)
        train(networks[name], *repeated, folder=tmp_path / name, plan=plan, progress=False, **more)
    learned = {name: network.weight.detach().numpy() for name, network in networks.items()}
    np.testing.assert_allclose(learned["student"], learned["teacher"], rtol=1e-9)
    np.testing.assert_allclose(learned["alone"][:, 1], 0, atol=1e-12)
    assert learned["alone"][1, 0] > 1

    group = np.where((inputs[:, 0] > 0) == (inputs[:, 1] > 0), "fitting", "foreign").tolist()
    ds = transfer.bias(
        networks, inputs, labels, group=group, teacher="teacher", independent="alone", progress=False
    )
    shares = ds["right"].groupby("group").mean()
    wins = 4 / 8  # 0.8 times 2 and 3 is more than 1.2
    np.testing.assert_array_equal(shares.sel(group="foreign"), [1 - wins, 1, 1 - wins])
    np.testing.assert_array_equal(shares.sel(group="fitting"), 1)
    np.testing.assert_array_equal(ds["same_answer"].mean("sample"), [1, 1 - wins / 2, 1])
