"""The independent check: Eq. (4) minimised by plain Monte Carlo, without gains."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.arguments import whole_number
from kdviz.entropy import entropy_of
from kdviz.gain import Bench, minimise_sampled
from kdviz.measuring.blocks import make_benches
from kdviz.measuring.measurement import Measurement
from kdviz.measuring.networks import name_layers
from kdviz.measuring.settings import Settings
from kdviz.networks.features import Feature
from kdviz.networks.inputs import prepare_inputs
from kdviz.networks.reading import InputsLike
from kdviz.units import Units

_VARIANCE_DRAWS = 64


def measure_sampled(
    network: nn.Module,
    inputs: InputsLike,
    *,
    layer: str | nn.Module,
    units: Units,
    foreground: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    entry: str | nn.Module | None = None,
    feature: Feature | None = None,
    base_noise: float | None = None,
    weight: float = 7.0,
    steps: int = 400,
    draws: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Minimise Eq. (4) of Zhang et al., TPAMI 2022, from sampled losses alone.

    No gain, no surrogate and no small-noise assumption: the second opinion on
    ``derive_entropy(ds, solver="optimum", calibration=None)``, and the way to noise too large for it. It
    takes ``2 * steps * draws`` passes a sample, a hundred times those of :func:`kdviz.measure`.

    Parameters
    ----------
    network, inputs, units, foreground, sample_ids, entry, feature, base_noise, seed, progress
        As in :func:`kdviz.measure`.
    layer
        One name or module.
    weight
        Entropy weight in the mean form; nothing is calibrated.
    steps, draws
        Descent steps, and pass pairs in each.

    Returns
    -------
    Dataset
        ``entropy`` in nat, ``noise_scale`` (epoch, sample, unit) and ``feature_variance`` (epoch, sample) for
        the one epoch 0, with ``foreground`` where given: what :func:`kdviz.find_points` reads.

    Raises
    ------
    ValueError, TypeError, LayerError
        As :func:`kdviz.measure`; also for a feature that does not react to noise at all.
    """
    for name, value in (("steps", steps), ("draws", draws)):
        whole_number(name, value, 1)
    layers, entry_name = name_layers(network, [layer], entry)
    prepared = prepare_inputs(inputs, units, foreground, None, sample_ids, base_noise, entry_name)
    settings = Settings.for_units(
        units, base_noise=base_noise, weight=weight, seed=seed, feature=feature, entry=entry_name
    )
    measurement = Measurement(lambda: network, {0: None}, prepared, layers, settings)
    (name,) = measurement.names
    ratios, variances = [], []
    with measurement.reading(0) as reader:
        benches = make_benches(reader, prepared, range(len(prepared.ids)), settings)
        for bench in tqdm(benches, desc="sampling", unit="batch", disable=not progress):
            variance = _feature_variance(bench, name)
            if not variance.isfinite().all():
                raise ValueError(f"layer {name!r} gives NaN or infinite features under small noise")
            if not (variance > 0).all():
                raise ValueError(f"layer {name!r} does not react to noise at all for some of these inputs")
            found = minimise_sampled(bench, name, variance, weight=weight, steps=steps, draws=draws)
            missing = units.count - found.shape[1]
            ratios.append(torch.nn.functional.pad(found, (0, missing), value=torch.nan))
            variances.append(variance)
    scale = (torch.cat(ratios) * settings.base_noise).numpy()[None]
    values = {
        "entropy": entropy_of(scale).astype("float32"),
        "noise_scale": scale.astype("float32"),
        "feature_variance": torch.cat(variances).numpy()[None].astype("float32"),
    }
    if settings.relative:
        values["noise_unit"] = np.array([reader.noise_unit], "float32")
    config = {"steps": steps, "draws": draws} | ({} if entry_name is None else {"entry": entry_name})
    return schema.build(
        values | dict(prepared.samples.data_vars),
        coords=dict(prepared.samples.coords) | {"epoch": [0]},
        attrs=measurement.attrs(name, solver="sampled", calibration=None, config=config),
    )


def _feature_variance(bench: Bench, layer: str) -> Tensor:
    total = torch.zeros(len(bench.inputs), dtype=torch.float64)
    with torch.no_grad():
        for draw in range(_VARIANCE_DRAWS):
            (noise,) = bench.noise("sampled-variance", range(draw, draw + 1))
            features = bench.features(bench.inputs + bench.base_noise * noise)
            total += bench.squared_change(features[layer], layer).cpu()
    return total / _VARIANCE_DRAWS
