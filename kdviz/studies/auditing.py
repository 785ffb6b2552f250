"""Ask which maps of finished networks survive weights that are rescaled without changing an output."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from kdviz import analysis, schema
from kdviz.arguments import name_some, whole_number
from kdviz.attribution import METHODS, find_map_layer
from kdviz.coherency import Pair, Survey, audit, draw_maps, find_pairs, fold_batch_norm
from kdviz.coherency.audits import is_within, locate
from kdviz.coherency.rescaling import in_double
from kdviz.errors import LayerError, naming
from kdviz.networks.hashing import fingerprint, fingerprint_checkpoint
from kdviz.networks.preparing import device_of, prepare_network
from kdviz.sources import ImageSet
from kdviz.store import Run
from kdviz.studies.attributing import load_measured
from kdviz.studies.cast import Cast, place_evenly
from kdviz.studies.tasks import Subject
from kdviz.units import Grid

_VERSION = 1  # raised when the same question gets another answer: what is kept is then asked again
_OF_OUTPUTS = ("integrated_gradients", "occlusion")  # sums of outputs, which stay the same; they cost most
_METHODS = tuple(name for name in METHODS if name not in _OF_OUTPUTS)
_PROBES = 16


def check_coherency(cast: Cast, samples: int, pairs: int) -> Run:
    """Rescale some pairs of layers of every network, and keep which maps moved in the run.

    Raises
    ------
    ValueError
        If networks take no images, or nothing is to be asked: no sample or no pair.
    StoreError
        If a network is not the one that was measured.
    """
    samples, pairs = whole_number("samples", samples, 1), whole_number("pairs", pairs, 1)
    if not isinstance(cast.measured_set, ImageSet):
        raise ValueError(
            f"kdviz coherency compares maps of images, and {cast.run.path} is of "
            f"{schema.choose_words(cast.run.samples).sample}s"
        )
    cast.run.expect({f"coherency/{subject.name}": {} for subject in cast.subjects})
    for subject in cast.subjects:
        with naming(subject.name):
            _check(cast, subject, samples, pairs)
    return cast.run


def _check(cast: Cast, subject: Subject, samples: int, pairs: int) -> None:
    """Write what moved of one network, unless the run holds it."""
    name, (epoch, weights) = f"coherency/{subject.name}", cast.finished(subject)
    threshold = analysis.Settings().of_run(cast.run).threshold
    assert threshold is not None
    weight = float(cast.run.catalogue()[subject.name, cast.modules(subject)[0]]["weight"])
    asked = (_VERSION, _METHODS, _PROBES, samples, pairs, epoch, threshold, weight, cast.modules(subject))
    identity = fingerprint(repr(asked), cast.measured_set.fingerprint, fingerprint_checkpoint(weights))
    if cast.run.find_result(name, identity) is not None:
        return
    network = cast.build_for(subject)()
    load_measured(cast, subject, network, epoch, weights)
    network = prepare_network(network, cast.device)
    found = _audit(cast, subject, network, samples, pairs, threshold, weight)
    about = {"network": subject.name, "network_role": subject.role, "identity": identity}
    cast.run.write_result(name, found.assign_attrs(about), overwrite=True)


def _audit(
    cast: Cast,
    subject: Subject,
    network: nn.Module,
    samples: int,
    pairs: int,
    threshold: float,
    weight: float,
) -> xr.Dataset:
    given, attrs = cast.measured, schema.make_attrs()
    assert isinstance(given.units, Grid)
    rows = place_evenly(len(given.inputs), samples)
    images = torch.from_numpy(given.inputs[rows]).to(device_of(network))
    classes = torch.from_numpy(cast.measured_set.labels[rows]).to(images.device)
    try:
        # in double precision, in which maps are compared, too
        survey = find_pairs(in_double(fold_batch_norm(network, images)), images.double())
        layers = _list_called(survey, [*cast.modules(subject), *_list_mapped(network, images)])
        chosen = _choose_pairs(survey, layers, pairs)
        if not any(_is_inside(layer, pair, survey) for layer in layers for pair in chosen):
            layers.append(chosen[-1].first)  # or nothing would be seen where maps may move
    except ValueError as error:  # it cannot be traced, or has nothing to rescale: an answer, too
        return schema.build({"audit_refused": np.array(str(error))}, attrs=attrs)
    drawn = draw_maps(network, images[:1], classes[:1], layers=layers, methods=_METHODS)
    audited = audit(
        network,
        images,
        classes,
        units=given.units,
        foreground=None if given.foreground is None else given.foreground[rows],
        pairs=chosen,
        layers=layers,
        methods=[*dict.fromkeys(method for _, method in drawn), "entropy"],
        probes=_PROBES,
        threshold=threshold,
        weight=weight,
        name=subject.name,
        progress=cast.progress,
    )
    return schema.build({f"audit_{name}": audited[name].to_numpy() for name in audited}, attrs=attrs)


def _list_mapped(network: nn.Module, images: Tensor) -> list[str]:
    """List the layer at which attribution maps are drawn, if there is one."""
    with suppress(LayerError):
        return [find_map_layer(network, images)]
    return []


def _list_called(survey: Survey, layers: Sequence[str]) -> list[str]:
    """List the layers whose place in the forward pass is known."""
    known = [layer for layer in dict.fromkeys(layers) if any(is_within(name, layer) for name in survey.order)]
    if not known:
        raise ValueError(f"torch.fx sees no call of {name_some(layers)}")
    return known


def _choose_pairs(survey: Survey, layers: Sequence[str], count: int) -> list[Pair]:
    """Choose so many pairs: first those with a measured layer inside, then others from end to end."""
    if not survey.pairs:
        raise ValueError(f"no pair of layers can be rescaled: {next(iter(survey.refusals.values()), '')}")
    inside = [one for one in survey.pairs if any(_is_inside(layer, one, survey) for layer in layers)]
    others = [one for one in survey.pairs if one not in inside]
    return [*inside, *(others[at] for at in place_evenly(len(others), count - len(inside)))][:count]


def _is_inside(layer: str, pair: Pair, survey: Survey) -> bool:
    return locate(layer, [pair], survey.order) == "between"
