"""Exceptions and warnings of kdviz, each also a built-in kind. Imports nothing."""


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


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class KdvizWarning(UserWarning):
    """Base of all warnings of kdviz."""


class ConvergenceWarning(KdvizWarning):
    """A calibration was not met for some samples; see ``converged``."""


class DegenerateWarning(KdvizWarning):
    """A map carries no information: dead feature, constant map, empty mask."""
