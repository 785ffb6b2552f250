"""What a study compares, as nested data in one file beside its results.

A stored plan is complete: reading it looks nothing up, so that it needs no torch. What a new one leaves out
comes from the kind of input and from the presets of the architecture.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from kdviz.architectures import PRESETS
from kdviz.arguments import name_some, one_of, suggest
from kdviz.errors import KdvizWarning, StoreError
from kdviz.files import list_differences, make_folder, parse_yaml, read_json, write_bytes
from kdviz.sources import Data, FashionComposites
from kdviz.sources.image import IMAGENET_MEAN, IMAGENET_STD
from kdviz.studies.answers import check_layers, check_loss, suit_layers
from kdviz.studies.parts import (
    FEATURES,
    LOGITS,
    TEACHER_SEED,
    BuiltInTeacher,
    MeasurementPlan,
    Networks,
    Part,
    StudentLoss,
    TrainedTeacher,
    Training,
)

STUDY_FILE = "study.yaml"
_OWN_ENCODER = "encoder"  # the architecture of the teacher's own encoder
_OF_MASKS = ("data.masks", "data.foreground", "data.void", "data.threshold")  # masks are compared themselves
_NOT_DECIDING = ("device", "data.tokenizer", "networks.teacher.encoder", *_OF_MASKS)  # where things lie
_SUM = "# sha256 of the lines above: "
_GROWING = ("training.seeds", "networks.layers", "losses")  # a study may be given more of these later
_ADDED: dict[str, Any] = {  # by later versions, with what they are where nothing is said
    "data.classes": (),
    "data.mean": IMAGENET_MEAN,
    "data.std": IMAGENET_STD,
    "networks.depth": None,
    "networks.teacher.architecture": None,
    "networks.teacher.layers": {},
    "networks.teacher.start": None,
    "networks.teacher.data": None,
    "networks.teacher.classes": None,
    "training.checkpoints": (),
    "training.recipes": {},
}

_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {  # by modality, or kind of data, and part of the plan
    "image": {
        "networks": {"architecture": "small_vgg"},
        "training": {"count": 4000},
        "measurement": {"grid": 16},
    },
    "text": {"networks": {"architecture": "small_bert"}},
    "cloud": {
        "networks": {"architecture": "small_pointnet"},
        "training": {"count": 836},
        "measurement": {"samples": 22},
    },
    "generated-questions": {"networks": {"teacher": {"kind": "trained", "epochs": 8}}},
}
_OF_MAPS = ("attention",)  # kinds of losses that read maps over a picture
BUILT_IN_DATA = {"image": "fashion-composites", "text": "movie-reviews", "cloud": "furniture"}
"""Kinds of data that come with kdviz, by modality."""

BUILT_IN_TEACHERS = {
    "fashion-composites": "runs/teacher-fashion.safetensors",
    "movie-reviews": "runs/teacher-reviews.safetensors",
    "furniture": "runs/teacher-furniture.safetensors",
}
"""Data files of the teachers that come with kdviz, by kind of data; of the default architecture and size."""

_TEACHER_SIZES = {"size": 48, "length": 96}  # pixels of their images, tokens of their texts


class StudyPlan(Part):
    """Teacher, baselines and students on one set of samples.

    Attributes
    ----------
    data
        One of :mod:`kdviz.sources`, told apart by ``kind``; the built-in images by default. Decides the
        defaults of everything else.
    networks, training, measurement
        Parts of their own.
    losses
        One kind of student for each.
    device
        Where to train and measure, such as ``"cuda"``; may be another one when the study is continued.
    """

    data: Data = FashionComposites()
    networks: Networks = Field(default={}, validate_default=True)
    losses: tuple[StudentLoss, ...] = Field(default=(FEATURES,), min_length=1)
    training: Training = Field(default={}, validate_default=True)
    measurement: MeasurementPlan = Field(default={}, validate_default=True)
    device: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fit_length(cls, given: Any) -> Any:
        """Let texts be no longer than an encoder of few positions reads, where nothing is said."""
        data, folder = given.get("data"), _encoder_of(given.get("networks"))
        if not isinstance(data, Mapping) or "length" in data or folder is None:
            return given
        with suppress(StoreError):  # of what is no encoder, which is said when it is read
            reads = _count_positions(read_json(Path(folder) / "config.json"))
            if reads < _TEACHER_SIZES["length"]:
                return given | {"data": dict(data) | {"length": reads}}
        return given

    @field_validator("networks", "training", "measurement", mode="before")
    @classmethod
    def _fill(cls, given: Any, info: ValidationInfo) -> Any:
        """Take what is not given from the defaults of the kind of input."""
        data = info.data.get("data")
        if data is None or not isinstance(given, (Mapping, BaseModel)):
            return given  # a fault that is reported elsewhere
        assert info.field_name is not None
        values = _DEFAULTS[data.modality].get(info.field_name, {})
        values = values | _DEFAULTS.get(data.kind, {}).get(info.field_name, {}) | dict(given)
        architecture = getattr(info.data.get("networks"), "architecture", None)
        if info.field_name == "training" and architecture == _OWN_ENCODER:
            values.setdefault("rate_factor", 0.1)  # the rates are those of small networks
        if info.field_name == "networks":
            built_in = data.kind in BUILT_IN_TEACHERS
            values.setdefault("teacher", BuiltInTeacher() if built_in else TrainedTeacher())
            if _encoder_of(given) is not None and "architecture" not in given:
                values["architecture"] = _OWN_ENCODER
            if not isinstance(values.get("layers"), Mapping):
                names = values.get("layers")
                found = _find_layers(data.modality, values["architecture"], names)
                values["layers"] = suit_layers(data, found) if names is None else found
        return values

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, networks: Networks, info: ValidationInfo) -> Networks:
        data = info.data.get("data")
        if data is None:
            return networks  # a fault that is reported elsewhere
        check_layers(data, networks.layers.values())
        if isinstance(networks.teacher, BuiltInTeacher):
            known = _DEFAULTS[data.modality]["networks"]["architecture"]
            fits = data.kind in BUILT_IN_TEACHERS and networks.architecture == known
            fits = fits and all(getattr(data, name, size) == size for name, size in _TEACHER_SIZES.items())
            if not fits or getattr(data, "tokenizer", None) is not None:
                raise ValueError(
                    f"the built-in teacher is a {known} for built-in data of the usual size; train one for "
                    "others: networks.teacher.kind = trained"
                )
        taught = networks.teacher
        if own := getattr(taught, "layers", {}):
            for name in networks.layers:
                one_of(f"layer of the teacher, a {getattr(taught, 'architecture', None)},", name, own)
        other = getattr(taught, "data", None)
        if other is not None and other.modality != data.modality:
            raise ValueError(
                f"networks.teacher.data are {other.modality}s, and this is a study of {data.modality}s"
            )
        encoder = _encoder_of(networks)
        if encoder is not None and getattr(data, "tokenizer", None) is None:
            raise ValueError(
                "networks.teacher.encoder reads other tokens: data.tokenizer must name its folder"
            )
        if encoder is None and (networks.architecture == _OWN_ENCODER or networks.depth is not None):
            raise ValueError(
                "architecture 'encoder' and depth are those of networks.teacher.encoder: name one"
            )
        if networks.depth is not None and networks.architecture != _OWN_ENCODER:
            raise ValueError(f"depth is that of architecture 'encoder', got {networks.architecture!r}")
        return networks

    @field_validator("losses", mode="before")
    @classmethod
    def _check_layers(cls, losses: Any, info: ValidationInfo) -> Any:
        """Refuse layers that no network has; what is stored was checked when it was new.

        Those of an encoder of the user's are in its folder: they are checked when the loss is tried.
        """
        data, networks = info.data.get("data"), info.data.get("networks")
        if networks is None or _encoder_of(networks) is not None or not isinstance(losses, Sequence):
            return losses
        for loss in (one for one in losses if isinstance(one, Mapping) and "layered" not in one):
            for option in loss.keys() & {"layer", "teacher_layer"}:
                given = loss[option]
                for name in filter(None, [given] if isinstance(given, str) else given or ()):
                    known = _list_layers(data, networks)
                    one_of(f"{option} of the loss {loss.get('kind', 'features')}", name, known)
        return losses

    @field_validator("losses")
    @classmethod
    def _check_losses(cls, losses: tuple[StudentLoss, ...], info: ValidationInfo) -> tuple[StudentLoss, ...]:
        modality = getattr(info.data.get("data"), "modality", "image")
        for loss in losses if "data" in info.data else ():
            check_loss(info.data["data"], loss.kind, loss.options)
        if modality != "image" and (found := [loss.kind for loss in losses if loss.kind in _OF_MAPS]):
            raise ValueError(
                f"{found[0]} compares maps over pictures, and this is a study of {modality}s, whose networks "
                "have none: leave it out of losses"
            )
        networks, kinds = info.data.get("networks"), [loss.kind for loss in losses]
        own, other = getattr(networks, "architecture", None), getattr(networks, "teacher", None)
        if "fine-tuning" in kinds and (at := getattr(other, "architecture", None)) not in (None, own):
            raise ValueError(f"fine-tuning begins as the teacher, a {at}: students must be such, too")
        named = [(loss.kind, loss.layered) for loss in losses]
        if twice := [kind for kind, layered in named if named.count((kind, layered)) > 1]:
            raise ValueError(f"students of two losses {twice[0]!r} would have one name; make a study of each")
        return losses

    @field_validator("training")
    @classmethod
    def _check_training(cls, training: Training, info: ValidationInfo) -> Training:
        teacher = getattr(info.data.get("networks"), "teacher", None)
        teacher_seed = getattr(teacher, "seed", TEACHER_SEED)
        if teacher_seed in training.seeds:
            raise ValueError(f"seed {teacher_seed} is the teacher's; student and baseline need another")
        layers = getattr(info.data.get("networks"), "layers", {})
        losses = [loss.kind for loss in info.data.get("losses", ()) if not loss.head]
        for name in training.recipes:
            one_of("training.recipes", name, ["teacher", "baseline", "student", "head", *layers, *losses])
        return training

    @field_validator("measurement")
    @classmethod
    def _check_measurement(cls, measurement: MeasurementPlan, info: ValidationInfo) -> MeasurementPlan:
        data = info.data.get("data")
        if data is None or measurement.grid is None:
            return measurement
        if data.modality != "image":
            raise ValueError(f"grid cuts images into units, this is a study of {data.modality}s")
        size = getattr(data, "size", measurement.grid)
        if measurement.grid > size:
            raise ValueError(
                f"a grid of {measurement.grid} units a side does not fit pictures of {size} pixels"
            )
        return measurement

    def as_json(self) -> dict[str, Any]:
        """Return the plan as it is stored."""
        return self.model_dump(mode="json")

    @property
    def identity(self) -> dict[str, Any]:
        """What decides every result, by dotted names: what may grow, paths and the device are left out."""
        return {
            name: value
            for name, value in _flatten(self.model_dump()).items()
            if name not in (*_GROWING, *_NOT_DECIDING)
            and not isinstance(value, Path)
            and not (name in _ADDED and value == _ADDED[name])
        }

    def save(self, folder: Path) -> None:
        """Write the plan to a new study, or check it against the one that is there.

        Raises
        ------
        StoreError
            If the folder holds a study with another plan; seeds, layers and losses may be added.
        """
        if (folder / STUDY_FILE).exists():
            self.check_grown(StudyPlan.load(folder), folder)
        self.write(folder)

    def check_grown(self, before: "StudyPlan", folder: Path) -> None:
        """Refuse a plan that is not that of before, or that with more seeds, layers and losses.

        Raises
        ------
        StoreError
            If it is another, by the name of the study's folder.
        """
        stored, asked = (_flatten(plan.as_json()) for plan in (before, self))
        grown = [name for name in _GROWING if _is_within(stored[name], asked[name])]
        asked |= {name: stored[name] for name in (*grown, "device")}
        if differing := list_differences(stored, asked):
            raise StoreError(f"{folder} holds a study with {'; '.join(differing)}; choose another folder")

    def write(self, folder: Path) -> None:
        """Write the plan, whatever is there."""
        path = make_folder(folder) / STUDY_FILE
        text = yaml.safe_dump(self.as_json(), sort_keys=False)
        write_bytes(path, f"{text}{_SUM}{_hash(text)}\n".encode())

    @classmethod
    def load(cls, folder: Path) -> "StudyPlan":
        """Read the plan of a study.

        Raises
        ------
        StoreError
            If there is none, or it is damaged.

        Warns
        -----
        KdvizWarning
            If it is not as kdviz wrote it: a user may change a plan, and so may a disk.
        """
        path = folder / STUDY_FILE
        if not path.exists():
            raise StoreError(f"{folder} holds no study: there is no {STUDY_FILE}; begin with kdviz train")
        try:
            plan = cls.model_validate(read_plan_file(path))
        except ValidationError as error:
            raise StoreError(f"{path} is damaged: {error}") from error
        text, written, known = path.read_text(encoding="utf-8").rpartition(_SUM)
        if written and known.strip() != _hash(text):
            warnings.warn(
                f"{path} was changed since kdviz wrote it; if not by you, put a backup of it back, "
                f"if by you, kdviz train {folder} takes it as it is now",
                KdvizWarning,
                stacklevel=2,
            )
        return plan


def read_plan_file(path: Path) -> dict[str, Any]:
    """Read a plan, or parts of one, that somebody wrote as YAML or JSON.

    Raises
    ------
    StoreError
        If the file is missing, or holds no names and values.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(values, dict):
        raise StoreError(f"{path} is damaged: it holds no names and values")
    return values


