"""A student and its baseline, of random numbers."""

import pytest
from made_networks import random_network

import kdviz.analysis as analysis


@pytest.fixture(scope="module")
def student():
    return analysis.find_points(random_network(1))
