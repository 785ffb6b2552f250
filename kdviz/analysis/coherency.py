"""Which maps stayed while weights were rescaled without changing an output, as tables."""

import numpy as np
import pandas as pd

from kdviz.analysis.networks import read_room
from kdviz.schema import AUDITED
from kdviz.store import Run


def read_audits(run: Run) -> pd.DataFrame:
    """Read what ``kdviz coherency`` stored in a run.

    Returns
    -------
    DataFrame
        As :func:`kdviz.coherency.audit` gives them, of every ``network`` that could be rescaled; empty if
        there is none.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    tables = []
    for name, ds in read_room(run, "coherency").items():
        columns = {column: ds[f"audit_{column}"] for column in AUDITED if f"audit_{column}" in ds}
        if columns:
            table = pd.DataFrame({column: values.values for column, values in columns.items()})
            table.insert(0, "network", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["network", *AUDITED])


def list_refused(run: Run) -> dict[str, str]:
    """List the networks that ``kdviz coherency`` could not rescale, ``{name: why}``.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    room = read_room(run, "coherency")
    return {name: str(ds["audit_refused"].values) for name, ds in room.items() if "audit_refused" in ds}


def summarise_audits(audited: pd.DataFrame) -> pd.DataFrame:
    """Put all networks, pairs and layers together: one row for every method, kind of factor and place.

    Parameters
    ----------
    audited
        From :func:`kdviz.coherency.audit` or `read_audits`.

    Returns
    -------
    DataFrame
        Index ``method``, ``factor``, ``place``; ``compared``, how many maps were; ``moved``, how many of
        them did; lowest and highest ``ratio`` of any, lowest ``cosine``, ``rank_correlation`` and
        ``jaccard``, largest ``difference``.
    """
    return audited.groupby(["method", "factor", "place"], sort=False).agg(
        compared=("moved", "size"),
        moved=("moved", "sum"),
        ratio_low=("ratio", "min"),
        ratio_high=("ratio", "max"),
        cosine=("cosine", "min"),
        rank_correlation=("rank_correlation", "min"),
        difference=("difference", "max"),
        jaccard=("jaccard", "min") if "jaccard" in audited else ("moved", lambda _: np.nan),
    )
