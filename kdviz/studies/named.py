"""Named studies: what a table of the papers compares, as one YAML file that anybody can write.

A file in the folder ``studies/`` holds a title, the question, the papers' table and presets. A preset is a
list of groups of arms; a group says labels and, for each, parts of a plan, along the axes by which the
papers' tables are sorted. Every combination of labels is an arm: one teacher, its students and baselines.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from kdviz.analysis import Settings
from kdviz.arguments import one_of
from kdviz.errors import StoreError
from kdviz.files import shipped_folders
from kdviz.papers import paper_rows
from kdviz.studies.parts import Part
from kdviz.studies.plans import StudyPlan, change_values, explain_faults, read_plan_file

AXES = ("dataset", "network", "teacher", "setting")
"""By what arms are told apart: columns of :func:`kdviz.papers.paper_rows`."""

Chapter = Literal["points", "transfer", "unicam"]
_Labels = dict[str, dict[str, Any]]  # parts of a plan by label


class Group(Part):
    """Arms: every combination of labels along the axes.

    Attributes
    ----------
    dataset, network, teacher, setting
        Labels as the papers' tables have them, where they are meant, and what each says of the plan; later
        axes have the last word.
    plan
        What all of them share.
    readings
        Ways to count points in one and the same measurement, by a label that is added to that of `setting`:
        fields of :class:`kdviz.analysis.Settings`.
    """

    dataset: _Labels = Field(default_factory=dict)
    network: _Labels = Field(default_factory=dict)
    teacher: _Labels = Field(default_factory=dict)
    setting: _Labels = Field(default_factory=dict)
    plan: dict[str, Any] = Field(default_factory=dict)
    readings: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Preset(Part):
    """A size at which a study can be run.

    Attributes
    ----------
    about
        What it needs, and where it departs from the papers.
    plan
        What all arms share.
    arms
        At least one group.
    """

    about: str = ""
    plan: dict[str, Any] = Field(default_factory=dict)
    arms: tuple[Group, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Arm:
    """One teacher, its students and baselines, under labels.

    Attributes
    ----------
    labels
        By axis; without those that the group does not name.
    plan
        What is compared.
    readings
        ``{label: Settings}``; one without a name and settings by default.
    """

    labels: Mapping[str, str]
    plan: StudyPlan
    readings: Mapping[str, Settings | None]

    @property
    def name(self) -> str:
        """Its labels in one line."""
        return ", ".join(self.labels.values())


class NamedStudy(Part):
    """What a table of the papers compares.

    Attributes
    ----------
    title, question
        What it is about, in a line and in a sentence.
    table
        Of the papers on knowledge points, ``"II"`` to ``"IX"``, to show beside; none if empty.
    chapters
        What is asked of the networks: their knowledge points, the properties they share with the teacher
        (:mod:`kdviz.transfer`), what students have beside baselines (:mod:`kdviz.unicam`).
    presets
        Sizes by name.
    """

    title: str
    question: str
    table: str = ""
    chapters: tuple[Chapter, ...] = Field(default=("points",), min_length=1)
    presets: dict[str, Preset] = Field(min_length=1)

    @field_validator("table")
    @classmethod
    def _check_table(cls, table: str) -> str:
        if table:
            paper_rows(table=table)
        return table

    def arms(
        self, preset: str, changes: Sequence[str] = (), only: Mapping[str, str] | None = None
    ) -> tuple[Arm, ...]:
        """List the arms of a preset.

        Parameters
        ----------
        preset
            One of `presets`.
        changes
            Single values of every plan, ``"training.seeds=[0]"``.
        only
            Keep the arms with this label on an axis.

        Raises
        ------
        ValueError
            If a preset, an axis or a label is unknown, or a plan is not valid; the message names the arm.
        """
        chosen = self.presets[one_of("preset", preset, self.presets)]
        arms = [*_list_arms(chosen, changes)]
        names = [arm.name for arm in arms]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"two arms of {preset} are called {twice[0]!r}; give them different labels")
        for axis, label in (only or {}).items():
            one_of("axis", axis, AXES)
            one_of(axis, label, dict.fromkeys(arm.labels.get(axis, "") for arm in arms))
            arms = [arm for arm in arms if arm.labels.get(axis) == label]
        return tuple(arms)


def _list_arms(preset: Preset, changes: Sequence[str]) -> Iterator[Arm]:
    for group in preset.arms:
        axes = {axis: labels for axis in AXES if (labels := getattr(group, axis))}
        for labels in itertools.product(*axes.values()):
            named = dict(zip(axes, labels, strict=True))
            parts = [preset.plan, group.plan, *(axes[axis][label] for axis, label in named.items())]
            values: dict[str, Any] = {}
            for part in parts:
                _merge(values, part)
            change_values(values, {}, changes)
            try:
                plan = StudyPlan.model_validate(values)
                readings = {name: Settings(**options) for name, options in group.readings.items()}
            except (ValueError, TypeError) as error:
                told = explain_faults(error) if isinstance(error, ValidationError) else error
                raise ValueError(f"{', '.join(labels) or 'the arm'}: {told}") from error
            yield Arm(named, plan, readings or {"": None})


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put a part of a plan over another; of two kinds of data or teacher, the latter alone."""
    for name, value in more.items():
        known = values.get(name)
        parts = isinstance(known, dict) and isinstance(value, Mapping)
        if parts and value.get("kind") in (None, values[name].get("kind")):
            _merge(values[name], value)
        else:
            values[name] = copy.deepcopy(value)


def list_studies() -> dict[str, Path]:
    """Find the named studies that come with kdviz: files by name, in the order of the papers' tables."""
    folders = shipped_folders("studies")
    known = {path.stem: path for folder in folders[::-1] for path in folder.glob("*.yaml")}
    if not known:
        raise StoreError(f"no studies in {' or '.join(map(str, folders))}; install kdviz anew")
    tables = [table.lower() for table in dict.fromkeys(paper_rows()["table"])]
    return {name: known[name] for name in sorted(known, key=lambda name: ([*tables, name].index(name), name))}


def find_study(name: str) -> NamedStudy:
    """Read a named study: one that comes with kdviz, or a YAML file of one's own.

    Raises
    ------
    ValueError
        If there is none of this name, or the file is not valid.
    StoreError
        If the file cannot be read.
    """
    known = list_studies()
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else known[one_of("study", name, known)]
    try:
        return NamedStudy.model_validate(read_plan_file(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {error}") from error
