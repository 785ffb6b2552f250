"""The public verbs: measure one network, or one network at many epochs."""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.arguments import whole_number
from kdviz.errors import ConvergenceWarning, DegenerateWarning, LayerError
from kdviz.measuring.measurement import Block, Measurement, Store, Task
from kdviz.measuring.settings import Method, Settings
from kdviz.networks.checkpoints import Checkpoint
from kdviz.networks.features import Feature, plain_name, resolve_layers
from kdviz.networks.inputs import prepare_inputs
from kdviz.networks.preparing import memory_advice
from kdviz.networks.reading import InputsLike
from kdviz.store import Run
from kdviz.units import Units

Layers = str | nn.Module | Sequence[str | nn.Module]


def measure(
    network: nn.Module,
    inputs: InputsLike,
    *,
    layers: Layers,
    units: Units,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    epoch: int = 0,
    entry: str | nn.Module | None = None,
    feature: Feature | None = None,
    method: Method | None = None,
    probes: int = 64,
    draws: int | None = None,
    base_noise: float | None = None,
    weight: float = 7.0,
    calibration: float = 0.386,
    seed: int = 0,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure how much of every input unit one or several layers of a network discard.

    High entropy: the layer does not care about the unit; noise can drown it before the feature moves.
    Low entropy, against the background, makes the unit a knowledge point (:func:`kdviz.find_points`).

    Parameters
    ----------
    network
        Any network of one or several input tensors, in float32 or finer, whose forward pass passes gradients
        and treats samples alike and apart in eval mode. Left exactly as found: mode, parameters, gradients,
        hooks and global random state.
    inputs
        Shape ``(B, ...)``, normalised as in training. Floating point: images ``(B, C, H, W)``, clouds
        ``(B, n, 3)``; with `entry`, anything the network takes, such as token ids. Or a mapping of such
        tensors, passed by name; noise falls on the one that is floating point. Or a dataset (a length, and an
        item for every position) or an iterable of batches, such as a `DataLoader` without shuffling, both
        read block by block; of pairs, the second entry gives `labels`.
    layers
        Name from ``network.named_modules()`` (:func:`kdviz.list_layers`), a module, or several of them,
        which then share forward passes.
    units
        What shares one noise scale: ``kdviz.units.grid(16, 16)``, ``units.mask(labels)``,
        ``units.tokens(...)``, ``units.cloud(n)``.
    foreground
        Masks of the objects: units ``(B, U)``, or of images pixels ``(B, H, W)``, of which the one in the
        middle of a cell decides, as in the authors' code, and more than half of those of a part of a
        partition. Needed for knowledge points.
    labels
        Class of every sample, ``(B,)``, integers.
    sample_ids
        ``B`` unique, stable names; they key the noise. By default a hash of each input.
    epoch
        Completed training epochs of this network.
    entry
        Name or module at whose output noise is added; by default to the input. Words need it: the whole
        embedding module, behind positions and LayerNorm. Gains, noise scales and entropies are then in units
        of the root mean square of that output over the words of all samples, which is stored for every epoch
        as ``noise_unit``; or in the output's own numbers, if `base_noise` is given.
    feature
        ``"relu"`` as in the papers, ``"identity"``, or a callable from the layer's output to a tensor. By
        default the preset of `units`: identity for words, else relu.
    method
        ``"gain"``: probe gains, completed by the drift of the mean (:mod:`kdviz.gain`). ``"path"``: the
        authors' descent, sampled. ``"auto"``: gain first, path for the few samples whose loss at the solution
        lies outside 0.8 to 1.25 times what the gains predict (``linearity``). By default the preset of
        `units`: path for clouds, where max pooling leaves most points without gain, else auto.
    probes
        Backward passes a sample and layer for the gains, at least 2. A quarter as many antithetic pairs of
        noise, of four passes each, find the drift.
    draws
        Noise points for the gains, and pass pairs a step for the path; at least 2. By default the preset of
        `units`: 4 for clouds, whose every sample goes by path, else 8.
    base_noise
        ``tau0`` in input units; by default the preset of `units`: 0.01 for images, 0.007 for clouds, 0.01
        times the root mean square for words.
    weight, calibration
        Of the solution that is stored and checked: entropy weight and mean of ``log(sigma / tau0)``.
        :func:`kdviz.derive_entropy` gives any other afterwards without the network.
    seed
        Measurement seed. The same noise is used for every epoch, network and role of one seed.
    device
        Where to compute; by default where the network is. On another device a copy is measured.
    max_batch
        Samples in one pass, the one memory knob; 16 by default. Texts come one by one, without padding, so
        that neither it nor batch mates can change a bit of a result; several noise draws fill the pass.
        Besides the passes, ``probes`` copies of the input are held for each of them and each layer: 38 MB at
        3 x 224 x 224 pixels and 64 probes.
    progress
        Show a progress bar.

    Returns
    -------
    Dataset
        The variables of :mod:`kdviz.schema` with dims (epoch, sample, unit), for one name or module; with a
        leading dimension ``layer`` (its names) for a sequence of them.

    Raises
    ------
    ValueError, TypeError
        For inputs that are not finite floating-point samples in the dtype of the network, masks or names
        of another size, settings out of range, a device that is not there, a network of half precision,
        without values or on several devices, or features that are not finite, have no gradient, are random or
        depend on the other samples of a batch.
    LayerError
        For a layer that is unknown, unused, reused, scripted, or gives no tensor.
    MemoryError
        If a pass does not fit; the message says what to lower.

    Warns
    -----
    DegenerateWarning
        If a layer's feature does not react to noise for some samples, or a mask is empty or full.
    KdvizWarning
        If the inputs are so large that the preset noise is hardly seen, such as pixels of 0 to 255.
    ConvergenceWarning
        If `calibration` is not met for some samples (``converged``).

    Notes
    -----
    Cost a sample and layer, in forward or backward passes: ``2 * probes`` for the gains and 40 for their
    checks, ``draws + 33`` shared by all layers, and about ``72 * draws`` more where the path takes over:
    209 for one layer by default. Where ``"path"`` is asked for, the ``probes`` passes that find the drift are
    left out. Every epoch begins with a trial, of 7 passes forward and 2 a layer backward in all. The authors'
    procedure takes 15,456 [1]_. ``docs/validation.md`` compares the results.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Eqs. (1) to (4), with the settings of the CVPR 2020 code.

    Examples
    --------
    >>> import torch, kdviz
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 50))
    >>> ds = kdviz.measure(network, torch.rand(2, 3, 4, 4), layers="1", units=kdviz.units.grid(4),
    ...                    progress=False)
    >>> dict(ds.gain.sizes)
    {'epoch': 1, 'sample': 2, 'unit': 16}
    """
    whole_number("epoch", epoch)
    names, entry = name_layers(network, layers, entry)
    measurement = Measurement(
        lambda: network,
        {epoch: None},
        prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise, entry),
        names,
        Settings.for_units(
            units,
            method=method,
            probes=probes,
            draws=draws,
            base_noise=base_noise,
            weight=weight,
            calibration=calibration,
            seed=seed,
            max_batch=max_batch,
            feature=feature,
            entry=entry,
        ),
        device=device,
    )
    return _run(measurement, progress)


def measure_checkpoints(
    make_network: Callable[[], nn.Module],
    checkpoints: Mapping[int, Checkpoint],
    inputs: InputsLike,
    *,
    network: str,
    role: str,
    layers: Layers,
    units: Units,
    store: str | os.PathLike[str] | Run | None = None,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    thumbnails: ArrayLike | None = None,
    entry: str | nn.Module | None = None,
    feature: Feature | None = None,
    method: Method | None = None,
    probes: int = 64,
    draws: int | None = None,
    base_noise: float | None = None,
    weight: float = 7.0,
    calibration: float = 0.386,
    seed: int = 0,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    progress: bool = True,
    details: Mapping[str, schema.Attribute] | None = None,
) -> xr.Dataset:
    """Measure a network at many epochs of its training, resumably.

    Parameters
    ----------
    make_network
        Builds the network; called once.
    checkpoints
        ``{epoch: path or state dict}``. Paths end in ``.safetensors``, or are read by ``torch.load`` with
        ``weights_only=True``: no pickled code is ever run.
    inputs, layers, units, foreground, labels, sample_ids, entry, feature, method, probes, draws, base_noise
        As in :func:`measure`.
    weight, calibration, seed, device, max_batch, progress
        As in :func:`measure`.
    network
        Free name of the network in the run, such as ``"student-fc1-s0"``.
    role
        ``"teacher"``, ``"student"`` or ``"baseline"``.
    store
        Run directory or :class:`kdviz.store.Run` to write to; made if it does not exist. Every block of 16
        samples is written as soon as it is measured; a killed measurement, called again with the same
        arguments, goes on where it was and ends with the same bits on the same machine. It goes on with the
        `max_batch` it was begun with, whatever larger one is passed; a smaller one, as after running out of
        memory, is used for the blocks still missing, whose entropies then agree to rounding only (about 1e-4
        nat by gain, 1e-4 by path).
    thumbnails
        Pictures to store for viewing, ``(B, H, W, 3)`` or ``(B, H, W)``, uint8. By default images of 1 or 3
        channels are made from `inputs`: one range for all, the smallest pixel black and the largest white,
        shrunk to at most 128 pixels on the longer side. They are written when the run is made; a run that
        exists keeps its pictures, or stays without.
    details
        Further attributes of the network, named as in :func:`kdviz.schema.make_attrs`: ``training_seed``,
        such as ``{"training_seed": 1}``, which tells networks of one role apart (0 if not given) and pairs
        each student with the baseline of the same; ``distilled_layer``, one of `layers`; ``teacher``,
        ``architecture``, ``distillation_method``, ``dataset_id``.

    Returns
    -------
    Dataset
        As :func:`measure`, with all epochs.

    Raises
    ------
    ValueError
        As :func:`measure`; also for no checkpoints, epochs that are not integers of 0 or more, an unknown
        role, or thumbnails of another shape or without a store.
    DataError
        If a checkpoint is missing, damaged, or does not fit the network.
    StoreError
        If the store was measured with other settings (the first that differs is named), other samples,
        masks, labels or pixels, or is being written by another process.
    MemoryError
        As :func:`measure`; the same call goes on behind what is in the store.

    Warns
    -----
    DegenerateWarning, ConvergenceWarning
        As :func:`measure`.
    KdvizWarning
        As :func:`measure`; also if an unfinished measurement goes on with a smaller `max_batch`.
    """
    if isinstance(checkpoints, Mapping) and any(weights is None for weights in checkpoints.values()):
        raise TypeError("a checkpoint must be a path or a state dict, got NoneType")
    if thumbnails is not None and store is None:
        raise ValueError("thumbnails are stored with a run: give store, or leave them out")
    names, entry = name_layers(make_network, layers, entry)
    measurement = Measurement(
        make_network,
        checkpoints,
        prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise, entry),
        names,
        Settings.for_units(
            units,
            method=method,
            probes=probes,
            draws=draws,
            base_noise=base_noise,
            weight=weight,
            calibration=calibration,
            seed=seed,
            max_batch=max_batch,
            feature=feature,
            entry=entry,
        ),
        network,
        role,
        dict(details or {}),
        device,
    )
    return _run(measurement, progress, store, thumbnails)


def _run(
    measurement: Measurement,
    progress: bool,
    store: Store | None = None,
    thumbnails: ArrayLike | None = None,
) -> xr.Dataset:
    """Do all tasks that are left, here and one after the other."""
    todo = measurement.tasks(store)
    name = f"measuring {measurement.network or ''}".strip()
    together = todo[0].micro_batch if todo else measurement.settings.micro_batch
    bar = tqdm(todo, desc=name, unit="block", disable=not progress)

    def do(task: Task) -> Block:
        bar.set_postfix_str(f"epoch {task.epoch}", refresh=False)
        return measurement.do(task)

    with memory_advice(together, stored=store is not None):
        ds = measurement.collect(map(do, bar), store, thumbnails=thumbnails)
    _warn_of_doubts(ds)
    return ds


def name_layers(
    network: nn.Module | Callable[[], nn.Module], layers: Layers, entry: str | nn.Module | None
) -> tuple[str | tuple[str, ...], str | None]:
    """Name layers and entry; a network is only made where modules are to be named."""
    single = isinstance(layers, (str, nn.Module))
    several: list[Any] = [*layers] if isinstance(layers, Iterable) and not single else [layers]
    if not all(isinstance(layer, (str, nn.Module)) for layer in several):
        raise TypeError(f"layers must be a name, a module or a sequence of them, got {layers!r}")
    if not several:
        raise LayerError("layers is empty; name at least one (kdviz.list_layers(network) names them all)")
    entries = [] if entry is None else [entry]
    made = network if isinstance(network, nn.Module) else None
    if made is None and not all(isinstance(layer, str) for layer in several + entries):
        made = network()
    names, at = (
        [plain_name(str(layer)) for layer in some] if made is None else resolve_layers(made, some)
        for some in (several, entries)
    )
    return names[0] if single else tuple(names), at[0] if at else None


def _warn_of_doubts(ds: xr.Dataset) -> None:
    layers = ds["layer"].values.tolist() if "layer" in ds.dims else [ds.attrs["layer"]]
    for layer in layers:
        part = ds.sel(layer=layer) if "layer" in ds.dims else ds
        size, dead = part["feature_variance"].size, part["feature_variance"] == 0
        if dead.any():
            warnings.warn(
                f"layer {layer!r} does not react to noise at all for {int(dead.sum())} of {size} "
                "sample epochs: every unit counts as discarded alike there (feature_variance is 0)",
                DegenerateWarning,
                stacklevel=4,
            )
        unmet = ~part["converged"] & ~dead
        if unmet.any():
            warnings.warn(
                f"layer {layer!r} does not meet the calibration for {int(unmet.sum())} of {size} "
                "sample epochs: their entropies are not comparable with others (converged is False); "
                "measure with a smaller `calibration` or another weight",
                ConvergenceWarning,
                stacklevel=4,
            )
