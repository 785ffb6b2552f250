"""Measure networks: inputs and masks in, labelled datasets out, with a store that survives a kill.

Modules, each importing only from those before it: ``features`` (says what a callable feature is by what it
does), ``settings`` (what decides the numbers), ``trial`` (refuses what allows no measurement),
``blocks`` (one batch through the engine, and which method a sample needs), ``estimate`` (what that will
take), ``pictures`` (of the inputs), ``measurement`` (a measurement as a value, cut into tasks),
``networks`` (the public verbs).
"""

from kdviz.measuring.estimate import Estimate
from kdviz.measuring.measurement import Block, Measurement, Task
from kdviz.measuring.networks import (
    measure,
    measure_checkpoints,
    plan_measurement,
    run_measurement,
    warn_of_doubts,
)
from kdviz.measuring.settings import Settings

__all__ = [
    "Block",
    "Estimate",
    "Measurement",
    "Settings",
    "Task",
    "measure",
    "measure_checkpoints",
    "plan_measurement",
    "run_measurement",
    "warn_of_doubts",
]
