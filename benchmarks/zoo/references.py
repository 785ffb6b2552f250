"""Runs of the authors' procedure on every case of the zoo, stored one file a case.

``python -m benchmarks references --zoo`` makes what is missing and goes on where it stopped.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks import authors
from benchmarks.zoo.cases import Case, load_case
from benchmarks.zoo.networks import KEPT, ZOO

SAMPLES = 3
RUNS = 8  # of 96 draws each: their mean has a third of the chance of one
LONGEST = 200  # steps until the target; the weight does not grow on the way


def make_references(
    networks: Iterable[str] = ZOO,
    samples: int = SAMPLES,
    folder: Path = KEPT,
    *,
    where: Iterable[str] | None = None,
) -> None:
    """Make the references that are not there yet, network by network."""
    torch.set_num_threads(1)
    for network in networks:
        for layer in ZOO[network].layers if where is None else where:
            case = load_case(network, layer, samples)
            for at in tqdm(range(samples), desc=case.name, unit="sample"):
                if len(read_reference(case, folder)) <= at:
                    _store(case, at, folder)


def find_reference(case: Case, folder: Path = KEPT) -> Path:
    """Name the file of one case."""
    return folder / f"{case.network}-{case.where}.nc"


def read_reference(case: Case, folder: Path = KEPT) -> NDArray[np.float64]:
    """Return all runs on the samples that have them, ``(samples, RUNS, units)``, NaN beyond a sample's units.

    None where the file is missing or was made with other weights, and none from the first other sample on.
    """
    path = find_reference(case, folder)
    if path.exists():
        with xr.open_dataset(path) as stored:
            if stored.attrs["fingerprint"] == case.fingerprint:
                same = [one == other for one, other in zip(stored["sample"].values, case.names, strict=False)]
                return stored["entropy"].values.astype(float)[: [*same, False].index(False)]
    return np.empty((0, RUNS, 0))


def _store(case: Case, at: int, folder: Path) -> None:
    runs = [
        authors.descend(
            case.heads[at],
            case.samples[at],
            case.units[at],
            seed=10 * at + k,
            to_the_end=False,
            steps=LONGEST,
            patience=LONGEST,
            **case.descent,
        )
        for k in range(RUNS)
    ]
    new = np.stack([run.at_target.numpy() for run in runs])[None]
    old = read_reference(case, folder)
    wide = max(old.shape[2], new.shape[2])
    padded = [
        np.pad(one, ((0, 0), (0, 0), (0, wide - one.shape[2])), constant_values=np.nan) for one in (old, new)
    ]
    values = np.concatenate(padded).astype(np.float32)
    ds = xr.Dataset(
        {"entropy": (("sample", "run", "unit"), values)},
        coords={"sample": case.names[: len(values)]},
        attrs={
            "units": "nat",
            "comment": "entropies of runs of the authors' procedure, 96 draws each, at the target",
            "fingerprint": case.fingerprint,
            "torch_version": str(torch.__version__),
        },
    )
    path = find_reference(case, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    ds.to_netcdf(part, encoding={"entropy": {"zlib": True}})
    part.replace(path)
