"""The comparison of student and baseline under other settings: what hangs on a choice, and what does not."""

from collections.abc import Mapping

import pandas as pd

from kdviz.analysis.pairs import compare_layers, pair_networks
from kdviz.analysis.settings import Settings
from kdviz.store import Run


def compare_settings(run: Run, settings: Mapping[str, Settings], *, layer: str) -> pd.DataFrame:
    """Compare student and baseline at one layer under several settings, as Table III of the papers does [1]_.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    settings
        ``{label: Settings}``.
    layer
        A layer with student and baseline, by the papers' name where the run records one.

    Returns
    -------
    DataFrame
        As from `compare_layers`, with the column ``setting`` in the order of `settings`.

    Raises
    ------
    ValueError
        If there are no settings, or the layer has no pair.

    References
    ----------
    .. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Table III.
    """
    if not settings:
        raise ValueError("settings is empty; name at least one")
    tables = [
        compare_layers(pair_networks(run, chosen, layers=[layer])).assign(setting=label)
        for label, chosen in settings.items()
    ]
    return pd.concat(tables, ignore_index=True)
