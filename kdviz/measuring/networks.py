"""The public verbs: measure one network, or one network at many epochs."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.errors import ConvergenceWarning, DegenerateWarning, KdvizWarning, LayerError, StoreError
from kdviz.measuring.blocks import Arrays, measure_block, measure_noise_unit
from kdviz.measuring.pictures import check_pictures, draw_inputs
from kdviz.measuring.settings import Method, Settings, name_noise_space
from kdviz.measuring.trial import try_network
from kdviz.networks.checkpoints import Checkpoint, load_weights, read_checkpoint
from kdviz.networks.features import Feature, FeatureReader, frozen, resolve_layers, same_random_state
from kdviz.networks.hashing import fingerprint, fingerprint_tensors
from kdviz.networks.inputs import Inputs, prepare_inputs
from kdviz.networks.preparing import device_of, dtype_of, memory_advice, prepare_network
from kdviz.store import Run, create_run, open_run
from kdviz.units import Units

Layers = str | nn.Module | Sequence[str | nn.Module]

BLOCK = 16  # samples written at once; part of what a stored run is, so not a setting


def measure(
    network: nn.Module,
    inputs: Tensor | Iterable[Tensor],
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
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Measure how much of every input unit one or several layers of a network discard.

    High entropy: the layer does not care about the unit; noise can drown it before the feature moves.
    Low entropy, against the background, makes the unit a knowledge point (:func:`kdviz.find_points`).

    Parameters
    ----------
    network
        Any network whose input is one tensor, in float32 or finer, whose forward pass passes gradients and
        treats samples alike and apart in eval mode. Left exactly as found: mode, parameters, gradients, hooks
        and global random state.
    inputs
        Shape ``(B, ...)``, normalised as in training; or an iterable of such batches. Floating point: images
        ``(B, C, H, W)``, clouds ``(B, n, 3)``; with `entry`, anything the network takes, such as token ids.
    layers
        Name from ``network.named_modules()`` (:func:`kdviz.list_layers`), a module, or several of them,
        which then share forward passes.
    units
        What shares one noise scale: ``kdviz.units.grid(16, 16)``, ``units.tokens(...)``, ``units.cloud(n)``.
    foreground
        Masks of the objects: units ``(B, U)``, or of images pixels ``(B, H, W)``, of which the one in the
        middle of a cell decides, as in the authors' code. Needed for knowledge points.
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
    Dataset or dict
        For one layer name a Dataset with dims (epoch, sample, unit) and the variables of
        :mod:`kdviz.schema`, else ``{layer: Dataset}``.

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
    if not _is_epoch(epoch):
        raise ValueError(f"epoch must be an integer of 0 or more, got {epoch!r}")
    names = resolve_layers(network, _as_sequence(layers))
    entry = _entry_name(network, entry)
    network = prepare_network(network, device)
    prepared = prepare_inputs(
        inputs, units, foreground, labels, sample_ids, dtype_of(network), base_noise, entry
    )
    feature = units.feature if feature is None else feature
    settings = _make_settings(
        prepared, method, probes, draws, base_noise, weight, calibration, seed, max_batch
    )
    relative = entry is not None and base_noise is None
    identity = {"weights_fingerprint": fingerprint_tensors(network.state_dict())}
    parts: dict[str, list[xr.Dataset]] = {name: [] for name in names}
    with same_random_state(network), frozen(network), memory_advice(settings.micro_batch, stored=False):
        reader = FeatureReader(network, names, feature, entry)
        if relative:
            reader.noise_unit = measure_noise_unit(reader, prepared)
        try_network(reader, prepared, settings.base_noise, settings.micro_batch, epoch)
        for rows in tqdm(_blocks(len(prepared.ids)), desc="measuring", unit="block", disable=not progress):
            arrays = measure_block(reader, prepared, rows, settings)
            for name in names:
                parts[name].append(_to_dataset(arrays[name], prepared, rows, epoch))
    results = {
        name: _join(
            prepared,
            [blocks],
            _layer_attrs(prepared, settings, name, feature, network, identity, entry, relative),
        )
        for name, blocks in parts.items()
    }
    if relative:
        known = _noise_units([reader.noise_unit], [epoch])
        results = {name: ds.assign({known.name: known}) for name, ds in results.items()}
    _warn_of_doubts(results)
    return results[names[0]] if _is_single(layers) else results


def measure_checkpoints(
    make_network: Callable[[], nn.Module],
    checkpoints: Mapping[int, Checkpoint],
    inputs: Tensor | Iterable[Tensor],
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
) -> xr.Dataset | dict[str, xr.Dataset]:
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
    Dataset or dict
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
    if not isinstance(checkpoints, Mapping):
        raise TypeError(f"checkpoints must map epochs to weights, got {type(checkpoints).__name__}")
    if not checkpoints or not all(_is_epoch(epoch) for epoch in checkpoints):
        raise ValueError(
            f"checkpoints must map epochs (integers of 0 or more) to weights, got epochs {list(checkpoints)}"
        )
    epochs = sorted(map(int, checkpoints))
    made = make_network()
    names = resolve_layers(made, _as_sequence(layers))
    entry = _entry_name(made, entry)
    model = prepare_network(made, device)
    prepared = prepare_inputs(
        inputs, units, foreground, labels, sample_ids, dtype_of(model), base_noise, entry
    )
    feature = units.feature if feature is None else feature
    settings = _make_settings(
        prepared, method, probes, draws, base_noise, weight, calibration, seed, max_batch
    )
    relative = entry is not None and base_noise is None
    fingerprints = [fingerprint_tensors(read_checkpoint(checkpoints[at])) for at in epochs]
    identity = dict(details or {}) | {
        "network": network,
        "network_role": role,
        "weights_fingerprint": fingerprint("".join(fingerprints)),
    }
    pictures = None if thumbnails is None else check_pictures(thumbnails, len(prepared.ids))
    if pictures is not None and store is None:
        raise ValueError("thumbnails are stored with a run: give store, or leave them out")
    run = None if store is None else _open_run(store, prepared, pictures)
    stored = {} if run is None else _stored_batches(run, network, names)
    settings = replace(settings, micro_batch=min(settings.micro_batch, *stored.values(), BLOCK))
    attrs = {
        name: _layer_attrs(
            prepared,
            replace(settings, micro_batch=stored.get(name, settings.micro_batch)),
            name,
            feature,
            model,
            identity,
            entry,
            relative,
        )
        for name in names
    }
    blocks = _blocks(len(prepared.ids))
    todo = [(at, block) for at in range(len(epochs)) for block in range(len(blocks))]
    if run is not None:
        for name in names:
            run.create_group(network, name, epochs=epochs, attrs=attrs[name], block=BLOCK)
        missing = {name: run.missing(network, name) for name in names}
        todo = [pair for pair in todo if any(pair in pairs for pairs in missing.values())]
        _warn_of_smaller_batches(
            {name: batch for name, batch in stored.items() if missing[name]}, settings.micro_batch
        )
    kept: dict[str, list[list[xr.Dataset]]] = {name: [[] for _ in epochs] for name in names}
    with (
        same_random_state(model),
        frozen(model),
        memory_advice(settings.micro_batch, stored=run is not None),
        run.writing() if run is not None else nullcontext(),
    ):
        reader = FeatureReader(model, names, feature, entry)
        units_at: dict[int, float] = {}
        if run is not None and relative and not todo:
            for name in names:
                known = run.dataset(network, name).get("noise_unit")
                units_at = {} if known is None else dict(zip(epochs, known.values.tolist(), strict=True))
        loaded = None
        for at, block in (bar := tqdm(todo, desc=f"measuring {network}", unit="block", disable=not progress)):
            if loaded != at:
                load_weights(model, checkpoints[epochs[at]])
                if relative:
                    reader.noise_unit = units_at[epochs[at]] = measure_noise_unit(reader, prepared)
                try_network(reader, prepared, settings.base_noise, settings.micro_batch, epochs[at])
                loaded = at
                bar.set_postfix_str(f"epoch {epochs[at]}", refresh=False)
            arrays = measure_block(reader, prepared, blocks[block], settings)
            for name in names:
                ds = _to_dataset(arrays[name], prepared, blocks[block], epochs[at])
                if run is not None:
                    run.write_block(network, name, at, block, ds)
                else:
                    kept[name][at].append(ds)
        for missing_epoch in [at for at in epochs if at not in units_at] if relative else []:
            load_weights(model, checkpoints[missing_epoch])  # killed behind its last block
            units_at[missing_epoch] = measure_noise_unit(reader, prepared)
    known = _noise_units([units_at[at] for at in epochs], epochs) if relative else None
    if run is not None:
        if known is not None:
            for name in names:
                run.write_variable(network, name, known)
        results = {name: run.dataset(network, name) for name in names}
    else:
        results = {name: _join(prepared, kept[name], attrs[name]) for name in names}
        if known is not None:
            results = {name: ds.assign({known.name: known}) for name, ds in results.items()}
    _warn_of_doubts(results)
    return results[names[0]] if _is_single(layers) else results


def _entry_name(network: nn.Module, entry: str | nn.Module | None) -> str | None:
    return None if entry is None else resolve_layers(network, [entry])[0]


def _noise_units(values: Sequence[float], epochs: Sequence[int]) -> xr.DataArray:
    """Name the size of one unit of noise at every epoch as the data contract does."""
    array = xr.DataArray(np.asarray(values, "float32"), dims="epoch", coords={"epoch": list(epochs)})
    return schema.annotate(xr.Dataset({"noise_unit": array}))["noise_unit"]


def _make_settings(
    prepared: Inputs,
    method: Method | None,
    probes: int,
    draws: int | None,
    base_noise: float | None,
    weight: float,
    calibration: float,
    seed: int,
    max_batch: int | None,
) -> Settings:
    tau0 = prepared.units.base_noise if base_noise is None else base_noise
    method = prepared.units.method if method is None else method
    draws = prepared.units.draws if draws is None else draws
    asked = Settings(
        method, probes, draws, tau0, weight, calibration, seed, BLOCK if max_batch is None else max_batch
    )
    return replace(asked, micro_batch=min(asked.micro_batch, BLOCK))


def _layer_attrs(
    prepared: Inputs,
    settings: Settings,
    layer: str,
    feature: Feature,
    network: nn.Module,
    identity: Mapping[str, schema.Attribute],
    entry: str | None,
    relative: bool,
) -> dict[str, schema.Attribute]:
    config = settings.as_config() | ({} if entry is None else {"entry": entry})
    return schema.make_attrs(
        layer=layer,
        feature=feature if isinstance(feature, str) else getattr(feature, "__qualname__", repr(feature)),
        modality=prepared.units.modality,
        unit_kind=prepared.units.describe(),
        noise_space=name_noise_space(prepared.units, entry, relative),
        base_noise=config.pop("base_noise"),
        solver="descent",
        weight=config.pop("weight"),
        calibration=config.pop("calibration"),
        seed=config.pop("seed"),
        config=config,
        device=str(device_of(network)),
        torch_version=torch.__version__,
        input_fingerprint=prepared.fingerprint,
        **identity,  # type: ignore[arg-type]
    )


def _to_dataset(arrays: Arrays, prepared: Inputs, rows: range, epoch: int) -> xr.Dataset:
    """Label the arrays of one epoch and block with the contract's dimensions and dtypes."""
    samples = prepared.samples.isel(sample=slice(rows.start, rows.stop))
    variables = {}
    for name, values in arrays.items():
        spec = schema.VARIABLES[name]
        variables[name] = (spec.dims, values[None].astype(spec.dtype))
    coordinates = {"epoch": [epoch], "quartile": np.arange(1, schema.QUARTILES + 1)}
    return xr.Dataset(variables, coords=coordinates).merge(samples)


