"""Attributes of a dataset: where a result comes from, and what can be stored."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kdviz import __version__
from kdviz.schema.variables import Attribute

SCHEMA_VERSION = 3

# Names that xarray or the file formats read as instructions, not as attributes.
_ATTRIBUTE_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_RESERVED_ATTRS = frozenset(
    "_FillValue missing_value scale_factor add_offset dtype calendar coordinates grid_mapping".split()
)


def make_attrs(
    *,
    network: str | None = None,
    network_role: str | None = None,
    architecture: str | None = None,
    distillation_method: str | None = None,
    distilled_layer: str | None = None,
    teacher: str | None = None,
    layer: str | None = None,
    feature: str | None = None,
    modality: str | None = None,
    unit_kind: str | None = None,
    noise_space: str | None = None,
    base_noise: float | None = None,
    solver: str | None = None,
    weight: float | None = None,
    calibration: float | None = None,
    unit_gain: str | None = None,
    dataset_id: str | None = None,
    seed: int | None = None,
    training_seed: int | None = None,
    learning_rate: float | None = None,
    accuracy: float | None = None,
    device: str | None = None,
    torch_version: str | None = None,
    config: Mapping[str, Any] | None = None,
    weights_fingerprint: str | None = None,
    input_fingerprint: str | None = None,
) -> dict[str, Attribute]:
    """Make dataset attributes that say where a result comes from.

    Parameters
    ----------
    network, network_role, architecture
        Free name of the network; its part in a study, such as ``teacher``, ``student`` or ``baseline``; and
        its architecture.
    distillation_method, distilled_layer, teacher
        How, at which layer and from which network a student was distilled.
    layer, feature
        Name from ``named_modules()``, and what was read there: ``relu``, ``identity``, or a
        callable's name and a hash of what it does.
    modality, unit_kind, noise_space
        Kind of input, of its units, and where noise is added: ``pixels``, ``coordinates``, the output
        of an ``embedding`` in its own numbers, or ``relative embedding``, in units of its root mean square.
    base_noise
        Standard deviation of the base noise, in normalised input units.
    solver, weight, calibration, unit_gain
        Of the derived entropies: solver, entropy weight, calibration in nat above the base noise, and what
        units of different sizes count: ``mean`` of their parts, or ``sum``.
    dataset_id, seed, device, torch_version
        Where the inputs, the noise of the measurement and the arithmetic come from.
    training_seed, learning_rate, accuracy
        Seed the network was trained with, the learning rate of its first epoch, and its share of right
        answers on held-out samples.
    config
        Every further setting; written as one JSON string with sorted keys.
    weights_fingerprint, input_fingerprint
        Hashes of the network's weights, one an epoch with spaces between, and of the inputs.

    Returns
    -------
    dict
        The given values, all str, int or float, with ``schema``, ``schema_version``, ``kdviz_version`` and
        ``created_at`` (UTC, ISO 8601). What was not given is left out.

    Raises
    ------
    ValueError
        If a value cannot be stored.
    TypeError
        If `config` holds what JSON cannot.
    """
    given = dict(locals())
    attrs: dict[str, Attribute] = {
        "schema": "kdviz",
        "schema_version": SCHEMA_VERSION,
        "kdviz_version": __version__,
        **{name: value for name, value in given.items() if value is not None},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if config is not None:
        attrs["config"] = json.dumps(config, sort_keys=True)
    if faults := list(attribute_faults("make_attrs", attrs)):
        raise ValueError("; ".join(faults))
    return attrs


def attribute_faults(owner: str, attrs: Mapping[Any, Any]) -> Iterator[str]:
    """Faults of attributes that netCDF or Zarr would refuse or give back changed."""
    for name, value in attrs.items():
        if not isinstance(name, str) or not _ATTRIBUTE_NAME.fullmatch(name) or name in _RESERVED_ATTRS:
            yield f"{owner}: attribute name {name!r} cannot be stored; use a plain ASCII word"
        elif isinstance(value, bool) or not isinstance(value, (str, int, float, np.integer, np.floating)):
            yield (
                f"{owner}: attribute {name!r} is a {type(value).__name__}; allowed: str, int, float "
                "(write structures as one JSON string)"
            )
        elif isinstance(value, str) and ("\0" in value or not is_utf8(value)):
            yield f"{owner}: attribute {name!r} holds characters that cannot be stored"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{owner}: attribute {name!r} is {value}, beyond 64 bits"


def is_utf8(text: str) -> bool:
    """Whether the text can be written at all: no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
