"""Deletion and insertion: how fast the answer goes, or comes, as units do in order of their importance.

Symbols: ``B`` samples, ``U`` units, ``P`` shares of units.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.analysis import collect_importance
from kdviz.arguments import one_of, whole_number
from kdviz.attribution.maps import check_classes
from kdviz.attribution.unit_maps import BATCH, batches
from kdviz.networks.features import (
    Batch,
    answer,
    frozen,
    main_of,
    put_main,
    same_random_state,
    to_device,
    unwrap,
)
from kdviz.networks.inputs import prepare_inputs
from kdviz.networks.preparing import device_of, memory_advice, prepare_network
from kdviz.networks.reading import InputsLike
from kdviz.units import Grid

Reference = Literal["blur", "mean"]
_BLUR = 8  # the blur's standard deviation is this part of height and width: an object is a smear


def remove_units(
    network: nn.Module,
    inputs: InputsLike,
    attributions: xr.Dataset,
    *,
    units: Grid,
    entropy: xr.Dataset | None = None,
    reference: Reference = "blur",
    steps: int = 16,
    seed: int = 0,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Remove units in the order a method thinks them important, and watch the probability of the class.

    Deletion begins with the input and replaces the most important units first: a good order makes the
    probability fall at once, so that a *small* area is good. Insertion begins with the reference and puts the
    most important units in first: a *large* area is good.

    Parameters
    ----------
    network, inputs, units
        As given to :func:`kdviz.attribute`.
    attributions
        What it returned, or a selection of its samples in any order, of the same `inputs`; its last epoch is
        taken, and the classes it explained.
    entropy
        As in :func:`kdviz.analysis.collect_importance`: ranked too, as the method ``"entropy"``.
    reference
        What a removed unit shows: ``"blur"``, the input blurred by a Gaussian with a standard deviation of an
        eighth of its height and width (edges repeated), or ``"mean"``, each channel's mean over the sample.
    steps
        The curve has ``steps + 1`` points, at equal shares of units, rounded.
    seed
        Of the random order that is scored as the method ``"random"`` and, in all methods, settles ties.
    device, max_batch, progress
        As in :func:`kdviz.measure`.

    Returns
    -------
    Dataset
        ``deletion`` and ``insertion`` with dims (attribution_method, sample, share), the softmax probability
        of the class; ``deletion_area`` and ``insertion_area`` (attribution_method, sample), by the trapezoid
        rule over ``share``, 0 to 1.

    Raises
    ------
    ValueError, TypeError
        As :func:`kdviz.attribute`; also if `attributions` are of another grid, another number of samples or
        other inputs, or an option is out of range. Inputs are compared by ``input_hash``; maps stored without
        it by an earlier version are taken at their word.
    SchemaError
        If a dataset breaks the data contract.
    MemoryError
        If a pass does not fit; the message says what to lower.

    Notes
    -----
    Cost: ``2 * (steps + 1)`` forward passes a sample and method. A picture with units replaced is one that
    the network was never trained on; part of every curve is its answer to that. Compare methods under one
    reference only, and look at the random order first [1]_.

    References
    ----------
    .. [1] Petsiuk et al., "RISE", BMVC 2018, section 4.2 (deletion and insertion); Hooker et al., "A
       Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019 (on inputs out of
       distribution).
    """
    one_of("reference", reference, ("blur", "mean"))
    steps = whole_number("steps", steps, 1, units.count)
    schema.validate(attributions, require=("attribution", "row", "col"))
    grid = tuple(int(attributions[side].max()) + 1 for side in ("row", "col"))
    if grid != (units.rows, units.cols):
        raise ValueError(
            f"attributions are of {grid[0]} x {grid[1]} units, units are {units.rows} x {units.cols}; pass "
            "the units that the maps were reduced to"
        )
    batch = whole_number("max_batch", BATCH if max_batch is None else max_batch, 1)
    network = prepare_network(unwrap(network), device)
    ids = [str(name) for name in attributions["sample"].values]
    given = prepare_inputs(inputs, units, sample_ids=ids, base_noise=0.0, kind=Grid)
    given.check_precision(network)
    _check_inputs(attributions, given.hashes)
    importance = collect_importance(attributions, entropy=entropy).isel(epoch=-1)
    chance = np.random.default_rng(seed).random((len(ids), units.count))
    orders = {
        str(method): np.lexsort((chance, -importance.sel(attribution_method=method).values))
        for method in importance["attribution_method"].values
    } | {"random": chance.argsort(1)}
    counts = np.round(np.linspace(0, units.count, steps + 1)).astype(int)
    index = torch.from_numpy(np.array(units.index((1, *given.shape[1:]))))
    classes = torch.from_numpy(attributions["explained"].values)
    place = device_of(network)
    curves: dict[str, list[NDArray[np.float32]]] = {name: [] for name in orders}
    advice = memory_advice(batch, "take smaller images")
    with same_random_state(network), frozen(network), advice, torch.no_grad():
        check_classes(network, to_device(given.take([0]), place), classes)
        blocks = tqdm(
            batches(given, batch, place),
            total=-(-len(ids) // batch),
            desc="removing",
            unit="batch",
            disable=not progress,
        )
        for rows, shown in blocks:
            images = main_of(shown, given.main)
            blank = _make_reference(images.cpu(), reference).to(place)
            for name, order in orders.items():
                rank = torch.from_numpy(order[rows].argsort(1))
                changed = [(rank < count)[:, index].to(place) for count in counts]
                both = []
                for start, end in ((images, blank), (blank, images)):
                    pictures = (torch.where(mask, end, start) for mask in changed)
                    versions = (put_main(shown, given.main, picture) for picture in pictures)
                    both.append(_trace(network, versions, classes[rows]))
                curves[name].append(np.stack(both))
    values = np.stack([np.concatenate(parts, axis=1) for parts in curves.values()])
    ds = schema.build(
        {"deletion": values[:, 0], "insertion": values[:, 1]},
        coords={"attribution_method": list(orders), "sample": ids, "share": counts / units.count},
        attrs={"reference": reference, "seed": seed, "steps": steps},
    )
    areas = {f"{name}_area": curve.integrate("share") for name, curve in ds.items()}
    return schema.annotate(ds.assign(areas))


def _check_inputs(attributions: xr.Dataset, hashes: Sequence[str]) -> None:
    """Refuse inputs that are not those explained, sample by sample."""
    explained = attributions.get("input_hash")
    if explained is None:
        return
    differs = explained.values != np.array(hashes)
    if differs.any():
        names = ", ".join(attributions["sample"].values[differs][:5])
        raise ValueError(
            f"inputs are not those that attributions explain: {differs.sum()} of {len(hashes)} differ, "
            f"first {names}; pass the same, in the same order"
        )


def _trace(network: nn.Module, pictures: Iterable[Batch], classes: Tensor) -> NDArray[np.float32]:
    """Return the probability of the class, ``(B, P)``, for `P` versions of the inputs."""
    chances = [answer(network, picture).softmax(1).cpu() for picture in pictures]
    return torch.stack([chance.gather(1, classes[:, None])[:, 0] for chance in chances], 1).numpy()


def _make_reference(images: Tensor, reference: Reference) -> Tensor:
    """Make what a picture shows where units are removed."""
    if reference == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    widths = (0, 0, *(side / _BLUR for side in images.shape[2:]))
    return torch.from_numpy(gaussian_filter(images.numpy(), widths, mode="nearest"))