def _join(
    prepared: Inputs, epochs: Sequence[Sequence[xr.Dataset]], attrs: Mapping[str, schema.Attribute]
) -> xr.Dataset:
    """Put blocks together along sample, then epoch."""
    names = schema.MEASURED
    by_epoch = [
        xr.concat([block[[n for n in names if n in block]] for block in blocks], "sample")
        for blocks in epochs
    ]
    joined = xr.concat(by_epoch, "epoch").drop_vars(prepared.samples.variables, errors="ignore")
    joined = joined.merge(prepared.samples)
    joined.attrs = dict(attrs)
    ds = schema.annotate(joined)
    schema.validate(ds)
    return ds


def _open_run(
    store: str | os.PathLike[str] | Run, prepared: Inputs, pictures: NDArray[np.uint8] | None
) -> Run:
    """Open or make the run, and refuse one that was made from anything but these inputs."""
    run = store if isinstance(store, Run) else _make_run(store, prepared, pictures)
    other = f"the run at {run.path} was made with other"
    if run.samples["sample"].values.tolist() != prepared.ids:
        raise StoreError(f"{other} samples than these inputs; use another run")
    for name, array in prepared.samples.variables.items():
        given = name in ("foreground", "label")
        if (given or name in run.samples) and not np.array_equal(run.samples.get(name, np.nan), array):
            raise StoreError(f"{other} samples: {name!r} differs from what is passed here; use another run")
    for network in run.networks:
        for layer in run.layers(network):
            fingerprint = run.group_attrs(network, layer).get("input_fingerprint", prepared.fingerprint)
            if fingerprint != prepared.fingerprint:
                raise StoreError(
                    f"{other} inputs: {network}/{layer} has input_fingerprint {fingerprint}, these have "
                    f"{prepared.fingerprint}, under the same sample_ids; use another run"
                )
    return run


