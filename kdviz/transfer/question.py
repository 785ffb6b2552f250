"""Several networks asked about the same inputs: what every property checks once, and how samples are walked.

Symbols: ``M`` networks, ``N`` samples, ``B`` samples of a batch, ``C`` classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Required, TypedDict

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import LayerError
from kdviz.networks import device_of, frozen
from kdviz.networks.features import Batch, answer, map_batch, read_layers, to_device
from kdviz.networks.inputs import check_finite, check_labels, check_type, hint_at_channels
from kdviz.networks.preparing import dtype_of, memory_advice, prepare_network
from kdviz.networks.reading import InputsLike, Source, find_source

Look = Callable[[Batch, Tensor, Sequence[int]], Mapping[str, NDArray]]
"""From a batch, its labels ``(B,)`` and rows to arrays by name, whose last axis is the sample."""


class Options(TypedDict, total=False):
    """What every property takes beside networks, inputs and labels.

    Attributes
    ----------
    teacher
        Name of the teacher among `networks`.
    independent
        Name or names of networks that no teacher taught: what students are compared with.
    sample_ids
        ``N`` unique names; by default the positions.
    max_batch
        Samples in one pass: the one knob of memory. Never changes a result but for rounding.
    device
        Where to compute; by default each network where it is.
    progress
        Show a progress bar.
    """

    teacher: Required[str]
    independent: str | Sequence[str]
    sample_ids: Sequence[str] | None
    max_batch: int
    device: str | torch.device | None
    progress: bool


@dataclass(frozen=True)
class Question:
    """Checked networks and inputs, as :func:`ask` makes them."""

    networks: dict[str, nn.Module]
    source: Source
    labels: NDArray[np.int64]
    classes: int
    teacher: str
    independent: tuple[str, ...]
    sample_ids: tuple[str, ...]
    first: Tensor
    max_batch: int
    progress: bool
    _formats: dict[str, torch.memory_format] = field(default_factory=dict, init=False, repr=False)

    @property
    def roles(self) -> list[str]:
        """What each network is: ``"teacher"``, ``"independent"`` or ``"student"``."""
        known = {self.teacher: "teacher"} | dict.fromkeys(self.independent, "independent")
        return [known.get(name, "student") for name in self.networks]

    def walk(
        self, look: Look, about: str, parts: Sequence[Sequence[int]] | None = None
    ) -> dict[str, NDArray]:
        """Go through the samples and join what `look` makes of each batch along the last axis.

        Batches are of at most `max_batch` samples, or, if given, those at the positions, which increase, of
        each of `parts`.

        Raises
        ------
        MemoryError
            If a batch does not fit, with what to do.
        ValueError
            If inputs come with classes, and `labels` are others, or if inputs hold NaN, for which a network's
            numbers are not finite.
        """
        found: list[Mapping[str, NDArray]] = []
        count = len(self.labels)
        if parts is None:
            parts = [
                range(start, min(start + self.max_batch, count)) for start in range(0, count, self.max_batch)
            ]
        with ExitStack() as stack:
            for network in self.networks.values():
                stack.enter_context(frozen(network))
            bar = stack.enter_context(tqdm(total=sum(map(len, parts)), desc=about, disable=not self.progress))
            stack.enter_context(memory_advice(self.max_batch, "take smaller inputs"))
            for rows in parts:
                batch, classes = self.source.read(rows)
                labels = self.labels[list(rows)]
                if classes is not None and not np.array_equal(classes, labels):
                    raise ValueError(
                        "labels are not those that inputs come with, first among samples "
                        f"{rows[0]} to {rows[-1]}; a shuffled loader gives another order each time, and "
                        "inputs without their targets take any labels"
                    )
                with _inputs_first(batch, [self.sample_ids[row] for row in rows]):
                    found.append(look(batch, torch.from_numpy(labels), rows))
                bar.update(len(rows))
        return {name: np.concatenate([one[name] for one in found], axis=-1) for name in found[0]}

    def answer(self, batch: Batch) -> Tensor:
        """Return the logits of all networks, ``(M, B, C)``, on the CPU, without gradients.

        Raises
        ------
        FloatingPointError
            If a network gives NaN or infinite logits.
        """
        with torch.no_grad():
            logits = torch.stack([self._ask(name, batch) for name in self.networks])
        for name, one in zip(self.networks, logits, strict=True):
            _check_finite(name, one)
        return logits

    def _ask(self, name: str, batch: Batch) -> Tensor:
        network = self.networks[name]
        given = beside(batch, network)
        if name not in self._formats:
            self._formats[name] = _find_format(network, given, self.max_batch)
        return answer(network, _lay_out(given, self._formats[name])).cpu()

    def predict(self, batch: Batch) -> NDArray[np.int64]:
        """Return the class that each network gives to each sample, ``(M, B)``."""
        return self.answer(batch).argmax(2).numpy()

    def see(
        self, name: str, batch: Batch, turns: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> dict[str, Tensor]:
        """Return what layers of a network make of a batch, each turned, on its device, without gradients.

        Raises
        ------
        FloatingPointError
            If that is NaN or infinite anywhere.
        """
        network = self.networks[name]
        with torch.no_grad():
            read = read_layers(network, beside(batch, network), [*turns])
            seen = {layer: turn(read[layer]) for layer, turn in turns.items()}
        for layer, values in seen.items():
            if not torch.isfinite(values).all():
                raise FloatingPointError(f"layer {layer!r} of {name!r} gives NaN or infinite values")
        return seen

    def build(
        self,
        name: str,
        headline: str,
        values: Mapping[str, Any],
        coords: Mapping[str, Any] | None = None,
        note: str = "",
        **attrs: schema.Attribute,
    ) -> xr.Dataset:
        """Make the result of a property; `headline` is the variable by which networks are compared.

        Variables of one's own, which :mod:`kdviz.schema` does not know, are pairs of dimensions and array:
        ``{"steady": (("network", "sample"), array)}``.

        A `note`, if not empty, says why values are NaN. Samples are named where a value is one of a sample.
        """
        shared = {
            "network": list(self.networks),
            "role": self.roles,
            "sample": list(self.sample_ids),
            "label": self.labels,
        }
        about = {"property": name, "headline": headline, "teacher": self.teacher}
        about |= {"note": note} if note else {}
        ds = schema.build(values, coords={**shared, **(coords or {})}, attrs={**about, **attrs})
        if not any("sample" in values.dims for values in ds.data_vars.values()):
            ds = ds.drop_dims("sample")
        schema.validate(ds)
        return ds


def ask(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike | Source,
    labels: ArrayLike,
    *,
    teacher: str,
    independent: str | Sequence[str] = (),
    sample_ids: Sequence[str] | None = None,
    max_batch: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Question:
    """Check what every property is given.

    Parameters
    ----------
    networks
        By name, the teacher and at least one other; each gives logits ``(B, C)`` of the same classes. Left
        as found.
    inputs
        ``N`` samples, as networks take them: see :mod:`kdviz.networks.reading`.
    labels
        ``(N,)``, integers, classes from 0.
    teacher, independent, sample_ids, max_batch, device, progress
        See :class:`Options`.

    Raises
    ------
    TypeError, ValueError
        If one of them is not as said, before any work.
    FloatingPointError
        If a network gives NaN or infinite logits, and inputs are finite.
    """
    named = isinstance(networks, Mapping) and all(isinstance(name, str) for name in networks)
    if not named or len(networks) < 2:
        raise ValueError("networks must map names to networks, the teacher and at least one other")
    one_of("teacher", teacher, networks)
    others = (independent,) if isinstance(independent, str) else tuple(independent)
    for name in others:
        one_of("independent", name, [known for known in networks if known != teacher])
    source = find_source(inputs)
    count = len(source)
    if not count:
        raise ValueError("inputs are empty; pass at least one sample")
    ids = tuple(str(name) for name in (range(count) if sample_ids is None else sample_ids))
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(
            f"sample_ids must be {count} unique names, got {len(ids)}, {len(set(ids))} different"
        )
    prepared = {
        name: prepare_network(
            network,
            device,
            fault=f"network {name!r} cannot be asked",
            too_fine="attacks and answers that are close; pass network.float()",
        )
        for name, network in networks.items()
    }
    known = check_labels("labels", labels, count)
    first = _answer_first(prepared, source, ids[0])
    classes = first.shape[1]
    if not 0 <= known.min() <= known.max() < classes:
        got = f"{known.min()}..{known.max()}"
        raise ValueError(f"labels must lie in 0..{classes - 1}, the networks' classes, got {got}")
    most = whole_number("max_batch", max_batch, 1)
    return Question(prepared, source, known, classes, teacher, others, ids, first, most, progress)


def _answer_first(networks: Mapping[str, nn.Module], source: Source, name_of_first: str) -> Tensor:
    """Ask every network about one sample, and see that all know the same classes; the logits ``(M, C)``."""
    batch, _ = source.read([0])
    _check_numbers(batch)
    told = {}
    for name, network in networks.items():
        with frozen(network), torch.no_grad(), _inputs_first(batch, [name_of_first]):
            told[name] = _answer_one(name, network, batch)
            _check_finite(name, told[name])
    shapes = {name: tuple(logits.shape) for name, logits in told.items()}
    if len({*shapes.values()}) > 1 or len(next(iter(shapes.values()))) != 2:
        each = name_some(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"networks must give logits (samples, classes) of the same classes, got {each}")
    return torch.cat([logits.double() for logits in told.values()])


def _find_format(network: nn.Module, batch: Batch, max_batch: int) -> torch.memory_format:
    """Find how images lie in memory: on CPUs, convolutions of channels that lie last take half the time.

    A network that reads its maps by ``view`` cannot take them, which a batch of two samples tells.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in network.modules())
    if convolves and max_batch > 1 and device_of(network).type == "cpu":
        pair = map_batch(batch, lambda one: torch.cat([one[:1], one[:1]]))
        with suppress(RuntimeError):
            answer(network, _lay_out(pair, torch.channels_last))
            return torch.channels_last
    return torch.contiguous_format


