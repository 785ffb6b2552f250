"""What students have beside their baselines, as tables and as maps like those of attribution."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.networks import name_kind
from kdviz.schema import build, validate

SIDES = ("distilled", "residual")


def as_attributions(ds: xr.Dataset, *, layer: str | None = None) -> xr.Dataset:
    """Turn what :func:`kdviz.unicam.explain` returns into attribution maps of two methods.

    So they are scored by `score_attributions`, drawn by :func:`kdviz.render.plot_maps` and laid over samples.

    Parameters
    ----------
    ds
        With ``distilled`` and ``residual``.
    layer
        One of its layers; by default the last.

    Returns
    -------
    Dataset
        ``attribution`` ``(attribution_method, epoch, sample, unit)``, of the methods ``"distilled"`` and
        ``"residual"``, and what `ds` says of samples and units.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract.
    KeyError
        If there is no such layer.
    """
    validate(ds, require=SIDES)
    one = ds.isel(layer=-1) if layer is None else ds.sel(layer=layer)
    maps = np.stack([one[side].transpose("epoch", "sample", "unit").values for side in SIDES])
    about = {name: values for name, values in one.coords.items() if name not in ("layer", "base_layer")}
    return build(
        {**{name: one[name] for name in ("foreground", "void", "valid") if name in one}, "attribution": maps},
        coords={**about, "attribution_method": list(SIDES)},
        attrs={**ds.attrs, "layer": str(one["layer"].values)},
    )


def tabulate_relevance(results: Iterable[xr.Dataset]) -> pd.DataFrame:
    """Put the scores of several students into one table.

    Parameters
    ----------
    results
        Of :func:`kdviz.unicam.score`, a student each, of one epoch or more.

    Returns
    -------
    DataFrame
        A row for every ``student`` (with its ``kind``, the name without its seed, and ``base``), ``layer``,
        ``epoch``, ``input`` and ``score``: ``"rs student"``, ``"rs base"`` and, if there is one,
        ``"rs teacher"``; ``"rs distilled"`` and ``"rs residual"``, of what student and base have apart;
        ``"fss student-base"`` and, with a teacher, ``"fss student-teacher"`` and ``"fss base-teacher"``;
        ``"rs ahead"``, distilled less residual, and ``"fss ahead"``, student-teacher less base-teacher,
        of results that have them.
        ``value`` with ``value_low`` and ``value_high``, its interval.

    Raises
    ------
    SchemaError
        If a result breaks the data contract.
    """
    tables = []
    for ds in results:
        validate(ds, require=("rs", "rs_distilled", "rs_residual", "fss"))
        roles = {str(ds.attrs[role]): role for role in ("student", "base", "teacher") if role in ds.attrs}
        columns = {}
        for end in ("", "_low", "_high"):
            known = {
                f"rs {roles[str(one)]}": ds[f"rs{end}"].sel(network=one, drop=True)
                for one in ds["network"].values
            }
            known |= {f"rs {side}": ds[f"rs_{side}{end}"] for side in SIDES}
            known |= {f"fss {pair}": ds[f"fss{end}"].sel(pair=pair, drop=True) for pair in ds["pair"].values}
            ahead = [f"{kind}_ahead" for kind in ("rs", "fss") if f"{kind}_ahead" in ds]
            known |= {name.replace("_", " "): ds[f"{name}{end}"] for name in ahead}
            columns[f"value{end}"] = xr.Dataset(known).to_array("score")
        rows = xr.Dataset(columns).drop_vars("base_layer").to_dataframe().reset_index()
        student = str(ds.attrs["student"])
        rows.insert(0, "student", student)
        rows.insert(1, "kind", name_kind(student))
        rows.insert(2, "base", str(ds.attrs["base"]))
        tables.append(rows)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
