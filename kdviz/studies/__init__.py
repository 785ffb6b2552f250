"""Whole studies: what is compared, and training and measuring it.

A study is one folder: ``plan.json`` (what is compared), ``networks/`` (checkpoints), ``run.zarr`` (what was
measured) and ``report/`` (executed notebook and page). Every step may be killed and called again.

Modules, each importing only from those before it: ``plans`` (what a study is), ``materials`` (one module a
modality), ``studies`` (train and measure it).
"""

from kdviz.studies.plans import StudyPlan
from kdviz.studies.studies import Study

__all__ = ["Study", "StudyPlan"]
