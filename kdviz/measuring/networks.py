"""The public verbs: measure one network, or one network at many epochs."""

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.checkpoints import Checkpoint, read_checkpoint
from kdviz.errors import DegenerateWarning, LayerError
from kdviz.features import Feature, FeatureReader, frozen, resolve_layers, unwrap
from kdviz.measuring.blocks import Arrays, measure_block
from kdviz.measuring.checkpoints import fingerprint_weights, load_weights
from kdviz.measuring.inputs import Inputs, prepare_inputs
from kdviz.measuring.settings import Method, Settings
from kdviz.store import Run, create_run
from kdviz.units import Grid

Layers = str | nn.Module | Sequence[str | nn.Module]

BLOCK = 16  # samples written at once; part of what a stored run is, so not a setting


def measure(
    network: nn.Module,
    inputs: Tensor | Iterable[Tensor],
    *,
    layers: Layers,
    units: Grid,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    epoch: int = 0,
    feature: Feature = "relu",
    method: Method = "auto",
    probes: int = 64,
    draws: int = 8,
    base_noise: float | None = None,
    weight: float = 7.0,
    target: float = 0.386,
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
        Any network whose input is one tensor. Left exactly as found: mode, parameters, gradients, hooks and
        global random state.
    inputs
        Shape ``(B, ...)``, floating point, normalised as in training; or an iterable of such batches.
    layers
        Name from ``network.named_modules()`` (:func:`kdviz.list_layers`), a module, or several of them,
        which then share forward passes.
    units
        What shares one noise scale, such as ``kdviz.units.grid(16, 16)``.
    foreground
        Masks of the objects: pixels ``(B, H, W)``, or already units ``(B, U)``. Needed for knowledge points.
    labels
        Class of every sample, ``(B,)``, integers.
    sample_ids
        ``B`` unique, stable names; they key the noise. By default a hash of each input.
    epoch
        Completed training epochs of this network.
    feature
        ``"relu"`` as in the papers, ``"identity"``, or a callable from the layer's output to a tensor.
    method
        ``"gain"``: one measurement of the gains. ``"path"``: the authors' descent, sampled. ``"auto"``: gain
        first, path for samples whose linearity lies outside 0.8 to 1.25.
    probes
        Backward passes a sample and layer for the gains, at least 2.
    draws
        Noise points for the gains, pass pairs a step for the path, and a quarter of the forward passes of
        the feature variance and of the check; at least 2.
    base_noise
        ``tau0`` in input units; by default the preset of `units` (0.01 for images).
    weight, target
        Of the solution that is stored and checked: entropy weight and mean of ``log(sigma / tau0)``.
        :func:`kdviz.derive_entropy` gives any other afterwards without the network.
    seed
        Measurement seed. The same noise is used for every epoch, network and role of one seed.
    device
        Where to compute; by default where the network is. On another device a copy is measured.
    max_batch
        Samples in one pass, the one memory knob; 16 by default.
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
        For inputs that are not finite floating-point samples, masks or names of another size, or settings
        out of range.
    LayerError
        For a layer that is unknown, unused, reused, or gives no tensor.

    Warns
    -----
    DegenerateWarning
        If a layer's feature does not react to noise for some samples.

    Notes
    -----
    Cost a sample and layer, in forward or backward passes: ``probes`` for the gains and about
    ``5 * draws`` for their checks, ``5 * draws`` shared by all layers, and about ``76 * draws`` more where
    the path takes over. The authors' procedure takes 15,456 [1]_.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Eqs. (1) to (4), with the settings of the CVPR 2020 code.

    Examples
    --------
    >>> import torch, kdviz
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    >>> ds = kdviz.measure(network, torch.rand(2, 3, 4, 4), layers="1", units=kdviz.units.grid(4),
    ...                    progress=False)
    >>> dict(ds.gain.sizes)
    {'epoch': 1, 'sample': 2, 'unit': 16}
    """
    if isinstance(epoch, bool) or not isinstance(epoch, (int, np.integer)) or epoch < 0:
        raise ValueError(f"epoch must be an integer of 0 or more, got {epoch!r}")
    names = resolve_layers(network, _as_sequence(layers))
    prepared = prepare_inputs(inputs, units, foreground, labels, sample_ids)
    settings = _make_settings(prepared, method, probes, draws, base_noise, weight, target, seed, max_batch)
    network = _on_device(unwrap(network), device)
    identity = {"weights_fingerprint": fingerprint_weights(network.state_dict())}
    parts: dict[str, list[xr.Dataset]] = {name: [] for name in names}
    with frozen(network):
        reader = FeatureReader(network, names, feature)
        reader.check(prepared.tensor[:1].to(_device_of(network)))
        for rows in tqdm(_blocks(len(prepared.ids)), desc="measuring", unit="block", disable=not progress):
            arrays = measure_block(reader, prepared, rows, settings)
            for name in names:
                parts[name].append(_to_dataset(arrays[name], prepared, rows, epoch))
    results = {
        name: _join(prepared, [blocks], _layer_attrs(prepared, settings, name, feature, network, identity))
        for name, blocks in parts.items()
    }
    _warn_of_dead_features(results)
    return results[names[0]] if _is_single(layers) else results


def measure_checkpoints(
    make_network: Callable[[], nn.Module],
    checkpoints: Mapping[int, Checkpoint],
    inputs: Tensor | Iterable[Tensor],
    *,
    network: str,
    role: str,
    layers: Layers,
    units: Grid,
    store: str | os.PathLike[str] | Run | None = None,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    feature: Feature = "relu",
    method: Method = "auto",
    probes: int = 64,
    draws: int = 8,
    base_noise: float | None = None,
    weight: float = 7.0,
    target: float = 0.386,
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
    inputs, layers, units, foreground, labels, sample_ids, feature, method, probes, draws, base_noise, weight
        As in :func:`measure`.
    target, seed, device, max_batch, progress
        As in :func:`measure`.
    network
        Free name of the network in the run, such as ``"student-fc1-s0"``.
    role
        ``"teacher"``, ``"student"`` or ``"baseline"``.
    store
        Run directory or :class:`kdviz.store.Run` to write to; made if it does not exist. Every block of 16
        samples is written as soon as it is measured; a killed measurement, called again with the same
        arguments, goes on where it was and ends with the same bits on the same machine.
    details
        Further attributes of the network, named as in :func:`kdviz.schema.make_attrs`: ``distilled_layer``,
        ``teacher``, ``architecture``, ``distillation_method``, ``dataset_id``.

    Returns
    -------
    Dataset or dict
        As :func:`measure`, with all epochs.

    Raises
    ------
    ValueError
        As :func:`measure`; also for no checkpoints, negative epochs, or an unknown role.
    DataError
        If a checkpoint is missing, damaged, or does not fit the network.
    StoreError
        If the store was measured with other settings (the first that differs is named), other samples, or is
        being written by another process.
    """
    epochs = sorted(checkpoints)
    if not epochs or epochs[0] < 0:
        raise ValueError(f"checkpoints must map epochs (0 or more) to weights, got epochs {epochs}")
    model = _on_device(unwrap(make_network()), device)
    names = resolve_layers(model, _as_sequence(layers))
    prepared = prepare_inputs(inputs, units, foreground, labels, sample_ids)
    settings = _make_settings(prepared, method, probes, draws, base_noise, weight, target, seed, max_batch)
    fingerprints = {str(at): fingerprint_weights(read_checkpoint(checkpoints[at])) for at in epochs}
    identity = dict(details or {}) | {
        "network": network,
        "network_role": role,
        "weights_fingerprint": hashlib.sha256("".join(fingerprints.values()).encode()).hexdigest()[:16],
    }
    attrs = {name: _layer_attrs(prepared, settings, name, feature, model, identity) for name in names}
    blocks = _blocks(len(prepared.ids))
    run = None if store is None else _open_groups(store, network, prepared, epochs, attrs)
    todo = [(at, block) for at in range(len(epochs)) for block in range(len(blocks))]
    if run is not None:
        open_blocks = {pair for name in names for pair in run.missing(network, name)}
        todo = [pair for pair in todo if pair in open_blocks]
    kept: dict[str, list[list[xr.Dataset]]] = {name: [[] for _ in epochs] for name in names}
    with frozen(model), run.writing() if run is not None else nullcontext():
        reader = FeatureReader(model, names, feature)
        loaded = None
        for at, block in (bar := tqdm(todo, desc=f"measuring {network}", unit="block", disable=not progress)):
            if loaded != at:
                load_weights(model, checkpoints[epochs[at]])
                reader.check(prepared.tensor[:1].to(_device_of(model)))
                loaded = at
                bar.set_postfix_str(f"epoch {epochs[at]}", refresh=False)
            arrays = measure_block(reader, prepared, blocks[block], settings)
            for name in names:
                ds = _to_dataset(arrays[name], prepared, blocks[block], epochs[at])
                if run is not None:
                    run.write_block(network, name, at, block, ds)
                else:
                    kept[name][at].append(ds)
    if run is not None:
        results = {name: run.dataset(network, name) for name in names}
    else:
        results = {name: _join(prepared, kept[name], attrs[name]) for name in names}
    _warn_of_dead_features(results)
    return results[names[0]] if _is_single(layers) else results


def _make_settings(
    prepared: Inputs,
    method: Method,
    probes: int,
    draws: int,
    base_noise: float | None,
    weight: float,
    target: float,
    seed: int,
    max_batch: int | None,
) -> Settings:
    tau0 = prepared.units.base_noise if base_noise is None else base_noise
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch must be 1 or more, got {max_batch!r}")
    micro_batch = BLOCK if max_batch is None else min(max_batch, BLOCK)
    return Settings(method, probes, draws, tau0, weight, target, seed, micro_batch)


def _layer_attrs(
    prepared: Inputs,
    settings: Settings,
    layer: str,
    feature: Feature,
    network: nn.Module,
    identity: Mapping[str, schema.Attribute],
) -> dict[str, schema.Attribute]:
    config = settings.as_config()
    return schema.make_attrs(
        layer=layer,
        feature=feature if isinstance(feature, str) else getattr(feature, "__qualname__", repr(feature)),
        modality=prepared.units.modality,
        unit_kind=prepared.units.describe(),
        noise_space=prepared.units.noise_space,
        base_noise=config.pop("base_noise"),
        solver="descent",
        weight=config.pop("weight"),
        target=config.pop("target"),
        seed=config.pop("seed"),
        config=config,
        device=str(_device_of(network)),
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


def _open_groups(
    store: str | os.PathLike[str] | Run,
    network: str,
    prepared: Inputs,
    epochs: Sequence[int],
    attrs: Mapping[str, Mapping[str, schema.Attribute]],
) -> Run:
    run = store if isinstance(store, Run) else create_run(store, samples=prepared.samples)
    if run.samples["sample"].values.tolist() != prepared.ids:
        raise ValueError(f"the run at {run.path} holds other samples than these inputs; use another run")
    for layer, layer_attrs in attrs.items():
        run.create_group(network, layer, epochs=epochs, attrs=layer_attrs, block=BLOCK)
    return run


def _blocks(count: int) -> list[range]:
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _as_sequence(layers: Layers) -> Sequence[str | nn.Module]:
    if not _is_single(layers) and not len(layers):  # type: ignore[arg-type]
        raise LayerError("layers is empty; name at least one (kdviz.list_layers(network) names them all)")
    return [layers] if _is_single(layers) else list(layers)  # type: ignore[list-item, arg-type]


def _is_single(layers: Layers) -> bool:
    return isinstance(layers, (str, nn.Module))


def _on_device(network: nn.Module, device: str | torch.device | None) -> nn.Module:
    if device is None or torch.device(device) == _device_of(network):
        return network
    return copy.deepcopy(network).to(device)


def _device_of(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _warn_of_dead_features(results: Mapping[str, xr.Dataset]) -> None:
    for layer, ds in results.items():
        dead = int((ds["feature_variance"] == 0).sum())
        if dead:
            warnings.warn(
                f"layer {layer!r} does not react to noise at all for {dead} of {ds['feature_variance'].size} "
                "sample epochs: every unit counts as discarded alike there (feature_variance is 0)",
                DegenerateWarning,
                stacklevel=3,
            )