def _lay_out(batch: Batch, layout: torch.memory_format) -> Batch:
    """Let images lie in memory as a network takes them; what is no image stays."""
    return map_batch(batch, lambda one: one.contiguous(memory_format=layout) if one.ndim == 4 else one)


def _check_numbers(batch: Batch) -> None:
    """Refuse inputs of which no tensor is floating point or token ids."""
    tensors = {"input_ids" if batch.ndim < 4 else "": batch} if isinstance(batch, Tensor) else batch
    ids = tensors.get("input_ids")
    known = ids is not None and ids.dtype in (torch.int32, torch.int64)
    if not known and not any(tensor.is_floating_point() for tensor in tensors.values()):
        check_type(next(iter(tensors.values())), False, "Token ids are int64, (samples, tokens)")


def _answer_one(name: str, network: nn.Module, one: Batch) -> Tensor:
    """Return the logits of one sample; say what network and inputs are where they do not fit each other."""
    try:
        return answer(network, beside(one, network)).cpu()
    except (LayerError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the network may be anything
        tensors = {"inputs": one} if isinstance(one, Tensor) else one
        shapes = {part: tuple(tensor.shape[1:]) for part, tensor in tensors.items()}
        reason, _, _ = str(error).partition("\n")
        told = name_some(f"{part} (samples, {', '.join(map(str, shape))})" for part, shape in shapes.items())
        hint = "".join(map(hint_at_channels, shapes.values()))
        raise ValueError(f"network {name!r} fails on {told}: {reason}{hint}") from error


def _check_finite(name: str, logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"network {name!r} has diverged: its logits are not finite")


@contextmanager
def _inputs_first(batch: Batch, names: Sequence[str]) -> Iterator[None]:
    """Where numbers are not finite, see first whether the inputs are to blame."""
    try:
        yield
    except FloatingPointError:
        check_finite(batch, names)
        raise


flatten = partial(torch.flatten, start_dim=1)
"""From what a layer gives to a row for each sample."""


def beside(batch: Batch, network: nn.Module) -> Batch:
    """Return a batch on the device of a network, its numbers in the network's precision."""
    dtype = dtype_of(network)
    placed = to_device(batch, device_of(network))
    return map_batch(placed, lambda one: one.to(dtype) if one.is_floating_point() and dtype else one)


def per_sample(values: Sequence[str] | None, name: str, question: Question) -> list[str]:
    """Check names of the samples, such as their domains; by default all have the same, ``"all"``.

    Raises
    ------
    ValueError
        If there is not one for each.
    """
    given = ["all"] * len(question.labels) if values is None else [str(value) for value in values]
    if len(given) != len(question.labels):
        raise ValueError(f"{name} must name each of the {len(question.labels)} samples, got {len(given)}")
    return given


def generator_of(seed: int, row: int) -> torch.Generator:
    """Return the generator of one sample, whatever batch it comes in."""
    key = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(key >> np.uint64(1)))