def make_plan(
    folder: Path, file: Path | None, options: Mapping[str, Any], changes: Sequence[str]
) -> StudyPlan:
    """Make a plan from a file, or that of a study's folder, and changes of single values by dotted names.

    Parameters
    ----------
    folder
        Of the study; its plan is changed where there is one and no `file` is given.
    file
        A plan, or parts of one.
    options
        ``{"training.epochs": 12}``; a whole part comes before values in it.
    changes
        ``"training.epochs=12"``, the value as YAML.

    Raises
    ------
    StoreError
        If a file cannot be read.
    ValueError
        If a change or the plan is not valid.
    """
    stored = folder / STUDY_FILE
    values = read_plan_file(file or stored) if file or stored.exists() else {}
    change_values(values, options, changes)
    if isinstance(values.get("data"), dict):
        values["data"].setdefault("kind", BUILT_IN_DATA["image"])
    plan = StudyPlan.model_validate(values)
    encoder = _encoder_of(plan.networks)
    if encoder is not None and not encoder.is_dir():
        raise ValueError(f"networks.teacher.encoder (--encoder) is not a folder: {encoder}")
    return plan


def change_values(values: dict[str, Any], options: Mapping[str, Any], changes: Sequence[str]) -> None:
    """Change single values of a plan by dotted names, as in `make_plan`.

    Raises
    ------
    ValueError
        If a change has another form.
    """
    asked = dict(options)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r} is not of the form name=value")
        try:
            asked[name] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"the value of {name} cannot be read: {error}") from error
    for name, value in asked.items():
        *parts, last = name.split(".")
        place = values
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name}: {part} is {place!r}, which has no parts; set it as a whole")
        place[last] = value


