"""From what properties say of every sample to one table: how far networks are the teacher's."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import bdtrc, stdtrit

from kdviz.analysis.knowledge import count_points
from kdviz.analysis.networks import list_networks, name_kind, name_layers, read_room
from kdviz.analysis.settings import Settings, apply_settings
from kdviz.schema import build, read_sides, validate
from kdviz.store import Run

_CASES = ("sample", "triplet", "batch")  # over which means are taken: one of them is a dimension
_GROUPS = ("domain", "group")  # coordinates of samples, each value a row of its own
_LEVEL = 0.01  # of the test that the teacher does not guess
_SURE = 0.9  # of samples on which it is right, however few they are


def read_transfer(run: Run) -> dict[str, xr.Dataset]:
    """Load the properties that a run keeps, ``{property: Dataset}``, in the order in which they are shown.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    found = read_room(run, "transfer")
    return dict(sorted(found.items(), key=lambda item: item[1].attrs.get("position", len(found))))


def collect_points(run: Run, answers: xr.Dataset, settings: Settings | None = None) -> dict[str, xr.Dataset]:
    """Count the knowledge points of networks that were asked for properties, to stand beside these.

    Parameters
    ----------
    run
        Where the networks are measured, whole.
    answers
        A result of :mod:`kdviz.transfer` of the same networks, which names them and their roles.
    settings
        How points follow from gains, as in :func:`kdviz.analysis.pair_networks`.

    Returns
    -------
    dict
        ``{layer: Dataset}`` for every layer at which all networks are measured, empty if there is none.
        ``points_share`` ``(side, network, sample)``, the headline: the share of a sample's foreground and of
        its background units that are knowledge points after the last epoch, and the foreground ratio, Eq. (7)
        of Zhang et al., TPAMI 2022; NaN where a sample has no such units, or no points.
        :func:`score_transfer` takes them.

    Raises
    ------
    StoreError, SchemaError
        If the run is damaged or unfinished.
    """
    validate(answers, require=("network", "role"))
    chosen = (Settings() if settings is None else settings).of_run(run)
    names = [str(name) for name in answers["network"].values]
    layers, found = {name: one.layers for name, one in list_networks(run).items() if name in names}, {}
    for label in name_layers(run):
        if not all(label in layers.get(name, ()) for name in names):
            continue
        shares = [
            _share_points(apply_settings(run.dataset(name, layers[name][label]), chosen)) for name in names
        ]
        found[label] = build(
            {"points_share": xr.concat(shares, "network").transpose("side", "network", "sample").values},
            coords={
                "side": shares[0]["side"].values.tolist(),
                "network": names,
                "role": answers["role"].values.tolist(),
                "sample": shares[0]["sample"].values,
            },
            attrs={
                "property": f"points/{label}",
                "title": f"points at {label}:",
                "headline": "points_share",
                "own": 1,
                "teacher": str(answers.attrs["teacher"]),
            },
        )
    return found


def _share_points(ds: xr.Dataset) -> xr.DataArray:
    """Return the shares of the last epoch, ``(side, sample)``."""
    counts = count_points(ds).isel(epoch=-1)
    foreground, background = (side.sum(-1) for side in read_sides(ds))
    sides = {
        "foreground": counts["n_fg"] / np.where(foreground, foreground, np.nan),
        "background": counts["n_bg"] / np.where(background, background, np.nan),
        "ratio": counts["fg_ratio"],
    }
    return xr.concat(sides.values(), pd.Index(sides, name="side"))


def score_transfer(results: Iterable[xr.Dataset], *, confidence: float = 0.95) -> pd.DataFrame:
    """Compare every network with the independent ones, property by property.

    Parameters
    ----------
    results
        Of :mod:`kdviz.transfer`, all of the same networks, with an independent one among them.
    confidence
        Of the intervals.

    Returns
    -------
    DataFrame
        A row for every ``property`` (with its ``title``, and ``own``, whether it is one that each network
        has, the teacher too, such as accuracy), every ``part`` of it (a domain, group or kind of change;
        empty where there is one), and every ``network`` with its ``role`` and ``kind``, the name without its
        seed (``-s0``, ``-seed0`` or ``-0``). ``score``: mean of the property's headline over its cases
        (samples, triplets or batches). ``margin``: the score less that of the independent networks, their
        mean; of an independent network, less that of the others; against the attribute ``chance`` where the
        headline compares already. Where a property is not ``own``, the margin says how much more like the
        teacher a network is. ``margin_low`` and ``margin_high``: its interval by Student's t, networks paired
        case by case. ``cases``: how many are defined. What is undefined, such as an interval of fewer than
        two cases, is NaN.

    Raises
    ------
    SchemaError
        If a result breaks the contract.
    ValueError
        If a result is none of a property, of other networks, or no network is independent.
    """
    rows: list[dict[str, object]] = []
    known: list[str] | None = None
    for ds in _with_accuracy(results):
        names = ds["network"].values.tolist()
        alone = np.flatnonzero(ds["role"].values == "independent")
        if known not in (None, names):
            raise ValueError(f"results must be of the same networks, got {known} and {names}")
        if not len(alone):
            raise ValueError("results must have an independent network: margins are over what such share")
        known = names
        for part, values in _list_parts(ds):
            score, pull, cases = _average(values)
            for at, name in enumerate(map(str, names)):
                others = alone[alone != at]
                reference, its_pull = score[others].mean() if len(others) else np.nan, pull[others].sum(0)
                fewest = min(cases[[at, *others]])
                if "chance" in ds.attrs:
                    reference, its_pull, fewest = float(ds.attrs["chance"]), 0.0, cases[at]
                margin, width = score[at] - reference, np.nan
                if fewest > 1:
                    error = np.square(pull[at] - its_pull / max(len(others), 1)).sum() * fewest / (fewest - 1)
                    width = stdtrit(fewest - 1, (1 + confidence) / 2) * np.sqrt(error)
                rows.append(
                    {
                        "property": str(ds.attrs["property"]),
                        "title": str(ds.attrs.get("title", ds.attrs["property"])),
                        "own": bool(ds.attrs.get("own", False)),
                        "part": part,
                        "network": name,
                        "kind": name_kind(name),
                        "role": str(ds["role"].values[at]),
                        "score": score[at],
                        "margin": margin,
                        "margin_low": margin - width,
                        "margin_high": margin + width,
                        "cases": cases[at],
                    }
                )
    return pd.DataFrame(rows)