def _make_run(path: str | os.PathLike[str], prepared: Inputs, pictures: NDArray[np.uint8] | None) -> Run:
    """Make the run with pictures, or reopen it with those it has."""
    samples, name = prepared.samples, "thumbnail"
    if Path(path).is_dir():
        stored = open_run(path).samples
        if name in stored and stored.sizes["sample"] == len(prepared.ids):
            samples = samples.assign({name: stored[name].variable})
    else:
        pictures = draw_inputs(prepared.tensor) if pictures is None else pictures
        if pictures is not None:
            samples = samples.assign({name: (schema.VARIABLES[name].dims, pictures)})
    return create_run(path, samples=samples)


def _stored_batches(run: Run, network: str, layers: Sequence[str]) -> dict[str, int]:
    """Give the samples in one pass with which the layers already in the run were begun."""
    known = run.layers(network) if network in run.networks else []
    configs = {
        layer: json.loads(str(run.group_attrs(network, layer).get("config", "{}")))
        for layer in layers
        if layer in known
    }
    return {layer: config["micro_batch"] for layer, config in configs.items() if "micro_batch" in config}


def _warn_of_smaller_batches(begun: Mapping[str, int], batch: int) -> None:
    larger = {layer: size for layer, size in begun.items() if size > batch}
    if larger:
        warnings.warn(
            f"{', '.join(larger)}: begun with {max(larger.values())} samples in one pass, continued with "
            f"{batch}; the remaining entropies equal those of an uninterrupted measurement to rounding "
            "(about 1e-4 nat), not to the bit",
            KdvizWarning,
            stacklevel=3,
        )


