"""Weights of a training of four epochs."""

import pytest
from small_measurements import CHECKPOINTS, changed_cnn


@pytest.fixture
def states():
    return {epoch: changed_cnn(step).state_dict() for epoch, step in CHECKPOINTS.items()}
