"""Small networks measured into runs, by gain at least cost."""

from pathlib import Path
from typing import Any

import kdviz
from kdviz import testing, units
from kdviz.store import Run


def measure_small(
    store: Path,
    network: str,
    role: str,
    seed: int,
    *,
    images: int,
    epochs: tuple[int, ...] = (0, 1),
    **options: Any,
) -> Run:
    """Measure a small network at conv2 and fc1; those of other seeds and epochs have other weights."""
    kdviz.measure_checkpoints(
        testing.small_cnn,
        {epoch: testing.small_cnn(seed=seed + 2 * epoch).state_dict() for epoch in epochs},
        testing.random_images(images),
        network=network,
        role=role,
        layers=["conv2", "fc1"],
        units=units.grid(4),
        store=store,
        **{"method": "gain", "probes": 2, "draws": 2, "progress": False} | options,
    )
    return kdviz.open_run(store)