def _blocks(count: int) -> list[range]:
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _as_sequence(layers: Layers) -> list[str | nn.Module]:
    if isinstance(layers, (str, nn.Module)):
        return [layers]
    several = list(layers) if isinstance(layers, Iterable) else [layers]
    if not all(isinstance(layer, (str, nn.Module)) for layer in several):
        raise TypeError(f"layers must be a name, a module or a sequence of them, got {layers!r}")
    if not several:
        raise LayerError("layers is empty; name at least one (kdviz.list_layers(network) names them all)")
    return several


def _is_single(layers: Layers) -> bool:
    return isinstance(layers, (str, nn.Module))


def _is_epoch(epoch: object) -> bool:
    return isinstance(epoch, (int, np.integer)) and not isinstance(epoch, bool) and bool(epoch >= 0)


def _warn_of_doubts(results: Mapping[str, xr.Dataset]) -> None:
    for layer, ds in results.items():
        size = ds["feature_variance"].size
        dead = ds["feature_variance"] == 0
        if dead.any():
            warnings.warn(
                f"layer {layer!r} does not react to noise at all for {int(dead.sum())} of {size} "
                "sample epochs: every unit counts as discarded alike there (feature_variance is 0)",
                DegenerateWarning,
                stacklevel=3,
            )
        unmet = ~ds["converged"] & ~dead
        if unmet.any():
            warnings.warn(
                f"layer {layer!r} does not meet the calibration for {int(unmet.sum())} of {size} "
                "sample epochs: their entropies are not comparable with others (converged is False); "
                "measure with a smaller `calibration` or another weight",
                ConvergenceWarning,
                stacklevel=3,
            )
