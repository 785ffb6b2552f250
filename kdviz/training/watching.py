"""Tell, after every epoch, whether a training has gone wrong, and what became of one that had. No torch here.

A training that has gone wrong begins anew, from the untrained network, at rates times the next of `FACTORS`.
It goes back to the start, not to the epoch before: weights of a training that diverges are spoilt before its
loss shows it, and so the training that counts is, to the bit, the one that is begun at the lower rates.
"""

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel

FACTORS = (1.0, 0.3, 0.09, 0.027)
"""Of the plan's learning rates: what is tried, one after the other."""

_TOO_HIGH = 2.0  # times the loss of the untrained network
_GUESSING = 0.99  # of the loss of guessing: what is above has learned nothing
_LEAST_PATIENCE = 5  # epochs that a network may go on guessing, or half of all if that is more


class Setback(BaseModel):
    """A part of a training that was thrown away.

    Attributes
    ----------
    rate_factor
        Times the learning rates of the plan: how fast it was.
    losses
        Mean training loss of its epochs, the last of which gave it up; None where it was not finite.
    reason
        Why, as a sentence has it: ``"the loss became nan"``.
    """

    rate_factor: float
    losses: list[float | None]
    reason: str


def find_fault(
    losses: Sequence[float],
    batches: Sequence[float],
    *,
    untrained: float | None,
    guess: float | None,
    finite: bool,
    epochs: int,
) -> str | None:
    """Say what is wrong with a training after an epoch; None if nothing is.

    Parameters
    ----------
    losses
        Mean loss of every epoch so far.
    batches
        Losses of the last epoch's batches. Their median counts: at high rates a few steps overshoot and the
        network recovers within the epoch, which spoils the mean only.
    untrained
        Loss of the untrained network, on the first batch: a pass over all would move running statistics. So
        rough a value is why twice as much is allowed; None where it is not known.
    guess
        Loss of the best guess that looks at no input, where it is known and the network is to beat it.
    finite
        Whether all weights are.
    epochs
        Of the whole training. A network may go on guessing for nearly half of them: some stand on a plateau
        before they learn, the longer the lower their rates.
    """
    if not math.isfinite(losses[-1]):
        return f"the loss became {losses[-1]}"
    if not finite:
        return "weights became infinite or NaN"
    limit = _TOO_HIGH * max(untrained or 0.0, guess or 0.0)
    if untrained is not None and untrained > 0 and (usual := statistics.median(batches)) > limit:
        return f"the loss rose to {usual:.3g} from {untrained:.3g} before training"
    patience = max(_LEAST_PATIENCE, math.ceil(epochs / 2))
    if guess is not None and len(losses) >= patience and min(losses[-patience:]) >= _GUESSING * guess:
        return f"the loss stayed above {guess:.3g}, that of guessing, for {patience} epochs"
    return None


def tell_setback(name: str, setback: Setback, factor: float) -> str:
    """Say in a line what went wrong and that it is tried again at rates times `factor`."""
    return (
        f"{name}: {setback.reason} (epoch {len(setback.losses)}); its training begins anew at {factor:g} "
        "times the learning rate"
    )


def tell_failure(name: str, setbacks: Sequence[Setback], rate: float) -> str:
    """Say what went wrong at every rate tried, and what to do; `rate` is the plan's first."""
    tried = ", ".join(f"{one.rate_factor * rate:.3g} (to epoch {len(one.losses)})" for one in setbacks)
    slow = "guessing" in setbacks[-1].reason
    todo = "raise or lower learning_rate, or train for more epochs" if slow else "lower learning_rate"
    return f"{name}: {setbacks[-1].reason}; tried at rates of {tried}; {todo}"


def tell_accuracy(name: str, accuracy: float, chance: float | None, samples: int) -> str:
    """Say in a line how often a network is right on held-out samples, and what to try if by chance alone.

    Parameters
    ----------
    name
        Of the network.
    accuracy, chance
        Its share of right answers, and that of guessing; None where nothing can be guessed.
    samples
        How many were held out: three standard errors above chance are needed to be better.
    """
    if chance is None:
        return f"{name}  held-out accuracy {accuracy:.2f}"
    told = f"{name}  held-out accuracy {accuracy:.2f} (chance {chance:.2f})"
    if accuracy > chance + 3 * math.sqrt(chance * (1 - chance) / samples):
        return told
    return (
        f"{told}: hardly better than chance; try lower rates (-s training.rate_factor=0.3), more epochs "
        "(-s training.epochs=), more samples, and whether the classes can be told apart in them"
    )
