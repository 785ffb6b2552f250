"""Whether networks give a sample the same class when it is changed: curves over the strength of changes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor, nn

from kdviz.arguments import name_some, one_of, positive_number, whole_number
from kdviz.networks.features import Batch, main_of, noisy_part, put_main
from kdviz.networks.reading import InputsLike
from kdviz.transfer.changes import CHANGES, Change, Words
from kdviz.transfer.pixels import Pixels, check_pixels
from kdviz.transfer.question import Options, ask, generator_of

_KINDS = {(True, 4): "image", (True, 3): "cloud", (False, 2): "text", (False, 3): "text"}
"""By whether numbers are floating point, and how many axes there are."""

OwnChange = Callable[[Any, float, Generator], Tensor]


def invariance(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    changes: Collection[str] | Mapping[str, Change | OwnChange] | None = None,
    strengths: Mapping[str, Sequence[float]] | None = None,
    kind: str | None = None,
    pixels: Pixels | None = None,
    special_ids: Collection[int] | None = None,
    mask_id: int | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Tell on which samples each network's answer stays the same when samples are changed [1]_.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`.
    changes
        Names from ``CHANGES[kind]``, by default all: of images ``"jitter"`` of colours, ``"crop"``,
        ``"shift"``, ``"rotation"``, ``"blur"``, ``"noise"``; of texts ``"dropout"`` and ``"order"`` of
        tokens; of clouds ``"rotation"`` about the third coordinate, ``"jitter"``, ``"dropout"``. Or a mapping
        from names to one's own, ``(sample, strength, generator) -> sample``, or to a
        :class:`kdviz.transfer.Change`. A sample is a copy, which may be changed in place: an image
        ``(C, H, W)`` of pixels in 0..1, a text as :class:`kdviz.transfer.Words` (identifiers come back), or
        points ``(n, 3 or more)``.
    strengths
        By name of a change, what is asked beside 0; as many for each. The default is that of the change.
    kind
        ``"image"`` for ``(B, C, H, W)``, ``"text"`` for integers ``(B, T)``, or with token types
        ``(B, 2, T)``, and mappings with ``input_ids``, ``"cloud"`` for points ``(B, n, 3 or more)`` or
        coordinates first; told from the inputs by default. Of ``"other"`` ones a sample is its tensor as it
        is, and `changes` are one's own.
    pixels
        How images are normalised; of these it must be said.
    special_ids
        Of texts, the identifiers that are never changed, such as ``tokenizer.all_special_ids``; padding is
        among them, or where ``attention_mask`` is 0.
    mask_id
        Of texts, what is put in the place of a token that is dropped, such as ``tokenizer.mask_token_id``.
    seed
        Of all draws: each sample is changed alike for all networks, whatever batch it comes in.

    Returns
    -------
    Dataset
        ``unchanged``, the headline, ``(change, level, network, sample)``; ``right`` ``(network, sample)``, of
        samples as they are; coordinates ``strength`` ``(change, level)``, 0 at level 0, and
        ``strength_unit``. Their share over samples is the published agreement.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if `pixels` of images are not said, a change, a strength or what one's
        own change returns is not as said, or this changes a sample at strength 0.
    MissingExtraError
        If images are to be changed and torchvision is not installed.

    Notes
    -----
    A change makes the same draws at every strength. Crops and shifts compare two changed samples, the others
    one with the sample itself. A crop keeps the image's proportions. A shift moves the image, its border
    reflected, where the paper cuts windows out of a larger image; the two samples are at most `strength`
    apart. Hue turns by half the strength of colours, by at most 0.2 of a turn, as published. Tokens are
    changed, not words: one of several pieces may be torn; above strength 0 one is dropped or two change
    places, however few a text has. Of points, what comes beside the three coordinates stays. A sample costs
    each network a pass for every strength, two of crops and shifts: 33 by default of images.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 4.3
       and appendices 11.3, 11.4.
    """
    question = ask(networks, inputs, labels, **options)
    first, _ = question.source.read([0])
    form = _Form.find(first, kind, pixels, special_ids, mask_id)
    chosen = _choose_changes(changes, form.kind)
    asked = _choose_strengths(chosen, strengths)
    whole_number("seed", seed)

    def view(name: str, strength: float, batch: Batch, rows: Sequence[int]) -> list[Batch]:
        samples, put = form.open(batch)
        made = []
        for sample, row in zip(samples, rows, strict=True):
            generator = generator_of(seed, row)
            apply, times = chosen[name].apply, chosen[name].views
            made.append(
                [_check_view(apply(sample.clone(), strength, generator), sample, name) for _ in range(times)]
            )  # of clones: a change of one's own may work in place
        return [put_main(batch, form.main, put(torch.stack(one))) for one in zip(*made, strict=True)]

    def look(batch: Batch, labels: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        told = question.predict(batch)
        unchanged = np.empty((*asked.shape, *told.shape), bool)
        for at, name in enumerate(chosen):
            for level, strength in enumerate(asked[at].tolist()):
                answers = [told]
                for one in view(name, strength, batch, rows):
                    same = torch.equal(main_of(one, form.main), main_of(batch, form.main))
                    if not (same or strength):
                        raise ValueError(f"change {name!r} must change nothing at strength 0, and does")
                    answers.append(told if same else question.predict(one))
                unchanged[at, level] = answers[-1] == answers[-2]
        return {"unchanged": unchanged, "right": told == labels.numpy()}

    coords = {
        "change": list(chosen),
        "level": np.arange(asked.shape[1]),
        "strength": asked,
        "strength_unit": [change.unit for change in chosen.values()],
    }
    found = question.walk(look, "invariance")
    return question.build("invariance", "unchanged", found, coords, modality=form.kind, seed=seed)


@dataclass(frozen=True)
class _Form:
    """How samples of a kind are taken out of a batch and put back."""

    kind: str
    main: str | None
    pixels: Pixels | None
    special_ids: Tensor
    mask_id: int | None

    @classmethod
    def find(
        cls,
        batch: Batch,
        kind: str | None,
        pixels: Pixels | None,
        special_ids: Collection[int] | None,
        mask_id: int | None,
    ) -> "_Form":
        is_text = not isinstance(batch, Tensor) and "input_ids" in batch
        main = "input_ids" if is_text else noisy_part(batch)
        values = main_of(batch, main)
        told = _KINDS.get((values.is_floating_point(), values.ndim), "other")
        known = told if kind is None else one_of("kind", kind, (*CHANGES, "other"))
        if known not in (told, "other"):
            raise ValueError(f"kind is {kind!r}, and inputs are {tuple(values.shape)} of {values.dtype}")
        if known == "image":
            check_pixels(pixels, "invariance")
        if known == "text" and special_ids is None:
            raise ValueError(
                "texts need special_ids=, identifiers never changed, such as tokenizer.all_special_ids"
            )
        if known == "cloud" and min(values.shape[1:]) < 3:
            raise ValueError(
                f"points need 3 coordinates or more, got inputs {tuple(values.shape)}; with changes of one's "
                "own kind='other' takes any"
            )
        return cls(known, main, pixels, torch.tensor(list(special_ids or ()), dtype=torch.int64), mask_id)

    def open(self, batch: Batch) -> tuple[Iterable[Tensor | Words], Callable[[Tensor], Tensor]]:
        """Return the samples of a batch, and what puts them, changed and stacked, into its main tensor."""
        values = main_of(batch, self.main)
        if self.kind == "image":
            assert self.pixels is not None
            seen, write = self.pixels.read(values), self.pixels.write
            # to pixels and back is rounded: what a change leaves alone stays to the bit
            return seen, lambda changed: torch.where(changed == seen, values, write(changed))
        if self.kind == "text":
            typed = values.ndim == 3
            ids = values[:, 0] if typed else values
            free = ~torch.isin(ids, self.special_ids)
            if not isinstance(batch, Tensor) and "attention_mask" in batch:
                free &= batch["attention_mask"] > 0
            words = [Words(*one, self.mask_id) for one in zip(ids, free, strict=True)]
            return words, lambda changed: torch.stack([changed, values[:, 1]], 1) if typed else changed
        if self.kind == "cloud" and values.shape[2] > values.shape[1]:
            return values.mT, lambda changed: changed.mT.contiguous()
        return values, lambda changed: changed


def _check_view(view: Any, sample: Tensor | Words, name: str) -> Tensor:
    """Check what a change makes of a sample."""
    before = sample.ids if isinstance(sample, Words) else sample
    if not isinstance(view, Tensor) or (view.shape, view.dtype) != (before.shape, before.dtype):
        got = f"{tuple(view.shape)} of {view.dtype}" if isinstance(view, Tensor) else type(view).__name__
        raise ValueError(
            f"change {name!r} must return a tensor {tuple(before.shape)} of {before.dtype}, got {got}"
        )
    if not torch.isfinite(view).all():
        raise ValueError(f"change {name!r} must return finite values, got others")
    return view


def _choose_changes(
    changes: Collection[str] | Mapping[str, Change | OwnChange] | None, kind: str
) -> dict[str, Change]:
    known = CHANGES.get(kind, {})
    if isinstance(changes, Mapping):
        given = {
            str(name): change if isinstance(change, Change) else Change(change)
            for name, change in changes.items()
        }
        for name, change in given.items():
            if not callable(change.apply):
                raise TypeError(f"change {name!r} must be a function, got {type(change.apply).__name__}")
    else:
        names = [changes] if isinstance(changes, str) else known if changes is None else changes
        given = {name: known[one_of("changes", name, known)] for name in names}
    if not given:
        raise ValueError("changes are none; pass one's own, {name: (sample, strength, generator) -> sample}")
    return given


def _choose_strengths(
    changes: Mapping[str, Change], strengths: Mapping[str, Sequence[float]] | None
) -> NDArray[np.float64]:
    """Return the strengths ``(change, level)``, 0 first."""
    given = dict(strengths or {})
    for name in given:
        one_of("strengths", name, changes)
    rows = {name: tuple(given.get(name, change.strengths)) for name, change in changes.items()}
    for name, row in rows.items():
        change, told = changes[name], f"strengths of {name!r}"
        if not row:
            raise ValueError(f"strengths must give those of {name!r}, as strengths={{{name!r}: (0.1, 0.2)}}")
        for strength in row:
            whole_number(told, strength, 1) if change.whole else positive_number(told, strength)
            if strength > change.most:
                raise ValueError(f"{told} must be at most {change.most:g} ({change.unit}), got {strength:g}")
    if len({len(row) for row in rows.values()}) > 1:
        counts = name_some((f"{name} {len(row)}" for name, row in rows.items()), len(rows))
        raise ValueError(f"strengths must be as many for every change, got {counts}")
    return np.array([(0, *row) for row in rows.values()], np.float64)
