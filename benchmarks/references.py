"""Long runs of the authors' procedure, stored beside this file for the accuracy benchmark to compare with.

``python -m benchmarks references`` makes what is missing: about an hour on one core.
"""

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from benchmarks import authors
from benchmarks.problems import CELLS, CHECKPOINTS, LAYERS, REFERENCES, load_images, load_network

IMAGES = 30
LONG_DRAWS = 288


def find_reference(checkpoint: str, layer: str) -> Path:
    """Name the file of one case."""
    return REFERENCES / f"{checkpoint}-{layer}.nc"


def make_references() -> None:
    """Make the references that are not there yet, one file a case."""
    for checkpoint in CHECKPOINTS:
        for layer in LAYERS:
            if not find_reference(checkpoint, layer).exists():
                make_reference(checkpoint, layer)


def make_reference(checkpoint: str, layer: str) -> None:
    """Run the procedure on every image: twice with the authors' draws and once with three times as many."""
    inputs, _, names = load_images(IMAGES)
    network = load_network(checkpoint)
    head = authors.cut_head(network, LAYERS[layer])
    unit = authors.share_cells(inputs.shape[-1], CELLS)
    runs = {"authors_a": authors.DRAWS, "authors_b": authors.DRAWS, "reference": LONG_DRAWS}
    maps: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for at, image in enumerate(tqdm(inputs, desc=f"{checkpoint} {layer}", unit="image")):
        for k, (name, draws) in enumerate(runs.items()):
            one = authors.descend(head, image, unit, seed=10 * at + k, draws=draws, to_the_end=False)
            maps[name].append((one.at_target if name == "reference" else one.kept).float().numpy())
    ds = xr.Dataset(
        {name: (("sample", "unit"), np.stack(values)) for name, values in maps.items()},
        coords={"sample": names},
        attrs={
            "units": "nat",
            "comment": "authors_*: 96 draws, step nearest to the target; reference: 288 draws, at the target",
            "torch_version": torch.__version__,
        },
    )
    encoding = {name: {"zlib": True} for name in runs}
    ds.to_netcdf(find_reference(checkpoint, layer), encoding=encoding)
