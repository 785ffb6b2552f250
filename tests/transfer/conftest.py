"""Networks whose answers stand in a table, so that every share is known by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kdviz.transfer import question


class Table(nn.Module):
    """Gives the class that a table holds for the sample, whose number is its first value."""

    def __init__(self, answers, classes=3, sure=4.0):
        super().__init__()
        self.register_buffer("answers", torch.as_tensor(answers))
        self.classes, self.sure = classes, sure

    def forward(self, inputs):
        rows = inputs.flatten(1)[:, 0].round().long()
        return self.sure * nn.functional.one_hot(self.answers[rows], self.classes).float()


@pytest.fixture
def numbered():
    """Eight samples that hold their own number."""
    return torch.arange(8.0)[:, None].repeat(1, 4)


@pytest.fixture
def tables():
    return {
        "teacher": Table([0, 1, 2, 0, 1, 2, 0, 0]),
        "alone": Table([0, 1, 2, 0, 2, 1, 1, 1]),
        "student": Table([0, 1, 2, 0, 1, 2, 1, 0]),
    }


@pytest.fixture
def labels():
    return np.array([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture
def copied(monkeypatch):
    """Networks are copied, as to a device where they are not; the copies by their id."""
    made = {}

    def copy_network(network, device=None, **_):
        other = copy.deepcopy(network)
        made[id(other)] = other
        return other

    monkeypatch.setattr(question, "prepare_network", copy_network)
    return made
