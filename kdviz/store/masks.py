"""Masks for a run that was measured without."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from kdviz import schema
from kdviz.errors import StoreError
from kdviz.files import file_errors
from kdviz.store.files import storable
from kdviz.store.layout import write_array
from kdviz.store.replacing import replace_folder
from kdviz.store.run import Run, open_run
from kdviz.units import Units, grid


def add_masks(run: Run | str | Path, foreground: ArrayLike, *, units: Units | None = None) -> Run:
    """Add the masks of the objects to a run that was measured without them; nothing is measured again.

    Points and counts then appear wherever the run is read. Masks that are there stay: the same are taken as
    added already, so that a call that was stopped can be repeated, and others are refused.

    Parameters
    ----------
    run
        Run directory, open or as a path.
    foreground
        Masks of units ``(B, U)``, or of images pixels ``(B, H, W)``, in the order of the run's samples;
        values as :func:`kdviz.units.read_mask` takes them.
    units
        Needed for masks in pixels where the units are not cells of a grid: those that were measured.

    Returns
    -------
    Run
        The run, opened anew.

    Raises
    ------
    ValueError
        If the masks have another shape, or values of no known kind.
    StoreError
        If the run holds other masks, is an exported file, or is being written by another process.

    Warns
    -----
    DegenerateWarning
        If samples have no unit on one of the sides.
    """
    run = open_run(run.path if isinstance(run, Run) else run)
    samples, count = run.samples, run.samples.sizes["unit"]
    if units is None and "row" in samples.variables:
        units = grid(int(samples["row"].max()) + 1, int(samples["col"].max()) + 1)
    if units is None and np.ndim(foreground) != 2:
        raise ValueError(
            f"foreground has shape {np.shape(foreground)}; allowed: {samples['valid'].shape}, one flag "
            "a unit; for pixels also pass units, as they were measured"
        )
    masks = (units or grid(1, count)).place_masks(foreground, samples["valid"].values)
    asked = samples.drop_vars(["foreground", "void"], errors="ignore").assign(masks)
    schema.validate(asked)
    if "foreground" in samples:
        if not np.array_equal(schema.read_sides(samples), schema.read_sides(asked)):
            raise StoreError(f"{run.path} holds other masks; measure these into another run")
        return run
    with run.writing(), file_errors(f"cannot write {run.path}"):
        for name in ("void", "foreground"):  # void by itself says nothing, so that the last one counts
            if name in masks:
                write_array(run._pending, storable(asked[[name]])[name])
                replace_folder(run._pending, run.path / "points" / name)
    return open_run(run.path)