def find_undertrained(ds: xr.Dataset, least: float | None = None) -> dict[str, float]:
    """Find the networks whose accuracy is too low for what they share with the teacher to say much.

    Parameters
    ----------
    ds
        The result of :func:`kdviz.transfer.confidence`.
    least
        Share of right answers, 0 to 1; by default half-way from the share of the most frequent class to the
        teacher's accuracy.

    Returns
    -------
    dict
        ``{network: accuracy}``; by default of none where the teacher may be guessing, see `doubt_teacher`: it
        sets no mark to come near.
    """
    validate(ds, require=("right", "label"))
    accuracy = ds["right"].mean("sample")
    if least is None:
        guessed = np.bincount(ds["label"].values).max() / ds.sizes["sample"]
        mark = float(accuracy.sel(network=ds.attrs["teacher"]))
        if mark <= guessed or doubt_teacher(ds):
            return {}
        least = (guessed + mark) / 2
    return {str(one["network"].values): float(one) for one in accuracy if one < least}


def doubt_teacher(ds: xr.Dataset) -> str:
    """Say that a teacher may be guessing, as one does that goes by what these samples do not have.

    Parameters
    ----------
    ds
        The result of :func:`kdviz.transfer.confidence`.

    Returns
    -------
    str
        Empty if it is right on nine samples in ten, or on more than the most frequent class would be, by a
        binomial test at the level of 0.01.
    """
    validate(ds, require=("right", "label"))
    right, count = ds["right"].sel(network=ds.attrs["teacher"]).values, ds.sizes["sample"]
    guessed = np.bincount(ds["label"].values).max() / count
    if right.mean() >= _SURE or bdtrc(int(right.sum()) - 1, count, guessed) <= _LEVEL:
        return ""
    return (
        f"the teacher {ds.attrs['teacher']!r} is right on {right.sum()} of the {count} samples that it was "
        "asked about, no more than who guesses the most frequent class: likeness to it may be chance"
    )


def _with_accuracy(results: Iterable[xr.Dataset]) -> Iterator[xr.Dataset]:
    """Check results, and put accuracy, a property of its own, before the confidence that it is told by."""
    for ds in results:
        validate(ds)
        if "headline" not in ds.attrs:
            raise ValueError("results must be datasets of kdviz.transfer, one lacks the attribute 'headline'")
        if ds.attrs["property"] == "confidence":
            yield ds.assign_attrs(property="accuracy", title="accuracy", own=1, headline="right")
        yield ds


def _list_parts(ds: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the headline of every part, ``(network, case)``, as float64."""
    values = ds[str(ds.attrs["headline"])].astype(np.float64)
    (case,) = (name for name in _CASES if name in values.dims)
    if "level" in values.dims:  # at strength 0 nothing is changed
        values = values.where(ds["strength"] > 0).mean("level")
    others = [str(name) for name in values.dims if name not in ("network", case)]
    if others:
        for part in values[others[0]].values:
            yield str(part), values.sel({others[0]: part}).transpose("network", case).values
        return
    groups = next((values[name] for name in _GROUPS if name in values.coords), None)
    array = values.transpose("network", case).values
    if groups is None or len(names := list(dict.fromkeys(groups.values.tolist()))) == 1:
        yield "", array
        return
    for name in names:
        yield str(name), array[:, (groups == name).values]


def _average(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over the defined cases, how much each case pulls it, 0 if undefined, and their number.

    Pulls of two networks are subtracted case by case, and their sum of squares is the variance of the
    difference of the means, whether the same cases are defined or not.
    """
    defined = ~np.isnan(values)
    cases = defined.sum(1)
    mean = np.divide(
        np.where(defined, values, 0).sum(1), cases, out=np.full(len(values), np.nan), where=cases > 0
    )
    pull = np.where(defined, values - mean[:, None], 0) / np.maximum(cases, 1)[:, None]
    return mean, pull, cases
