"""Measured networks made up of numbers."""

import numpy as np
import xarray as xr

MAP = ("epoch", "sample", "unit")


def make(entropy, foreground, *, epochs=None, valid=None, error=None, distance=None, **attrs):
    entropy = np.asarray(entropy, dtype=np.float32)
    ds = xr.Dataset(
        {"entropy": (MAP, entropy), "foreground": (("sample", "unit"), np.asarray(foreground, bool))},
        coords={
            "epoch": np.arange(len(entropy)) if epochs is None else epochs,
            "sample": [f"s{i}" for i in range(entropy.shape[1])],
            "unit": np.arange(entropy.shape[2]),
        },
        attrs=attrs,
    )
    ds = ds.assign_coords(label=("sample", np.arange(entropy.shape[1])))
    if valid is not None:
        ds["valid"] = (("sample", "unit"), np.asarray(valid, bool))
    if error is not None:
        ds["entropy_error"] = (MAP, np.broadcast_to(error, entropy.shape).astype(np.float32))
    if distance is not None:
        ds["weight_distance"] = ("epoch", np.asarray(distance, np.float32), {"definition": "per step"})
    return ds


def from_rows(rows, *, background=2, **options):
    """One text per checkpoint, one word per sample; "1" is a foreground point; background units never are.

    Entropy is -2.5 nat on the background, -3 at points and -2.5 at other foreground units.
    """
    foreground = np.array([[[c == "1" for c in text] for text in row.split()] for row in rows])
    entropy = np.concatenate(
        [np.where(foreground, -3.0, -2.5), np.full((*foreground.shape[:2], background), -2.5)], axis=-1
    )
    mask = np.zeros(entropy.shape[1:], bool)
    mask[:, : foreground.shape[2]] = True
    return make(entropy, mask, **options)


def random_network(seed, *, epochs=(0, 2, 5, 10), n_samples=8, n_units=16, drift=0.3, error=0.02, **attrs):
    masks = np.random.default_rng(99)
    valid = masks.random((n_samples, n_units)) < 0.9
    foreground = valid & (masks.random((n_samples, n_units)) < 0.5)
    shape = (len(epochs), n_samples, n_units)
    growth = np.linspace(0, drift, len(epochs))[:, None, None] * foreground
    entropy = -2.8 + 0.2 * np.random.default_rng(seed).standard_normal(shape) - growth
    return make(
        np.where(valid, entropy, np.nan),
        foreground,
        epochs=list(epochs),
        valid=valid,
        error=error,
        distance=np.linspace(0, 2, len(epochs)),
        **attrs,
    )


def derived(ds, **settings):
    """The dataset as if its entropies had been derived with `settings` from a measurement with others."""
    measured = {"solver": "descent", "weight": 6.0, "calibration": 0.386}
    ds = ds.assign_attrs(measured)
    return ds.assign(entropy=ds["entropy"].assign_attrs({"extrapolated": 1, **settings}))
