"""The public verbs: measure one network, or one network at many epochs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.arguments import some_text
from kdviz.entropy import UnitGain
from kdviz.errors import ConvergenceWarning, DegenerateWarning, LayerError
from kdviz.measuring.measurement import Measurement
from kdviz.measuring.settings import Method, Options, Settings
from kdviz.networks.features import Feature, plain_name, resolve_layers
from kdviz.networks.inputs import prepare_inputs
from kdviz.networks.reading import InputsLike
from kdviz.networks.saved import Checkpoint
from kdviz.store.run import Store
from kdviz.units import Units


def measure(
    network: nn.Module,
    inputs: InputsLike,
    *,
    layers: str | nn.Module | Sequence[str | nn.Module],
    units: Units,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    epoch: int = 0,
    entry: str | nn.Module | None = None,
    feature: Feature | None = None,
    method: Method | None = None,
    probes: int = 40,
    draws: int | None = None,
    base_noise: float | None = None,
    weight: float | None = None,
    calibration: float = 0.386,
    unit_gain: UnitGain = "mean",
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
        ``(B, n, 3)`` or ``(B, 3, n)``; with `entry`, anything the network takes, such as token ids. Or a
        mapping of such tensors, as from a tokenizer, passed by name; noise falls on the one that is floating
        point, of several on the one that `units` fit or that `entry` names; a single one of a name that the
        network does not take, such as ``image``, is passed by position. Or a `torch.utils.data.Dataset`
        (anything with a length, and an item for every position) or an iterable of batches, such as a
        `DataLoader`, both read block by block; one that shuffles or has no end is refused. Or a list of
        samples of one shape, told from a list of batches by the number of axes. Items and batches are such
        tensors or mappings, or pairs ``(x, y)``. Classes in them give `labels`: ``y``, or the entry named
        ``label``, ``labels``, ``label_ids``, ``y``, ``target`` or ``targets`` of a mapping, of one integer a
        sample. Other targets are left out: no network is given any.
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
        Class of every sample, ``(B,)``, integers; :func:`kdviz.store.describe` tells a run their names.
    sample_ids
        ``B`` unique, stable names; they key the noise. By default a hash of each input.
    epoch
        Completed training epochs of this network.
    entry
        Name or module at whose output noise is added, or the name of one of several inputs; by default noise
        is added to the input. Words need it: the whole
        embedding module, positions and LayerNorm included. Gains, noise scales and entropies are then in
        units of the root mean square of that output over the words of all samples, which is stored for every
        epoch as ``noise_unit``; or in the output's own numbers, if `base_noise` is given.
    feature
        ``"relu"`` as in the papers or ``"identity"``, both of the layer's output or of the one tensor in it;
        of layers that give a vector a token, the ``"first"``, the ``"last"`` or the ``"mean"``: the first of
        an encoder, where it knows the whole text, the last of a decoder, such as GPT-2 or Llama, whose first
        token knows nothing of the others. Or a callable from the layer's output to a tensor. By default the
        preset of `units`: identity for words, else relu.
    method
        ``"gain"``: probe gains, completed by the drift of the feature (:mod:`kdviz.gain`). ``"path"``: the
        authors' descent, sampled. ``"auto"``: gain first, path for the few samples whose loss at the solution
        lies outside 0.8 to 1.25 times what the gains predict (``linearity``), or whose units move the
        feature otherwise than their gains say, however right the sum. By default the preset of `units`:
        path for clouds, where max pooling leaves most points without gain, else auto.
    probes
        Backward passes a sample and layer for the gains, at least 2. A quarter as many antithetic pairs of
        noise, but four at least, find the drift and check the gains.
    draws
        Pass pairs a step for the path, at least 2; half as many noise points for the gains, two at least. By
        default the preset of `units`: 4 for clouds, whose every sample goes by path, else 8.
    base_noise
        ``tau0`` in input units; by default the preset of `units`: 0.01 for images, 0.007 for clouds, 0.01
        times the root mean square for words.
    weight, calibration, unit_gain
        Of the solution that is stored and checked: entropy weight, 7 by default and 4 for clouds, mean of
        ``log(sigma / tau0)``, and what a unit of several parts counts. :func:`kdviz.derive_entropy` gives
        any other afterwards without the network.
    seed
        Measurement seed. The same noise is used for every epoch, network and role of one seed.
    device
        Where to compute; by default where the network is. On another device a copy is measured.
    max_batch
        Samples in one pass, the one memory knob; 16 by default, and from where memory does not suffice half
        as many, again and again. Texts come one by one, without padding, so
        that neither it nor batch mates can change a bit of a result; several noise draws fill the pass.
        At most two passes with what their gradients need are held at a time. Besides these, ``probes`` copies
        of the input are held for each sample and layer, and up to 16 of noise for each sample: 34 MB at
        3 x 224 x 224 pixels and 40 probes.
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
        If memory does not suffice for a single sample in a pass; the message says what to lower.

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
    Cost a sample and layer, in forward or backward passes, with ``p = max(4, probes // 4)`` pairs: ``probes``
    for the gains, ``6 * p`` for the drift, ``2 * p + 4`` to check the solution; ``1 + max(2, draws // 2) +
    2 * p`` shared by all layers: 149 for one layer by default. Where the path takes over, about ``72 * draws
    + 64 + 2 * p`` more; where ``"path"`` is asked for, the drift is left out. Every epoch begins with a
    trial, of 7 passes forward and 2 a layer backward in all. The authors' procedure takes 15,456 [1]_.
    ``docs/validation.md`` compares the results.

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
    names = resolve_layers(network, _list_layers(layers))
    if isinstance(entry, nn.Module):
        (entry,) = resolve_layers(network, [entry])
    given = prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise, entry)
    if entry is not None and entry != given.main:
        (entry,) = resolve_layers(network, [entry])
    measurement = Measurement(
        lambda: network,
        {epoch: None},
        given,
        names[0] if isinstance(layers, (str, nn.Module)) else tuple(names),
        Settings.for_units(
            units,
            method=method,
            probes=probes,
            draws=draws,
            base_noise=base_noise,
            weight=weight,
            calibration=calibration,
            unit_gain=unit_gain,
            seed=seed,
            max_batch=max_batch,
            feature=feature,
            entry=None if entry == given.main else entry,
        ),
        device=device,
    )
    return run_measurement(measurement, progress=progress)


def measure_checkpoints(
    make_network: Callable[[], nn.Module],
    checkpoints: Mapping[int, Checkpoint],
    inputs: InputsLike,
    *,
    network: str,
    role: str,
    layers: str | Sequence[str],
    units: Units,
    store: Store | None = None,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    thumbnails: ArrayLike | None = None,
    details: Mapping[str, schema.Attribute] | None = None,
    part: str | None = None,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    progress: bool = True,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Measure a network at many epochs of its training, resumably.

    Parameters
    ----------
    make_network
        Builds the network; called once.
    checkpoints
        ``{epoch: path or state dict}``: files of torch or safetensors and folders of Hugging Face, also of
        wrapped networks and with other things beside the weights (:func:`kdviz.networks.load_weights`). No
        pickled code is ever run. Steps do as well as epochs.
    inputs, units, foreground, labels, sample_ids, device, max_batch, progress
        As in :func:`measure`.
    network
        Free name of the network in the run, such as ``"student-fc1-s0"``.
    role
        Free text; ``"teacher"``, ``"student"`` and ``"baseline"`` are what the papers' hypotheses are about.
    layers
        Names as in :func:`measure`.
    store
        Run directory or :class:`kdviz.store.Run` to write to; made if it does not exist. Every block of 16
        samples is written as soon as it is measured; a killed measurement, called again with the same
        arguments, goes on where it was and ends with the same bits on the same machine. Called with other
        epochs, it adds them, as to follow a training that still runs: the bits are those of measuring all at
        once. With another `max_batch`, or a smaller one taken for want of memory, the entropies still missing
        agree to rounding (about 1e-4 nat).
    thumbnails
        Pictures to store for viewing, ``(B, H, W, 3)`` or ``(B, H, W)``, uint8, or ``(B, C, H, W)`` of 0 to
        1. By default images of 1 or 3 channels are made from `inputs`: one range for all, the smallest pixel
        black and the largest white, shrunk to at most 128 pixels on the longer side. They are written when
        the run is made; a run that exists keeps its pictures, or stays without.
    details
        Further attributes of the network, named as in :func:`kdviz.schema.make_attrs`: ``training_seed``
        (0 if not given), which pairs a student with the baseline of the same; ``distilled_layer``, one of
        `layers`; ``teacher``, ``architecture``, ``distillation_method``, ``learning_rate``, ``dataset_id``.
    part
        Which of several networks in one checkpoint, such as ``"student"`` beside ``"teacher"`` or
        ``"model_ema"`` beside ``"model"``; needed only where more than one fits.
    **options
        As in :func:`measure`: ``entry`` (a name), ``feature``, ``method``, ``probes``, ``draws``,
        ``base_noise``, ``weight``, ``calibration``, ``unit_gain``, ``seed``.

    Returns
    -------
    Dataset
        As :func:`measure`, with the epochs of `checkpoints`.

    Raises
    ------
    ValueError
        As :func:`measure`; also for epochs that are not integers of 0 or more, unknown options, or
        thumbnails of another shape or without a store.
    TypeError
        As :func:`measure`; also if `checkpoints` is empty or no mapping, or has None among several.
    LayerError
        As :func:`measure`; also for modules in place of names.
    DataError
        If a checkpoint is missing, damaged, or does not fit the network.
    StoreError
        If the store was measured with other settings (the first that differs is named), other weights at one
        of these epochs, other samples, masks, labels or pixels, or is being written by another process.
    MemoryError
        As :func:`measure`; the same call goes on after what is in the store.

    Warns
    -----
    DegenerateWarning, ConvergenceWarning, KdvizWarning
        As :func:`measure`.
    """
    if thumbnails is not None and store is None:
        raise ValueError("thumbnails are stored with a run: pass store, or leave them out")
    measurement = plan_measurement(
        make_network,
        checkpoints,
        inputs,
        network=network,
        role=role,
        layers=layers,
        units=units,
        foreground=foreground,
        labels=labels,
        sample_ids=sample_ids,
        details=details,
        part=part,
        device=device,
        max_batch=max_batch,
        **options,
    )
    return run_measurement(measurement, store, thumbnails=thumbnails, progress=progress)


