"""Whole studies: train, measure, report. The only place where all rooms meet.

A study is one folder: ``plan.json`` (what is compared), ``networks/`` (checkpoints), ``run.zarr`` (what was
measured) and ``report/`` (executed notebook and page). Every step may be killed and called again.

Modules, each importing only from those before it: ``plans`` (what a study is), ``studies`` (train and
measure it), ``notebooks`` (papermill reruns and reports).
"""

from kdviz.runs.notebooks import (
    parse_parameters,
    prepare_notebook,
    read_parameter_file,
    read_parameters,
    rerun,
    write_report,
)
from kdviz.runs.plans import StudyPlan
from kdviz.runs.studies import Study

__all__ = [
    "Study",
    "StudyPlan",
    "parse_parameters",
    "prepare_notebook",
    "read_parameter_file",
    "read_parameters",
    "rerun",
    "write_report",
]
