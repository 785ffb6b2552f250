"""Attribution maps of many samples, reduced to units: the public verb, and what the checks of maps share.

Symbols: ``B`` samples, ``U`` units, ``H, W`` input size.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.arguments import one_of, whole_number
from kdviz.attribution.maps import (
    LAYERED,
    METHODS,
    OPTIONS,
    Place,
    check_classes,
    check_layer,
    draw_map,
    list_methods,
    need_captum,
)
from kdviz.errors import LayerError
from kdviz.networks.features import Batch, answer, frozen, resolve_layers, same_random_state, to_device
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.networks.inputs import Inputs, check_labels, prepare_inputs
from kdviz.networks.layouts import Turn
from kdviz.networks.preparing import device_of, memory_advice, prepare_network
from kdviz.networks.reading import InputsLike
from kdviz.units import Grid

BATCH = 16  # samples in one pass, unless told otherwise


def attribute(
    network: nn.Module,
    inputs: InputsLike,
    *,
    units: Grid,
    labels: ArrayLike | None = None,
    explained: ArrayLike | None = None,
    methods: Sequence[str] | None = None,
    layer: str | nn.Module | None = None,
    layout: Turn | None = None,
    foreground: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    epoch: int = 0,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    name: str = "",
    progress: bool = True,
) -> xr.Dataset:
    """Draw CAM, gradient and occlusion maps of a classifier, reduced to units, to compare with the entropy.

    The maps are those of :func:`kdviz.attribution.draw_map`, which defines each. Maps of a layer are resized
    to the input bilinearly (pixel centres aligned); then every unit takes the mean over its pixels. Nothing
    is normalised and the sign is kept, so that magnitudes can be compared between networks.

    Parameters
    ----------
    network
        Any classifier of images in float32 or finer that gives logits ``(B, classes)``, or a structure that
        has them, as those of transformers. Left exactly as found: mode, parameters, gradients, hooks and
        global random state.
    inputs, units, foreground, labels, sample_ids
        As in :func:`kdviz.measure`: pass the same, and the units are the same.
    explained
        Class whose logit is explained for each sample, ``(B,)``, integers; by default `labels`, and without
        these the class that the network itself answers.
    methods
        Some of ``kdviz.attribution.METHODS``; by default all that this network has.
    layer
        Where the layer maps are taken: the name or module of a layer that gives ``(B, channels, h, w)``,
        ``(B, h, w, channels)`` as in a Swin, or tokens as in a ViT; by default that of
        :func:`kdviz.attribution.find_map_layer`: a ResNet's last block, the first norm in the last block of a
        ViT.
    layout
        As in :func:`kdviz.attribution.draw_map`: needed only where the layer's layout cannot be known.
    epoch
        Completed training epochs of this network.
    device, max_batch
        As in :func:`kdviz.measure`.
    name, progress
        Show a progress bar, with the name of the network if there is one.

    Returns
    -------
    Dataset
        ``attribution`` with dims (attribution_method, epoch, sample, unit), float32, in units of the logit
        over those of the input for gradients, of the logit for contributions; coordinates ``explained`` and
        ``input_hash`` (sample); ``foreground`` and labels if given. The attribute ``config`` (JSON) states
        the options of every method.

    Raises
    ------
    ValueError, TypeError
        As :func:`kdviz.measure` for inputs, masks, names and devices; also for unknown methods, classes that
        the network has not, or an output that is not ``(B, classes)``.
    LayerError
        If the layer is unknown, unused, reused or has no map, or a method asked for needs a network of
        another kind: ``cam`` a linear head after average pooling, ``guided_grad_cam`` ReLU modules.
    MemoryError
        If a pass does not fit; the message says what to lower.
    MissingExtraError
        If some of `methods` are drawn by captum, as are some of the default, and it is not installed.

    Notes
    -----
    Cost a sample: 2 passes a gradient or CAM, 100 for integrated gradients, 225 forward for occlusion (for
    sides that are multiples of 16).

    Examples
    --------
    >>> import kdviz
    >>> network, images = kdviz.testing.small_cnn(), kdviz.testing.random_images(2)
    >>> ds = kdviz.attribute(network, images, units=kdviz.units.grid(4), labels=[0, 3], progress=False)
    >>> dict(ds.attribution.sizes)
    {'attribution_method': 7, 'epoch': 1, 'sample': 2, 'unit': 16}
    """
    epoch = whole_number("epoch", epoch)
    batch = whole_number("max_batch", BATCH if max_batch is None else max_batch, 1)
    chosen = [one_of("methods", method, METHODS) for method in dict.fromkeys(methods or ())]
    need_captum(chosen or METHODS)
    if layer is not None:  # by name, for a copy on another device holds another object
        (layer,) = resolve_layers(network, [layer])
    network = prepare_network(network, device)
    given = prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise=0.0, kind=Grid)
    given.check_precision(network)
    place = device_of(network)
    with same_random_state(network), memory_advice(batch, "take smaller images"):
        classes = find_classes(network, given, explained, batch)
        first = to_device(given.take([0]), place)
        with frozen(network):
            found = _find_place(network, first, layer, layout, chosen)
        chosen = chosen or list_methods(network, first, found)
        values = np.empty((len(chosen), 1, len(given.ids), units.count), np.float32)
        bar = tqdm(chosen, desc=f"attributing {name}".strip(), unit="method", disable=not progress)
        for at, method in enumerate(bar):
            for rows, images in batches(given, batch, place):
                maps = draw_map(network, images, classes[rows].to(place), method=method, layer=found)
                if not torch.isfinite(maps).all():
                    raise ValueError(
                        f"{method} gives NaN or infinite values; leave these samples or this method out"
                    )
                values[at, 0, rows] = reduce_map(maps, units, given.shape[-2:])
    about = {"epoch": [epoch], "attribution_method": chosen, "explained": classes.numpy()}
    attrs = schema.make_attrs(
        layer=None if found is None else found.layer,
        modality=units.modality,
        unit_kind=units.describe(),
        config={
            "methods": {name: OPTIONS[name] for name in chosen},
            "explained": "given" if explained is not None else "labels" if labels is not None else "answer",
            "max_batch": batch,
        }
        | ({} if found is None else {"layout": found.layout.name}),
        device=str(place),
        torch_version=torch.__version__,
        weights_fingerprint=fingerprint_tensors(network.state_dict()),
        input_fingerprint=given.fingerprint,
    )
    ds = schema.build(
        {**given.samples.data_vars, "attribution": values},
        coords={**given.samples.coords, **about, "input_hash": given.hashes},
        attrs=attrs,
    )
    schema.validate(ds)
    return ds


def reduce_map(maps: Tensor, units: Grid, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize maps ``(B, h, w)`` of another size bilinearly, and average the pixels of every unit."""
    maps = maps.detach().cpu()
    if tuple(maps.shape[1:]) != size:
        maps = interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    index = units.index((1, *size)).ravel()
    pixels = np.bincount(index, minlength=units.count)
    sums = [np.bincount(index, drawn.ravel(), minlength=units.count) for drawn in maps.double().numpy()]
    return (np.array(sums) / pixels).astype(np.float32)