def plan_measurement(
    make_network: Callable[[], nn.Module],
    checkpoints: Mapping[int, Checkpoint],
    inputs: InputsLike,
    *,
    network: str,
    role: str,
    layers: str | Sequence[str],
    units: Units,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    details: Mapping[str, schema.Attribute] | None = None,
    part: str | None = None,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    **options: Unpack[Options],
) -> Measurement:
    """Make the measurement that :func:`kdviz.measure_checkpoints` does, to ask what it takes or share it out.

    Arguments and errors are the same, but that ``store``, ``thumbnails`` and ``progress`` are left to what
    collects, and that a network and its device are tried when they are first needed.
    """
    some_text("network", network)
    some_text("role", role)
    listed, base_noise, entry = _list_layers(layers), options.get("base_noise"), options.get("entry")
    for layer in (*listed, entry or ""):
        if not isinstance(layer, str):
            raise LayerError(
                f"layers and entry must be names, as the network is made anew, got a {type(layer).__name__}"
            )
    names = tuple(plain_name(layer) for layer in listed)
    given = prepare_inputs(inputs, units, foreground, labels, sample_ids, base_noise, entry)
    if entry is not None and entry == given.main:
        options = options | {"entry": None}
    return Measurement(
        make_network,
        checkpoints,
        given,
        names[0] if isinstance(layers, str) else names,
        Settings.for_units(units, max_batch=max_batch, **options),
        network,
        role,
        dict(details or {}),
        device,
        part,
    )


