"""How alike two networks see samples (FSS), and how relevant to the classes what each sees is (RS).

Symbols: ``n`` samples, ``D`` entries of a feature, ``M`` networks, ``L`` layers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t
from torch import Tensor, nn

from kdviz import schema
from kdviz.arguments import one_of, positive_number, whole_number
from kdviz.attribution.maps import Place, check_layer
from kdviz.errors import LayerError
from kdviz.networks.features import Batch
from kdviz.networks.preparing import device_of, memory_advice
from kdviz.networks.reading import InputsLike
from kdviz.transfer.pixels import find_images
from kdviz.transfer.question import Question, ask, beside, flatten
from kdviz.transfer.representation import check_rows
from kdviz.unicam.maps import Layers, name_layers
from kdviz.unicam.perturbation import perturb as perturb_images
from kdviz.unicam.statistics import correlation, distances, u_centred, without
from kdviz.unicam.truth import Truth, describe_truth, place_classes

CONFIDENCE = 0.95
FEWEST_LEFT = 6  # samples, when a part is left out for the intervals
_PAIRS = {"student-base": (0, 1), "student-teacher": (0, 2), "base-teacher": (1, 2)}
"""Of two networks, by their positions."""


def score(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    student: str,
    base: str,
    teacher: str | None = None,
    layers: Layers,
    truth: Truth = "one-hot",
    perturb: float | None = None,
    resamples: int = 200,
    seed: int = 0,
    epoch: int = 0,
    sample_ids: Sequence[str] | None = None,
    max_batch: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score layers of a student, of a base that no teacher taught and, if given, of the teacher [1]_.

    The relevance score RS is the bias-corrected squared distance correlation of a layer with the classes, the
    feature similarity score FSS that of the layers of two networks: 1 for such as differ by rotation and
    scale, about 0, of either sign, for independent ones. Small numbers are usual where classes are many.

    Parameters
    ----------
    networks
        By name; those named below are asked. Each gives logits ``(B, classes)`` of the same classes.
    inputs, labels, sample_ids, max_batch, device, progress
        As for :func:`kdviz.transfer.ask`, seven samples or more, better some hundred, of two classes or more.
    student, base, teacher
        Names among `networks`.
    layers
        Names of layers; where they differ, tuples of one each of student, base and, if given, teacher. Any
        that give a row for each sample; texts' padding and class tokens are part of it.
    truth
        As for :func:`explain`; :func:`class_prototypes` makes places of an encoder's features.
    perturb
        Share of the pixels that each network keeps of its images, the most relevant by HiResCAM at the very
        layer, or, where that has no map, at the deepest that has one. The others are imputed from around,
        with a little noise; 0.5 in the published script. Adds the scores of such images to those of plain
        ones; images only.
    resamples
        Parts left out one after the other for the intervals, at most one a sample; six samples or more must
        be left.
    seed
        Of these parts, and of what is imputed.
    epoch
        Completed training epochs of the networks; results of several join along this dimension.

    Returns
    -------
    Dataset
        ``rs`` ``(layer, epoch, input, network)``; ``rs_distilled`` and ``rs_residual`` ``(layer, epoch,
        input)``, relevance of what the student has apart from the base, and the base from the student;
        ``fss`` ``(layer, epoch, input, pair)``, pairs by role: ``"student-base"`` and, with a teacher,
        ``"student-teacher"`` and ``"base-teacher"``. ``rs_ahead`` and, with a teacher, ``fss_ahead``
        ``(layer, epoch, input)``: ``rs_distilled`` less ``rs_residual``, and the likeness of student and
        teacher less that of base and teacher, of the same samples. Each with ``_low`` and ``_high``, a 95 %
        interval over samples for these networks. Coordinate ``input``: ``"plain"`` and, if asked for,
        ``"perturbed"``. A score is NaN where a layer is the same for all samples, or a network has nothing
        apart, an interval also where that holds, or a single class remains, when a part is left out; ``note``
        says so.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as said, before any work.
    LayerError
        If a network has no such layer, or it gives no tensor with a row for each sample.
    FloatingPointError
        If a network gives NaN or infinite logits or features.
    MemoryError
        If a pass, or the features of a layer, do not fit; the message says what to lower.

    Notes
    -----
    The interval is that of a jackknife [2]_: parts of the samples are left out one after the other, which
    repeats no sample. A bootstrap would, and samples at no distance from their copies pass for structure. Of
    normal features it covers the true score in 0.88 to 0.98 of cases with 30 to 120 samples; where that is 0,
    it is too wide, by 1.4.

    Cost: a forward pass a sample, network and layer, a second one and a pass back if perturbed. Memory: the
    features of one layer and network, ``n * D`` numbers as the network gives them, and tables ``n * n``.

    References
    ----------
    .. [1] Adhane et al., "On Explaining Knowledge Distillation: Measuring and Visualising the Knowledge
       Transfer Process", WACV 2025 (RS and FSS).
    .. [2] Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981.

    Examples
    --------
    >>> import kdviz
    >>> networks = {name: kdviz.testing.small_cnn(seed=seed) for seed, name in enumerate(["kl", "alone"])}
    >>> images = kdviz.testing.random_images(16)
    >>> ds = kdviz.unicam.score(networks, images, [0, 1, 2, 3] * 4, student="kl", base="alone",
    ...                         layers=["relu2", "fc1"], progress=False)
    >>> ds.fss.dims, ds.pair.values.tolist()
    (('layer', 'epoch', 'input', 'pair'), ['student-base'])
    """
    roles = {"student": student, "base": base} | ({} if teacher is None else {"teacher": teacher})
    for role, name in roles.items():
        one_of(role, name, networks)
    names = list(roles.values())
    if len({*names}) < len(names):
        raise ValueError(f"student, base and teacher must be different networks, got {', '.join(names)}")
    resamples, seed = whole_number("resamples", resamples, 2), whole_number("seed", seed)
    epoch = whole_number("epoch", epoch)
    if perturb is not None and positive_number("perturb", perturb) >= 1:
        raise ValueError(f"perturb must be a share of pixels below 1, got {perturb}")
    asked = {name: networks[name] for name in names}
    layered = name_layers(layers, list(asked.values()))
    question = ask(
        asked,
        inputs,
        labels,
        teacher=base,
        sample_ids=sample_ids,
        max_batch=max_batch,
        device=device,
        progress=progress,
    )
    places = place_classes(truth, question.labels, question.classes)
    count = len(places)
    parts = np.array_split(np.random.default_rng(seed).permutation(count), min(resamples, count))
    if (left := count - len(parts[0])) < FEWEST_LEFT:
        raise ValueError(
            f"intervals need {FEWEST_LEFT} samples when one of {len(parts)} parts is left out, of {count} "
            f"there are {left}; pass more samples or more resamples"
        )
    first, _ = question.source.read([0])
    images = None if perturb is None else find_images(first, "perturb")
    for one in layered:
        for name, layer in zip(names, one, strict=True):
            check_rows(question.networks[name], beside(first, question.networks[name]), [layer])
    kinds = {"plain": None} | ({} if perturb is None else {"perturbed": perturb})
    pairs = list(_PAIRS)[: 1 if teacher is None else 3]
    ahead = 1 if teacher is None else 2
    found = np.empty((3, len(layered), 1, len(kinds), len(names) + 2 + len(pairs) + ahead))
    lower = f"fewer than {count} samples, a max_batch below {question.max_batch}, or layers of fewer numbers"
    with memory_advice(None, f"pass {lower}"):
        known = distances(places)
        for at, one in enumerate(layered):
            for number, kept in enumerate(kinds.values()):
                apart = [
                    _see(question, name, layer, kept, images, seed)
                    for name, layer in zip(names, one, strict=True)
                ]
                found[:, at, 0, number] = jackknife(torch.stack([*apart, known]), parts)
    values: dict[str, NDArray] = {}
    for end, array in zip(("", "_low", "_high"), found, strict=True):
        rs, distilled, residual, fss, ahead_of = np.split(
            array, np.cumsum([len(names), 1, 1, len(pairs)]), axis=-1
        )
        values |= {f"rs{end}": rs, f"fss{end}": fss}
        values |= {f"rs_distilled{end}": distilled[..., 0], f"rs_residual{end}": residual[..., 0]}
        values |= {f"{name}_ahead{end}": ahead_of[..., at] for at, name in enumerate(("rs", "fss")[:ahead])}
    about: dict[str, schema.Attribute] = {**roles, "truth": describe_truth(truth)}
    about |= {"seed": seed, "samples": count}
    about |= {"perturb": perturb} if perturb else {}
    unknown = np.isnan(found)
    notes = {
        "NaN where a layer is the same for all samples, or a network has nothing apart": unknown[0],
        "no interval where, of a part left out, a single class or equal samples remain": unknown[1:]
        > unknown[0],
    }
    if unknown.any():
        about["note"] = "; ".join(note for note, where in notes.items() if where.any())
    ds = schema.build(
        values,
        coords={
            "layer": ("layer", [own for own, *_ in layered]),
            "base_layer": [other for _, other, *_ in layered],
            "epoch": [epoch],
            "input": [*kinds],
            "network": names,
            "pair": pairs,
        },
        attrs=about,
    )
    schema.validate(ds)
    return ds