def explain_faults(error: ValidationError) -> str:
    """Say in one line what of a plan is wrong, with names that are near an unknown one."""
    told = []
    for fault in error.errors():
        place = ".".join(map(str, fault["loc"]))
        text = str(fault["msg"]).removeprefix("Value error, ")
        place = "" if text.startswith(place) else place
        if fault["type"] == "extra_forbidden":
            text = f"unknown; {suggest(fault['loc'][-1], names_beside(fault['loc']))}"
        told.append(f"{place}: {text}" if place else text)
    return "; ".join(told)


def is_added(name: str) -> bool:
    """Whether a setting, by its dotted name, is one that older plans do not have."""
    return any(name == one or name.startswith(f"{one}.") for one in _ADDED)


def names_beside(place: Sequence[str | int]) -> list[str]:
    """List the settings in the part of a plan that a place of pydantic's lies in."""
    part: Any = StudyPlan
    for name in place[:-1]:
        if kinds := get_args(part):  # told apart by their names
            part = next(kind for kind in kinds if kind.model_fields["kind"].default == name)
        else:
            part = part.model_fields[name].annotation
    return list(part.model_fields)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _encoder_of(networks: Any) -> Any:
    """Return the folder of the teacher's encoder, of networks as given or as checked; None without one."""
    for name in ("teacher", "encoder"):
        networks = networks.get(name) if isinstance(networks, Mapping) else getattr(networks, name, None)
    return networks