def _list_layers(layers: Any) -> list[Any]:
    listed = [layers] if isinstance(layers, (str, nn.Module)) else layers
    if not isinstance(listed, Sequence) or not listed:
        raise LayerError(
            f"layers must be a name, a module or a sequence of them, got {layers!r} "
            "(kdviz.list_layers(network) names them all)"
        )
    return list(listed)


def run_measurement(
    measurement: Measurement,
    store: Store | None = None,
    *,
    thumbnails: ArrayLike | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Do all tasks that are left, here and one after the other; as :func:`kdviz.measure_checkpoints`."""
    name = f"measuring {measurement.network or ''}".strip()
    bar = tqdm(measurement.tasks(store), desc=name, unit="block", disable=not progress)
    ds = measurement.collect(map(measurement.do, bar), store, thumbnails=thumbnails)
    warn_of_doubts(ds)
    return ds


def warn_of_doubts(ds: xr.Dataset) -> None:
    """Warn of layers that do not react to noise, and of samples that do not meet the calibration."""
    of = f" of {ds.attrs['network']}" if "network" in ds.attrs else ""
    layered = ds if "layer" in ds.dims else ds.expand_dims(layer=[ds.attrs["layer"]])
    for layer in layered["layer"].values.tolist():
        one = layered.sel(layer=layer)
        dead = one["feature_variance"] == 0
        unmet = ~one["converged"] & ~dead
        if dead.any():
            warnings.warn(
                f"layer {layer!r}{of} does not react to noise at all for {int(dead.sum())} of {dead.size} "
                "sample epochs: every unit counts as discarded alike there (feature_variance is 0)",
                DegenerateWarning,
                stacklevel=4,
            )
        if unmet.any():
            warnings.warn(
                f"layer {layer!r}{of} does not meet the calibration for {int(unmet.sum())} of {unmet.size} "
                "sample epochs: their entropies are not comparable with others (converged is False); derive "
                "them with a smaller calibration, such as 0.2, or measure with another weight",
                ConvergenceWarning,
                stacklevel=4,
            )