def jackknife(tables: Tensor, parts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return scores with the lower and upper limits of their intervals, ``(3, S)``.

    Parameters
    ----------
    tables
        Distances ``(M + 1, n, n)`` in the student, the base, a teacher if there is one, and of the classes.
    parts
        Samples that are left out together; all together, each once.

    Returns
    -------
    ndarray
        First of the relevance of all networks, then of the student's own, the base's own, of the pairs, and
        by how much the student's own exceeds the base's, and its likeness to a teacher that of the base.
    """
    kept = [torch.from_numpy(np.setdiff1d(np.arange(tables.shape[1]), part)) for part in parts]
    whole, count = _measure(tables), len(parts)
    left = torch.stack([_measure(tables[:, rows][:, :, rows]) for rows in kept])
    deviation = ((count - 1) * left.var(0, correction=0)).sqrt()
    width = t.ppf((1 + CONFIDENCE) / 2, count - 1) * deviation
    most = torch.ones(len(whole), dtype=whole.dtype)
    most[-1 if len(tables) == 3 else -2 :] = 2  # differences of correlations
    return torch.stack(
        [whole, torch.maximum(whole - width, -most), torch.minimum(whole + width, most)]
    ).numpy()


def _measure(tables: Tensor) -> Tensor:
    """Return all scores of a layer, in the order of :func:`jackknife`."""
    *seen, truth = u_centred(tables)
    student, base = seen[:2]
    told = [*seen, without(student, base), without(base, student)]
    similar = [correlation(seen[one], seen[other]) for one, other in _PAIRS.values() if other < len(seen)]
    relevant = [correlation(one, truth) for one in told]
    ahead = [relevant[-2] - relevant[-1], *([similar[1] - similar[2]] if len(similar) > 1 else [])]
    return torch.stack([*relevant, *similar, *ahead])


def _see(
    question: Question, name: str, layer: str, kept: float | None, images: str | None, seed: int
) -> Tensor:
    """Return the distances between all samples in a layer, perturbed if a share of pixels is `kept`."""
    network, read = question.networks[name], dict[str, Tensor]()
    first, _ = question.source.read([0])
    place = None if kept is None else _find_place(network, beside(first, network), layer)

    def look(batch: Batch, labels: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        if place is not None and kept is not None:
            given, classes = beside(batch, network), labels.to(device_of(network))
            batch = perturb_images(
                network, given, classes, place, images=images, kept=kept, seed=seed, rows=rows
            )
        (output,) = question.see(name, batch, {layer: flatten}).values()
        if not read:
            read[""] = output.new_empty((len(question.labels), output.shape[1]), device="cpu")
        read[""][list(rows)] = output.cpu()
        return {}

    question.walk(look, f"{layer} of {name}")
    return distances(read[""])


def _find_place(network: nn.Module, inputs: Batch, layer: str) -> Place:
    """Find the map of a layer, or, where it has none, of the deepest that has one."""
    try:
        return check_layer(network, inputs, layer, methods=["grad_cam"], argument="")
    except LayerError:
        return check_layer(network, inputs, None, methods=["grad_cam"])
