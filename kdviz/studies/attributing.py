"""Draw attribution maps of a finished network, once it is known to be the one that was measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdviz.errors import StoreError
from kdviz.measuring.trial import is_same_response, respond
from kdviz.networks import prepare_inputs
from kdviz.networks.features import FeatureReader, frozen
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.store import open_run
from kdviz.studies.cast import Cast
from kdviz.studies.tasks import Subject
from kdviz.units import Grid


def attribute(cast: Cast, subject: Subject) -> None:
    """Draw the maps of a network and keep them in the run.

    Raises
    ------
    StoreError
        If it is not the network that was measured.
    """
    from kdviz.attribution import attribute  # an extra that training and measuring do without

    network, samples, prepared = cast.build_for(subject)(), cast.measured_set, cast.measured
    run, (epoch, weights) = open_run(cast.run.path), cast.finished(subject)
    assert isinstance(prepared.units, Grid)
    load_measured(cast, subject, network, epoch, weights)
    ds = attribute(
        network,
        torch.from_numpy(prepared.inputs[:]),
        units=prepared.units,
        labels=samples.labels,
        foreground=prepared.foreground,
        sample_ids=samples.sample_ids,
        epoch=epoch,
        device=cast.device,
        name=subject.name,
        progress=cast.progress,
    )
    about = {
        "network": subject.name,
        "network_role": subject.role,
        "architecture": run.catalogue()[subject.name, cast.modules(subject)[0]]["architecture"],
    }
    run.write_result(f"attribution/{subject.name}", ds.assign_attrs(about), overwrite=True)


def entry_of(attrs: Mapping[str, Any]) -> str | None:
    """Name the module at whose output noise was added, by the attributes of what was measured; or None."""
    entry: str | None = json.loads(str(attrs.get("config", "{}"))).get("entry")
    return entry


def load_measured(cast: Cast, subject: Subject, network: nn.Module, epoch: int, weights: Path) -> None:
    """Load weights into a network and refuse it if it is not the one that was measured at this epoch.

    Raises
    ------
    StoreError
        If it is not.
    """
    run, measured, modules = cast.run, cast.checkpoints(subject)[epoch], cast.modules(subject)
    at = run.epochs(subject.name, modules[0]).index(epoch)
    attrs = run.catalogue()[subject.name, modules[0]]
    same = (
        fingerprint_tensors(cast.load(subject, network, measured))
        == str(attrs["weights_fingerprint"]).split()[at]
    )
    cast.load(subject, network, weights)  # of a head beside the same features, where a student needs one
    entry, measured_inputs = entry_of(attrs), torch.from_numpy(cast.measured.inputs[:])
    inputs = prepare_inputs(measured_inputs, cast.measured.units, entry=entry)
    with frozen(network):
        main = inputs.main if entry is None else None
        reader = FeatureReader(network, modules, cast.feature_of(subject), entry, main)
        found = respond(reader, inputs)
    for module in modules:
        known = run.variable(subject.name, module, "clean_response")
        if known is not None and not np.isnan(stored := float(known[at])):
            same = same and is_same_response(found[module], stored)
    if not same:
        where = " or ".join(dict.fromkeys(map(str, (measured, weights))))
        raise StoreError(
            f"{subject.name} is not the network that was measured: the weights in {where} or its code "
            "have changed; put them back, or measure in another folder"
        )
