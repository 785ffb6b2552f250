"""Measure networks: inputs and masks in, labelled datasets out, with a store that survives a kill.

Modules, each importing only from those before it: ``settings`` (what decides the numbers), ``inputs``
(checks and names), ``trial`` (refuses a network that allows no measurement, before the work),
``checkpoints`` (weights and their fingerprints), ``blocks`` (one batch through the engine, and which method
a sample needs), ``networks`` (the public verbs), ``sampled`` (the same without gains, as a check).
"""

from kdviz.measuring.networks import measure, measure_checkpoints
from kdviz.measuring.sampled import measure_sampled

__all__ = ["measure", "measure_checkpoints", "measure_sampled"]
