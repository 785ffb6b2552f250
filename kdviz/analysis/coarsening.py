"""Coarser grids from measured ones: gains of merged units add."""

import numpy as np
import xarray as xr

from kdviz.arguments import whole_number
from kdviz.schema import VARIABLES, annotate, validate

# Of what was measured or derived, all else belongs to the solution on the finer grid.
_KEPT = ("feature_variance", "method", "zero_gain", "weight_distance", "accuracy", "noise_unit")


def coarsen_grid(ds: xr.Dataset, factor: int) -> xr.Dataset:
    """Merge ``factor`` x ``factor`` cells of an image grid into one unit each, without the network.

    Noise of equal strength on several cells moves the feature by the sum of what it moves on each, as far
    as the gain describes it, so gains add.

    Parameters
    ----------
    ds
        A measured dataset: ``gain``, ``gain_error`` (epoch, sample, unit) and coordinates ``row``, ``col``
        (unit); optionally ``foreground``, ``void`` and ``valid`` (sample, unit).
    factor
        1 or more; must divide the rows and the columns.

    Returns
    -------
    Dataset
        On the coarser grid. A merged unit is void if more than half of its cells are, else foreground if at
        least half of the others are; and valid if all are. Gain errors add in quadrature, as if they were
        independent. What belongs to a solution on the finer grid (entropies, linearity, points) is left out:
        :func:`kdviz.derive_entropy` follows. Attribute ``coarsened``: cells a side of a merged unit, on the
        grid that was measured.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or is not on a grid.
    ValueError
        If `factor` does not divide the grid.

    Notes
    -----
    A coarser grid measured anew differs in three ways: the chance of its draws; the share of a curved
    response, which belongs to the finer cells; and its foreground, for which one pixel of a cell decides.
    """
    validate(ds, require=("gain", "gain_error", "row", "col"))
    rows, cols = int(ds["row"].max()) + 1, int(ds["col"].max()) + 1
    whole_number("factor", factor, 1)
    if rows % factor or cols % factor:
        raise ValueError(f"factor is {factor}, which does not divide the grid of {rows} x {cols} units")
    if factor == 1:
        return ds
    shape = (rows // factor, factor, cols // factor, factor)

    def merge(name: str) -> np.ndarray:
        """Put the cells of each merged unit on a last axis."""
        values = ds[name].values
        blocks = values.reshape(*values.shape[:-1], *shape)
        return np.moveaxis(blocks, -3, -2).reshape(*values.shape[:-1], shape[0] * shape[2], factor**2)

    row, col = np.divmod(np.arange(shape[0] * shape[2]), shape[2])
    solved = [name for name, spec in VARIABLES.items() if spec.part in ("measured", "derived")]
    stale = ({*solved, "quartile"} & {*ds.variables}) - {*_KEPT}
    coarse = ds.drop_vars(stale).drop_dims("unit")
    coarse = coarse.assign_coords(unit=np.arange(len(row)), row=("unit", row), col=("unit", col))
    if "unit_size" in ds:
        coarse["unit_size"] = ds["unit_size"].dims, merge("unit_size").sum(-1, dtype=np.int32)
    gain, error = merge("gain").astype(np.float64), merge("gain_error").astype(np.float64)
    coarse["gain"] = ds["gain"].dims, gain.sum(-1).astype(np.float32)
    coarse["gain_error"] = ds["gain"].dims, np.sqrt((error**2).sum(-1)).astype(np.float32)
    if "zero_gain" in coarse:
        coarse["zero_gain"] = ds["gain"].dims[:-1], (gain.sum(-1) == 0).sum(-1).astype(np.int32)
    if "foreground" in ds:
        void = merge("void").sum(-1) if "void" in ds else np.int64(0)
        most = 2 * void > factor**2
        coarse["foreground"] = (
            ds["foreground"].dims,
            ~most & (2 * merge("foreground").sum(-1) >= factor**2 - void),
        )
        if "void" in ds:
            coarse["void"] = ds["void"].dims, most
    if "valid" in ds:
        coarse["valid"] = ds["valid"].dims, merge("valid").all(-1)
    coarse.attrs["unit_kind"] = f"grid-{shape[0]}x{shape[2]}"
    coarse.attrs["coarsened"] = int(factor) * int(ds.attrs.get("coarsened", 1))
    return annotate(coarse)
