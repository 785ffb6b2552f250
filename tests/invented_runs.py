"""Stored runs with invented gains and known knowledge points, for trying how words and clouds are shown."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdviz import schema
from kdviz.store import Run, create_run

TEXTS = (
    "a deliciously nonsensical comedy about a city coming apart at its seams .",
    "too slick and <b>manufactured</b> to claim street credibility",
    "it 's a charming and often affecting journey , & never dull .",
    "unflinchingly bleak and desperate",
    "superb",
)


@dataclass(frozen=True)
class InventedRun:
    """A stored run whose gains nobody measured and whose knowledge points are known; see `invent_text_run`.

    Attributes
    ----------
    run
        Teacher, student and baseline of seed 0, at one layer.
    layer
        Its name.
    points
        By network, ``(epochs, samples, units)``, bool: the units whose gain is far above all others.
    """

    run: Run
    layer: str
    points: Mapping[str, NDArray[np.bool_]]


def invent_text_run(
    path: str | os.PathLike[str], *, texts: Sequence[str] = TEXTS, seed: int = 0
) -> InventedRun:
    """Write a run of words with invented gains, for trying how words are shown.

    Every third word is foreground. Texts shorter than the longest are padded, as measured ones are.

    Parameters
    ----------
    path
        Run directory to make.
    texts
        Words are split at blanks.
    seed
        Same seed, same bits.

    Raises
    ------
    StoreError
        If the directory cannot be made or holds other samples.
    """
    words = [text.split() for text in texts]
    valid = np.arange(max(map(len, words))) < np.array([len(text) for text in words])[:, None]
    tokens = np.full(valid.shape, "", dtype=object)
    tokens[valid] = [word for text in words for word in text]
    foreground = valid & (np.arange(valid.shape[1]) % 3 == 1)
    samples = {"token": tokens.astype(str), "valid": valid, "foreground": foreground}
    return _invent_run(path, samples, "text", "hidden", ("negative", "positive"), seed)


def invent_cloud_run(
    path: str | os.PathLike[str], *, samples: int = 4, points: int = 300, seed: int = 0
) -> InventedRun:
    """Write a run of points in space with invented gains, for trying how clouds are shown.

    Boxes and rings, two thirds of the points, in a ball of background points.

    Parameters
    ----------
    path
        Run directory to make.
    samples, points
        Numbers of clouds and of points of each.
    seed
        Same seed, same bits.

    Raises
    ------
    StoreError
        If the directory cannot be made or holds other samples.
    """
    rng = np.random.default_rng([seed, 1])
    foreground = np.zeros((samples, points), bool)
    foreground[:, : 2 * points // 3] = True
    cloud = rng.normal(size=(samples, points, 3))
    cloud *= rng.random((samples, points, 1)) ** (1 / 3) / np.linalg.norm(cloud, axis=2, keepdims=True)
    for index, (one, inside) in enumerate(zip(cloud, foreground, strict=True)):
        count = int(inside.sum())
        if index % 2:
            turn, lift = 2 * np.pi * rng.random((2, count))
            out = 0.6 + 0.15 * np.cos(lift)
            one[inside] = np.stack([out * np.cos(turn), out * np.sin(turn), 0.15 * np.sin(lift)], axis=1)
        else:
            box = rng.uniform(-1, 1, (count, 3))
            box[np.arange(count), rng.integers(0, 3, count)] = rng.choice((-1.0, 1.0), count)
            one[inside] = box * (0.55, 0.35, 0.7)
    places = {axis: cloud[..., place].astype(np.float32) for place, axis in enumerate("xyz")}
    masks = {"valid": np.ones_like(foreground), "foreground": foreground}
    return _invent_run(path, places | masks, "cloud", "fc1", ("box", "ring"), seed)


def draw_points(foreground: NDArray[np.bool_], n_fg: int, n_bg: int, epochs: int) -> NDArray[np.bool_]:
    """Points ``(epochs, samples, units)``, the first and the last units of a sample on either side.

    So many at the last epoch; one fewer on the foreground, the first, at each epoch before.
    """
    units = foreground.shape[1]
    points = np.zeros((epochs, *foreground.shape), bool)
    for index in range(epochs):
        points[index, :, epochs - 1 - index : n_fg] = True
        points[index, :, units - n_bg :] = n_bg > 0
    return points


def invent_seeds_run(
    path: str | os.PathLike[str],
    points: Mapping[tuple[str, str, int], NDArray[np.bool_]],
    foreground: NDArray[np.bool_],
    *,
    epochs: Mapping[str, tuple[int, ...]],
    accuracies: Mapping[tuple[str, str, int], float] | None = None,
    classes: Sequence[str] = (),
) -> Run:
    """Write a run of several training seeds with invented gains and the knowledge points given.

    Parameters
    ----------
    path
        Run directory to make.
    points
        By role, layer and training seed, ``(epochs, samples, units)``; a role ``"student/kl"`` is a student
        of that method.
    foreground
        ``(samples, units)``.
    epochs
        By role, without method.
    accuracies
        Under the keys of `points`.
    classes
        Their names.

    Raises
    ------
    StoreError
        If the directory cannot be made or holds other samples.
    """
    count, units = foreground.shape
    row, col = np.divmod(np.arange(units), 8)
    described = xr.Dataset(
        {"foreground": (("sample", "unit"), foreground)},
        coords={
            "sample": [f"s{index}" for index in range(count)],
            "unit": np.arange(units),
            "row": ("unit", row),
            "col": ("unit", col),
        },
    )
    layers = {layer: layer for _, layer, _ in points}
    config = {"layer_names": layers, "threshold": 0.25} | ({"classes": [*classes]} if classes else {})
    run = create_run(path, samples=described, attrs=schema.make_attrs(dataset_id="invented", config=config))
    for place, ((role, layer, seed), chosen) in enumerate(points.items()):
        name = f"{role.replace('/', '-')}-{layer}-s{seed}"
        rng, valid = np.random.default_rng(place), np.ones_like(foreground)
        reached = epochs[role.partition("/")[0]]
        about: dict[str, object] = {"training_seed": seed}
        if method := role.partition("/")[2]:
            about["distillation_method"] = method
        if accuracies:
            about["accuracy"] = accuracies[role, layer, seed]
        _invent_network(run, name, layer, reached, valid, chosen, rng, about)
    return run


def _invent_run(
    path: str | os.PathLike[str],
    samples: dict[str, NDArray],
    modality: str,
    layer: str,
    classes: tuple[str, str],
    seed: int,
) -> InventedRun:
    valid, foreground = samples.pop("valid"), samples.pop("foreground")
    count, units = valid.shape
    names = [f"{modality}-{index}" for index in range(count)]
    described = xr.Dataset(
        {"valid": (("sample", "unit"), valid), "foreground": (("sample", "unit"), foreground)},
        coords={
            "sample": names,
            "unit": np.arange(units),
            "label": ("sample", np.arange(count) % 2),
            **{name: (("sample", "unit"), values) for name, values in samples.items()},
        },
    )
    attrs = schema.make_attrs(
        dataset_id=f"invented {modality}",
        modality=modality,
        config={"classes": [*classes], "threshold": 0.25},
    )
    run = create_run(path, samples=described, attrs=attrs)
    points = {}
    networks = {"teacher": (9,), f"student-{layer}-s0": (0, 2, 5), "baseline-s0": (0, 2, 5)}
    for place, (network, epochs) in enumerate(networks.items()):
        rng = np.random.default_rng([seed, place])
        share = np.where(foreground, 0.5, 0.1)
        points[network] = valid & (rng.random((len(epochs), count, units)) < share)
        _invent_network(run, network, layer, epochs, valid, points[network], rng)
    return InventedRun(run, layer, points)


def _invent_network(
    run: Run,
    network: str,
    layer: str,
    epochs: tuple[int, ...],
    valid: NDArray[np.bool_],
    points: NDArray[np.bool_],
    rng: np.random.Generator,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write one network: a gain of about 1, at its points of about 40."""
    role = network.partition("-")[0]
    attrs = schema.make_attrs(
        network_role=role, seed=0, base_noise=0.01, weight=6.0, calibration=0.386, solver="descent",
        distilled_layer=layer if role == "student" else None, **{"training_seed": 0} | dict(about or {}),
    )  # fmt: skip
    gain = np.where(points, 40.0, 1.0) * np.exp(0.05 * rng.standard_normal(points.shape))
    gain = np.where(valid, gain, np.nan).astype(np.float32)
    variance = (1e-4 * np.nansum(gain, axis=-1)).astype(np.float32)
    names = ("gain", "gain_error", "feature_variance", "method")
    run.create_group(network, layer, epochs=epochs, attrs=attrs, block=len(valid), variables=names)
    for index, epoch in enumerate(epochs):
        now = slice(index, index + 1)
        block = xr.Dataset(
            {
                "gain": (("epoch", "sample", "unit"), gain[now]),
                "gain_error": (("epoch", "sample", "unit"), 0.01 * gain[now]),
                "feature_variance": (("epoch", "sample"), variance[now]),
                "method": (("epoch", "sample"), np.zeros((1, len(valid)), np.int8)),
                "valid": (("sample", "unit"), valid),
            },
            coords={
                "epoch": [epoch],
                "sample": run.samples["sample"].values,
                "unit": run.samples["unit"].values,
            },
        )
        run.write_block(network, layer, index, 0, block)
    if role != "teacher":
        moved = xr.DataArray(np.sqrt(epochs).astype(np.float32), dims="epoch", coords={"epoch": [*epochs]})
        run.write_variable(network, layer, moved.rename("weight_distance"))
