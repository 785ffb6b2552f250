"""Exceptions and warnings of kdviz, each also a built-in kind; and of which network an error is."""

from collections.abc import Iterator
from contextlib import contextmanager

_OF = "network "


class SchemaError(ValueError):
    """A dataset or store breaks the data contract; the message lists every fault."""


class StoreError(OSError):
    """A run store cannot be opened, written or locked."""


class LockedError(StoreError):
    """Another process is at work there."""


class UnfinishedError(StoreError):
    """A measurement was begun, and no epoch of it is finished yet."""


class LayerError(ValueError):
    """A layer is unknown, or its output cannot be read."""


class DataError(ValueError):
    """A data file is missing, damaged or not in the expected format."""


TRYING = "while trying the network on one sample"
"""How a note begins that says what was done when a network of the user's failed."""


class MisfitError(DataError):
    """Saved weights are those of another network than the one that was built."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class KdvizWarning(UserWarning):
    """Base of all warnings of kdviz."""


class ConvergenceWarning(KdvizWarning):
    """A calibration was not met for some samples; see ``converged``."""


class DegenerateWarning(KdvizWarning):
    """A map carries no information: dead feature, constant map, empty mask."""


@contextmanager
def naming(network: str) -> Iterator[None]:
    """Note with an error inside that does not say so of which network it is; tracebacks show notes.

    Files and locks have names of their own, and files of samples are of no network.
    """
    try:
        yield
    except (DataError, LockedError):
        raise
    except Exception as error:
        if network not in str(error) and not find_network(error):
            error.add_note(f"{_OF}{network}")
        raise


def find_network(error: BaseException) -> str:
    """Return the network that `naming` noted with an error; empty if none."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_OF)]
    return notes[0].removeprefix(_OF) if notes else ""
