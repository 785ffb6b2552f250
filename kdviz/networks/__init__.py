"""Networks as they come: read their layers and weights, and prepare them and their inputs for any room.

Modules, each importing only from those before it: ``features`` (read a named layer, leave the network as it
was found), ``hashing`` (the one hash of tensors), ``preparing`` (refuse what allows no measurement; devices
and memory), ``layouts`` (where positions and channels lie in what a layer gives), ``saved`` (files of
weights, read without running pickled code), ``checkpoints`` (their names, matched to those of a network),
``inputs`` (check and name what goes in), ``feeding`` (give it to networks that take it otherwise).
"""

from kdviz.networks.checkpoints import load_weights, read_checkpoint
from kdviz.networks.features import (
    FeatureReader,
    check_layers,
    frozen,
    list_layers,
    list_shapes,
    read_layers,
    resolve_layers,
)
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.networks.inputs import Inputs, prepare_inputs
from kdviz.networks.preparing import device_of

__all__ = [
    "FeatureReader",
    "Inputs",
    "check_layers",
    "device_of",
    "fingerprint_tensors",
    "frozen",
    "list_layers",
    "list_shapes",
    "load_weights",
    "prepare_inputs",
    "read_checkpoint",
    "read_layers",
    "resolve_layers",
]
