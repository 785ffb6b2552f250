"""What nbval compares here: everything but pictures, and HTML, which holds random ids."""

import pytest


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leave HTML out of the comparison; a notebook's text and numbers stay in."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html",)
