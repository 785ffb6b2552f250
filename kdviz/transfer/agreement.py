"""Properties told from answers alone: the class that the teacher gives, by domain, and accuracy by group."""

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.networks.features import Batch
from kdviz.networks.reading import InputsLike
from kdviz.transfer.question import Options, Question, ask, per_sample


def consensus(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    domain: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Tell on which samples each network gives the class that the teacher gives, right or wrong [1]_.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`.
    domain
        Name of the domain of each sample, such as ``"sketch"``: samples of several domains one after another.

    Returns
    -------
    Dataset
        ``same_answer``, the headline, and ``right``, ``(network, sample)``; coordinate ``domain`` of samples.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 4.4.
    """
    question = ask(networks, inputs, labels, **options)
    domains = per_sample(domain, "domain", question)
    return question.build("consensus", "same_answer", _compare_answers(question), {"domain": domains})


def bias(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    group: Sequence[str],
    **options: Unpack[Options],
) -> xr.Dataset:
    """Tell the accuracy by groups of samples: domains that the teacher alone saw, or groups it knows badly.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`.
    group
        Name of the group of each sample.

    Returns
    -------
    Dataset
        ``right``, the headline, and ``same_answer``, ``(network, sample)``; coordinate ``group`` of samples.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 5.
    """
    question = ask(networks, inputs, labels, **options)
    groups = per_sample(group, "group", question)
    return question.build("bias", "right", _compare_answers(question), {"group": groups})


def _compare_answers(question: Question) -> dict[str, NDArray]:
    at = list(question.networks).index(question.teacher)

    def look(batch: Batch, labels: Tensor, rows: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
        told = question.predict(batch)
        return {"same_answer": told == told[at], "right": told == labels.numpy()}

    return question.walk(look, "answers")
