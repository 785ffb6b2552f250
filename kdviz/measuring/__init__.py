"""Measure networks: inputs and masks in, labelled datasets out, with a store that survives a kill.

Modules, each importing only from those before it: ``settings`` (what decides the numbers), ``inputs``
(checks and names), ``checkpoints`` (weights and their fingerprints), ``blocks`` (one batch through the
engine, and which method a sample needs), ``networks`` (the public verbs).
"""

from kdviz.measuring.networks import measure, measure_checkpoints

__all__ = ["measure", "measure_checkpoints"]
