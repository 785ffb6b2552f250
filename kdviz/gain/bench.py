"""One batch of inputs on one network, ready to be shaken: noise, units, features and a count of passes.

All noise is keyed by (seed, sample id, purpose, draw): the same for every epoch, network and role, so
that two measurements differ by what the networks do and not by the noise.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries, ``K`` noise draws.
"""

import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdviz.networks.features import Batch, FeatureReader, map_batch, rows_at, rows_of

_WORTH_THREADS = 2**20  # numbers; fewer are drawn sooner than threads begin


@dataclass
class Passes:
    """Network passes spent, one pass being one forward or one backward of one sample."""

    forward: int = 0
    backward: int = 0


class Bench:
    """One batch of inputs on one network, ready to be shaken.

    Samples are rows of ``N`` numbers here, images in the channels-last order in which convolutions are
    fastest, clouds point by point; :meth:`features` gives them their shape back.

    Parameters
    ----------
    reader
        Features of a frozen network.
    inputs
        Shape ``(B, ...)``, floating point, finite, on the network's device: what noise falls on.
    sample_ids
        ``B`` stable names; they key the noise.
    unit_index
        Shape of one sample, int64: the unit of every element, -1 for elements that get no noise.
    unit_count
        Number of units ``U``.
    base_noise
        ``tau0``, in the units of `inputs`.
    seed
        Measurement seed.
    given
        What the network itself is given, where that is not what noise falls on, or not all of it.
    together
        Noise draws of every sample in one pass.
    unit_size
        Shape ``(U,)``, positive: what each unit counts in the objective, as in
        :func:`kdviz.entropy.gain_ratio`.
    turned
        Whether channels come first in samples of two axes, as in clouds ``(3, n)``; in images they do.

    Attributes
    ----------
    inputs
        Shape ``(B, N)``.
    clean
        Features without noise, ``{layer: (B, D)}``.
    unit_size
        Shape ``(U,)``, float64; all 1 if none were given.
    passes
        Network passes spent so far.
    """

    def __init__(
        self,
        reader: FeatureReader,
        inputs: Tensor,
        *,
        sample_ids: Sequence[str],
        unit_index: NDArray[np.int64],
        unit_count: int,
        base_noise: float,
        seed: int,
        given: Batch | None = None,
        together: int = 1,
        unit_size: NDArray[np.int64] | None = None,
        turned: bool = False,
    ) -> None:
        self.reader = reader
        self.given = given
        self.together = together
        self.shape = tuple(inputs.shape[1:])
        self._channels_first = turned or inputs.ndim == 4
        self.inputs = self._flatten(inputs)
        self.sample_ids = tuple(sample_ids)
        self.unit_count = unit_count
        self.base_noise = base_noise
        self.seed = seed
        self.unit_size = torch.tensor(np.ones(unit_count) if unit_size is None else unit_size).double()
        self.passes = Passes()
        unit = self._flatten(torch.as_tensor(unit_index.copy()).expand(1, *self.shape))[0]
        unit = torch.where(unit < 0, unit_count, unit)  # one spare unit takes what belongs to none
        self._outside = (unit == unit_count).nonzero().flatten()
        self._unit_on_cpu = unit  # where noise scales are kept, in double precision
        self._unit = self.send(unit)
        self._kept: tuple[str, range, Tensor] | None = None
        with torch.no_grad():
            self.clean = self.features(self.inputs)

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Read the layers of `inputs`, ``(B, N)`` or a whole number of such batches, counting the passes."""
        self.passes.forward += len(inputs)
        values = self._unflatten(inputs)
        if self.given is None:
            return self.reader(values)
        times = len(inputs) // rows_of(self.given)
        given = map_batch(self.given, lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))
        return self.reader(values, given)

    def noise(self, purpose: str, draws: range) -> Tensor:
        """Draw normal noise ``(K, B, N)``, keyed by seed, sample, purpose and draw; 0 outside of units.

        The last ones drawn are kept, because they are asked for again at the next noise scale. Not to be
        written to.
        """
        if self._kept is not None:
            of, known, noise = self._kept
            if of == purpose and draws[0] in known and draws[-1] in known:
                return noise[draws[0] - known[0] : draws[-1] - known[0] + 1]
        noise = torch.empty(len(draws), *self.inputs.shape, dtype=torch.float32, device="cpu")
        rows = noise.flatten(0, 1)
        keys = [noise_key(self.seed, name, purpose, draw) for draw in draws for name in self.sample_ids]
        _draw(rows, keys)
        if len(self._outside):
            noise[..., self._outside] = 0
        self._kept = purpose, draws, self.send(noise.to(self.inputs.dtype))
        return self._kept[2]

    def draw_ahead(self, purpose: str, draws: range) -> None:
        """Draw noise that is asked for next, where a device computes meanwhile what it was told."""
        if self.inputs.device.type != "cpu":
            self.noise(purpose, draws)

    def send(self, values: Tensor) -> Tensor:
        """Move numbers to where the network computes, without waiting for what it computes."""
        device = self.inputs.device
        if device.type == "cuda":
            values = values.pin_memory()
        return values.to(device, non_blocking=True)

    def expand(self, per_unit: Tensor) -> Tensor:
        """Give every input element the value of its unit: ``(B, U)`` to ``(B, N)``."""
        padded = torch.cat([per_unit, per_unit.new_zeros(len(per_unit), 1)], 1).to(self.inputs.dtype)
        return self.send(padded[:, self._unit_on_cpu])

    def reduce(self, per_element: Tensor) -> Tensor:
        """Sum element values over units: ``(..., N)`` to ``(..., U)``."""
        sums = per_element.new_zeros(*per_element.shape[:-1], self.unit_count + 1)
        return sums.index_add_(-1, self._unit, per_element)[..., :-1]

    def select(self, rows: Sequence[int]) -> "Bench":
        """Return the same bench for some of its samples; passes go on being counted here."""
        if list(rows) == list(range(len(self.inputs))):
            return self
        part = copy.copy(self)
        part.inputs = self.inputs[list(rows)]
        part._kept = None
        if self._kept is not None and self.inputs.device.type != "cpu":  # drawn ahead
            purpose, draws, noise = self._kept
            part._kept = purpose, draws, noise[:, list(rows)]
        part.given = None if self.given is None else rows_at(self.given, list(rows))
        part.sample_ids = tuple(self.sample_ids[row] for row in rows)
        part.clean = {layer: clean[list(rows)] for layer, clean in self.clean.items()}
        return part

    def squared_change(self, features: Tensor, layer: str) -> Tensor:
        """Mean squared difference to the clean feature, ``(B,)``, or of several batches; float64."""
        clean = self.clean[layer]
        changes = features.unflatten(0, (-1, len(clean))) - clean
        return changes.square().flatten(0, 1).mean(1).double()

    def _flatten(self, samples: Tensor) -> Tensor:
        """``(B, ...)`` to ``(B, N)``; channels that come first go to the end."""
        return (samples.movedim(1, -1) if self._channels_first else samples).flatten(1).contiguous()

    def _unflatten(self, rows: Tensor) -> Tensor:
        """Undo :meth:`_flatten`: of images without a copy; networks of clouds may read theirs by ``view``."""
        if not self._channels_first:
            return rows.view(-1, *self.shape)
        channels, *places = self.shape
        values = rows.view(-1, *places, channels).movedim(-1, 1)
        return values if len(places) > 1 else values.contiguous()


def _draw(rows: Tensor, keys: Sequence[int]) -> None:
    """Fill every row with noise of its own key, several at once where torch may use several threads."""

    def fill(some: Tensor, their_keys: Sequence[int]) -> None:
        for row, key in zip(some, their_keys, strict=True):
            row.normal_(generator=torch.Generator().manual_seed(key))

    count = torch.get_num_threads() if rows.numel() > _WORTH_THREADS else 1
    if count == 1:
        fill(rows, keys)
        return
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda at: fill(rows[at::count], keys[at::count]), range(count)))


def noise_generator(seed: int, name: str, purpose: str, draw: int) -> torch.Generator:
    """Start the random numbers of one sample, purpose and draw."""
    return torch.Generator().manual_seed(noise_key(seed, name, purpose, draw))


def noise_key(seed: int, name: str, purpose: str, draw: int) -> int:
    """Hash what keys the noise, to 63 bits."""
    text = f"{seed}|{name}|{purpose}|{draw}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