def _count_positions(config: Mapping[str, Any]) -> int:
    """Return how many tokens an encoder reads at once, by its ``config.json``."""
    most = int(config.get("max_position_embeddings", _TEACHER_SIZES["length"]))
    after_padding = any(kind in config.get("model_type", "") for kind in ("roberta", "camembert"))
    return most - (config.get("pad_token_id", 1) + 1 if after_padding else 0)


def _find_layers(modality: str, architecture: str, names: Any) -> dict[str, str]:
    """Look up the modules of named layers; without names, of all below the logits."""
    fitting = [name for name, preset in PRESETS.items() if preset.modality == modality]
    layers = PRESETS[one_of("networks.architecture", architecture, fitting)].layers
    below = [name for name in layers if name != LOGITS]
    chosen = below if names is None else names
    if unknown := [name for name in chosen if name not in layers]:
        raise ValueError(
            f"networks.layers names {name_some(map(repr, unknown))}; allowed of {architecture}: "
            f"{', '.join(layers)}"
        )
    return {name: layers[name] for name in chosen}


def _list_layers(data: Any, networks: Networks) -> list[str]:
    """List what a loss may read, by the papers' names and by those of all modules."""
    from kdviz import models
    from kdviz.networks.features import name_modules

    sizes: dict[str, dict[str, Any]] = {
        "image": {"input_size": getattr(data, "size", None)},
        "text": {"vocabulary": 1},
        "cloud": {},
    }
    build = getattr(models, data.modality).build
    classes = None if data.finds_spans else 2
    network = build(networks.architecture, classes=classes, device="meta", **sizes[data.modality])
    preset = PRESETS[networks.architecture]
    return list(dict.fromkeys([*preset.layers, *networks.layers, *filter(None, name_modules(network))]))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by dots, down to what may grow."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        if isinstance(value, Mapping) and dotted not in _GROWING:
            flat |= _flatten(value, f"{dotted}.")
        else:
            flat[dotted] = value
    return flat


def _is_within(old: Any, new: Any) -> bool:
    """Whether everything of a list or mapping is in another."""
    one, two = (list(each.items()) if isinstance(each, Mapping) else each for each in (old, new))
    return all(item in two for item in one)
