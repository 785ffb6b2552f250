"""What all networks of a run share: epochs, samples, units and masks."""

import json

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdviz.schema.variables import EPOCH, SAMPLE, SAMPLE_UNIT, UNIT, Variable, register

register(
    Variable("epoch", EPOCH, "int64", "completed training epochs", "epoch", "0 is before training"),
    Variable("sample", SAMPLE, "str", "sample identifier", comment="stable name, never a position"),
    Variable("unit", UNIT, "int64", "input unit", comment="0 to U-1: grid cell, token or point"),
    Variable("label", SAMPLE, "int64", "class of the sample"),
    Variable("split", SAMPLE, "str", "partition the sample belongs to"),
    Variable("row", UNIT, "int64", "row of the grid cell", comment="0 is the top; images only"),
    Variable("col", UNIT, "int64", "column of the grid cell", comment="0 is the left; images only"),
    Variable("token", SAMPLE_UNIT, "str", "word as shown", comment="text only"),
    Variable("x", SAMPLE_UNIT, "float32", "normalised x position", "1", "point clouds only"),
    Variable("y", SAMPLE_UNIT, "float32", "normalised y position", "1", "point clouds only"),
    Variable("z", SAMPLE_UNIT, "float32", "normalised z position", "1", "point clouds only"),
    Variable("valid", SAMPLE_UNIT, "bool", "unit exists", comment="False where padded"),
    Variable(
        "unit_size",
        SAMPLE_UNIT,
        "int32",
        "parts of the unit",
        comment="pieces of a word, values of a part of an image; only where they differ",
    ),
    Variable("foreground", SAMPLE_UNIT, "bool", "unit is annotated as foreground"),
    Variable(
        "void",
        SAMPLE_UNIT,
        "bool",
        "unit is annotated as neither object nor background",
        comment="only where some unit is",
    ),
    Variable(
        "thumbnail",
        ("sample", "y_pixel", "x_pixel", "channel"),
        "uint8",
        "small picture of the sample",
        comment="RGB or grey, 0 to 255; for viewing without the data",
    ),
)


def choose_epochs(epochs: int) -> tuple[int, ...]:
    """Choose the epochs to measure of a training: every one of the first half, every second later, the last.

    Networks learn most at first. Those that are to be compared need the same epochs.

    Examples
    --------
    >>> choose_epochs(7)
    (0, 1, 2, 3, 5, 7)
    """
    half = epochs // 2
    return (*range(half + 1), *range(half + 2, epochs, 2), epochs)


def read_classes(samples: xr.Dataset) -> list[str]:
    """Return the names of the classes 0, 1, ... of samples, as told later, or by their study; else none."""
    told = samples["label"].attrs.get("classes") if "label" in samples.variables else None
    return (
        json.loads(samples.attrs.get("config", "{}")).get("classes", []) if told is None else json.loads(told)
    )


def read_sides(ds: xr.Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which units are foreground and which are background, (sample, unit) each.

    Void units, and those that only pad a sample, are on neither side; without masks all are on none.
    """
    none = np.zeros((ds.sizes["sample"], ds.sizes["unit"]), bool)
    foreground, void = (ds[name].values if name in ds else none for name in ("foreground", "void"))
    valid = ds["valid"].values if "valid" in ds else ~none
    return foreground, valid & ~foreground & ~void if "foreground" in ds else none