def find_classes(network: nn.Module, given: Inputs, explained: ArrayLike | None, batch: int) -> Tensor:
    """Return the class to explain of every sample, int64, checked against the network's logits."""
    place = device_of(network)
    known = None if "label" not in given.samples else given.samples["label"].values
    if explained is not None:
        known = check_labels("explained", explained, len(given.ids))
    classes = torch.zeros(1, dtype=torch.int64) if known is None else torch.from_numpy(known)
    with frozen(network), torch.no_grad():
        check_classes(network, to_device(given.take([0]), place), classes)
        if known is not None:
            return classes
        answers = [answer(network, images).argmax(1).cpu() for _, images in batches(given, batch, place)]
    return torch.cat(answers)


def batches(given: Inputs, batch: int, place: torch.device) -> Iterator[tuple[slice, Batch]]:
    """Yield positions and inputs of `batch` samples at a time."""
    for rows, inputs in given.batches(range(len(given.ids)), batch):
        yield slice(rows.start, rows.stop), to_device(inputs, place)


def _find_place(
    network: nn.Module, inputs: Batch, layer: str | None, layout: Turn | None, chosen: Sequence[str]
) -> Place | None:
    """Find the place of the maps, None for a network without any where none was asked for."""
    try:
        return check_layer(network, inputs, layer, layout, chosen or LAYERED)
    except LayerError:
        if layer is not None or any(name in LAYERED for name in chosen):
            raise
        return None
