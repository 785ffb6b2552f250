"""Whole studies: what is compared, and training and measuring it.

A study is one folder: ``study.yaml`` (what is compared), ``networks/`` (checkpoints), ``run.zarr`` (what was
measured) and ``report/`` (executed notebook and page). Every step may be killed and called again.

Modules, each importing only from those before it: ``parts`` and ``plans`` (what a study is), ``tasks``
(what there is to do, and what is done), ``resuming`` (with other rates), ``materials`` (samples and
networks), ``cast`` (what those know of networks who ask the finished ones), ``attributing``, ``auditing``,
``sharing`` and ``explaining`` (ask them), ``work`` (do it all), ``engines`` (in this process or in others),
``running`` (task after task by an engine), ``studies`` (the whole); ``factories``, ``own`` and
``checkpoints`` (networks that were trained elsewhere); then ``named`` (tables of the papers: several studies
in one YAML file), ``forecast`` (one bar over them) and ``series`` (do them all). ``work``, ``running`` and
what asks need torch, and are imported when there is something to do.
"""

from kdviz.studies.named import NamedStudy, find_study, list_studies
from kdviz.studies.parts import StudentLoss
from kdviz.studies.plans import BUILT_IN_DATA, STUDY_FILE, StudyPlan, make_plan
from kdviz.studies.resuming import change_rates
from kdviz.studies.series import Series
from kdviz.studies.studies import Study
from kdviz.studies.tasks import Subject, Task

__all__ = [
    "BUILT_IN_DATA",
    "STUDY_FILE",
    "NamedStudy",
    "Series",
    "StudentLoss",
    "Study",
    "StudyPlan",
    "Subject",
    "Task",
    "change_rates",
    "find_study",
    "list_studies",
    "make_plan",
]
