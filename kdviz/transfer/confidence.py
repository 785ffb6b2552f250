"""How sure networks are, and of what: probabilities sample by sample, and what follows from them for all.

The last two functions take the result of the first and need no network.

Symbols: ``M`` networks, ``N`` samples, ``B`` samples of a batch, ``C`` classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div

from kdviz import schema
from kdviz.arguments import whole_number
from kdviz.networks.features import Batch
from kdviz.networks.reading import InputsLike
from kdviz.transfer.question import Options, ask

READ = ("right", "certainty", "divergence", "predicted")


def confidence(
    networks: Mapping[str, nn.Module], inputs: InputsLike, labels: ArrayLike, **options: Unpack[Options]
) -> xr.Dataset:
    """Tell what each network answers, how sure it is, and how far its probabilities are from the teacher's.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`.

    Returns
    -------
    Dataset
        ``shared_probability``, the headline, ``(network, sample)``: the sum over classes of the smaller of
        both probabilities, the teacher's and the network's; 1 less half of the sum of their distances, 1
        where they are the same. ``divergence``, in nat: the Kullback-Leibler divergence of the teacher's
        probabilities from the network's, the sum over classes of ``p_teacher * log(p_teacher / p_network)``;
        class by class it is ``ds["divergence"].groupby("label").mean()``.
        Beside them ``predicted``, ``certainty`` (the largest probability) and ``right``. The attribute
        ``classes`` is their number.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`.
    """
    question = ask(networks, inputs, labels, **options)
    at = list(question.networks).index(question.teacher)

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        logs = question.answer(batch).double().log_softmax(2)
        probabilities = logs.exp()
        certainty, predicted = probabilities.max(2)
        shared = torch.minimum(probabilities, probabilities[at]).sum(2)
        apart = kl_div(logs, logs[at].expand_as(logs), reduction="none", log_target=True).sum(2)
        return {
            "predicted": predicted.numpy(),
            "certainty": certainty.numpy(),
            "right": (predicted == classes).numpy(),
            "shared_probability": shared.numpy(),
            "divergence": apart.clamp(min=0).numpy(),  # but for rounding it is never negative
        }

    values = question.walk(look, "confidence")
    return question.build("confidence", "shared_probability", values, classes=question.classes)


def error_consistency(ds: xr.Dataset) -> xr.Dataset:
    """Tell how much more often a network is right and wrong where the teacher is than by chance [1]_.

    Parameters
    ----------
    ds
        The result of :func:`confidence`.

    Returns
    -------
    Dataset
        ``error_consistency`` ``(network,)``, Cohen's kappa of being right: 1 where both are right on the same
        samples, 0 where their errors are independent of each other, NaN where both are always right or both
        always wrong. ``error_consistency_error`` ``(network,)``, its standard error by the jackknife over
        samples.

    Raises
    ------
    SchemaError
        If `ds` is no such result.

    References
    ----------
    .. [1] Geirhos et al., "Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
       measuring error consistency", NeurIPS 2020, Eqs. (1) to (3).
    """
    schema.validate(ds, require=READ)
    own, count = ds["right"].values.astype(int), ds.sizes["sample"]
    teachers = np.broadcast_to(own[ds["network"].values.tolist().index(ds.attrs["teacher"])], own.shape)
    rights = own * teachers, own, teachers
    totals = [right.sum(1, keepdims=True) for right in rights]
    kappa = _kappa(totals, count)[:, 0]
    left_out = [total - right for total, right in zip(totals, rights, strict=True)]
    error = np.sqrt((count - 1) * _kappa(left_out, count - 1).var(1))
    return _summarise(ds, {"error_consistency": kappa, "error_consistency_error": error})


def _kappa(rights: Sequence[NDArray], count: int) -> NDArray[np.float64]:
    """Return Cohen's kappa, given how many of `count` both, the network and the teacher get right."""
    with np.errstate(invalid="ignore"):  # 0 / 0 where both are always right, or both always wrong
        both, own, teachers = rights
        p, q, observed = own / count, teachers / count, (count - own - teachers + 2 * both) / count
        chance = p * q + (1 - p) * (1 - q)
        return (observed - chance) / (1 - chance)


def calibration_error(ds: xr.Dataset, *, bins: int = 15) -> xr.Dataset:
    """Tell how far certainty is from accuracy: the expected calibration error [1]_.

    Parameters
    ----------
    ds
        The result of :func:`confidence`.
    bins
        Number of bins of equal width, each open below and closed above.

    Returns
    -------
    Dataset
        ``calibration_error`` ``(network,)``: the mean over samples, bin by bin, of the distance between mean
        certainty and accuracy.

    Raises
    ------
    ValueError, SchemaError
        If `bins` is no positive integer or `ds` no such result.

    References
    ----------
    .. [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. (3).
    """
    schema.validate(ds, require=READ)
    bins, certainty = whole_number("bins", bins, 1), ds["certainty"].values
    place = np.clip(np.ceil(certainty * bins).astype(int) - 1, 0, bins - 1)
    gaps = ds["right"].values - certainty
    error = [
        np.abs(np.bincount(at, gap)).sum() / len(gap) for at, gap in zip(place, gaps, strict=True)
    ]  # a bin's share of samples times its mean gap is its sum of gaps over all samples
    return _summarise(ds, {"calibration_error": error}, bins=bins)


def _summarise(ds: xr.Dataset, values: Mapping[str, Any], **attrs: schema.Attribute) -> xr.Dataset:
    """Make a dataset of one value a network."""
    about = {"property": "confidence", "teacher": ds.attrs["teacher"], **attrs}
    return schema.build(values, coords={"network": ds["network"], "role": ds["role"]}, attrs=about)
