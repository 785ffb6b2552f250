"""One thread, so that sums are taken in one order; a fixed start for whatever is drawn globally."""

import os

import numpy as np
import pytest
import torch
from tiny_study import finished_study

from kdviz.studies import Study

torch.set_num_threads(1)

collect_ignore_glob = ["*conftest.py"]  # no doctests: those of several folders have one name


def pytest_configure(config: pytest.Config) -> None:
    """Tame dcor: workers that share what it compiles load halves, and torch takes over its threads."""
    assert config.cache is not None
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    os.environ["NUMBA_CACHE_DIR"] = str(config.cache.mkdir(f"numba-{worker}"))
    os.environ["NUMBA_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def fixed_random_state():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries that draw from the legacy state)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The tiny study, finished; read it, copy it, never write to it."""
    return finished_study(tmp_path_factory)
