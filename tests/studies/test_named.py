"""Named studies: what their files say, arm by arm, and that every one that comes with kdviz can be made."""

from pathlib import Path

import pytest
import yaml

from kdviz import cli
from kdviz.errors import StoreError
from kdviz.papers import paper_rows
from kdviz.studies import NamedStudy, find_study, list_studies

OWN = {
    "title": "Two sizes",
    "question": "Does it matter?",
    "table": "V",
    "presets": {
        "small": {
            "plan": {"data": {"kind": "fashion-composites", "size": 32}, "training": {"seeds": [0, 1]}},
            "arms": [
                {
                    "dataset": {"large": {"data": {"size": 64}}, "other": {"data": {"kind": "furniture"}}},
                    "network": {"one": {"training": {"epochs": 3}}, "two": {"training": {"seeds": [5]}}},
                    "plan": {"networks": {"teacher": {"kind": "trained"}}, "training": {"epochs": 4}},
                },
                {
                    "setting": {"usual": {"networks": {"teacher": {"kind": "trained"}}}},
                    "readings": {"b 0.1": {"threshold": 0.1}, "b 0.3": {"threshold": 0.3}},
                },
            ],
        }
    },
}


def write(folder: Path, **changes) -> str:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(OWN | changes))
    return str(path)


def test_arms__are_every_combination_and_later_parts_have_the_last_word(tmp_path):
    arms = {arm.name: arm for arm in find_study(write(tmp_path)).arms("small")}
    assert [*arms] == ["large, one", "large, two", "other, one", "other, two", "usual"]
    assert arms["large, one"].labels == {"dataset": "large", "network": "one"}
    told = {name: arm.plan for name, arm in arms.items()}
    assert [plan.training.epochs for plan in told.values()] == [3, 4, 3, 4, 12]
    assert [plan.training.seeds for plan in told.values()] == [(0, 1), (5,), (0, 1), (5,), (0, 1)]
    assert (
        told["large, one"].data.model_dump()["size"] == 64 and told["usual"].data.model_dump()["size"] == 32
    )
    assert told["other, one"].data.kind == "furniture"  # and nothing of the images is left
    assert {name: one.threshold for name, one in arms["usual"].readings.items()} == {
        "b 0.1": 0.1,
        "b 0.3": 0.3,
    }
    assert arms["large, one"].readings == {"": None}


def test_arms__changes_reach_all_and_only_picks(tmp_path):
    study = find_study(write(tmp_path))
    arms = study.arms("small", ["training.epochs=7", "measurement.samples=3"], {"network": "two"})
    assert [arm.name for arm in arms] == ["large, two", "other, two"]
    assert {(arm.plan.training.epochs, arm.plan.measurement.samples) for arm in arms} == {(7, 3)}
    assert study.arms("small")[0].plan.training.epochs == 3  # nothing is kept of changes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda study: study.arms("large"), "preset is 'large'; allowed: small"),
        (lambda study: study.arms("small", only={"layer": "fc1"}), "axis is 'layer'; allowed: dataset"),
        (lambda study: study.arms("small", only={"network": "on"}), "network is 'on'; did you mean 'one'"),
        (
            lambda study: NamedStudy(
                title="a", question="b", presets={"c": {"arms": [{"network": {"d": {}}}] * 2}}
            ).arms("c"),
            "two arms of c are called 'd'; give them different labels",
        ),
        (lambda study: study.arms("small", ["training.epochs"]), "is not of the form name=value"),
        (
            lambda study: study.arms("small", ["training.epochs=1"]),
            "large, one: training.epochs: Input should be greater than",
        ),
        (
            lambda study: study.arms("small", ["training.epoch=1"]),
            "large, one: training.epoch: unknown; did you mean 'epochs'",
        ),
    ],
)
def test_arms__odd_choices_are_refused(tmp_path, call, message):
    study = find_study(write(tmp_path))
    with pytest.raises(ValueError, match=message):
        call(study)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "X"}, "table is 'X'; did you mean"),
        ({"chapters": ["point"]}, "Input should be 'points', 'transfer' or 'unicam'"),
        ({"presets": {}}, "at least 1 item"),
        ({"presets": {"small": {"arms": [{"layer": {"fc1": {}}}]}}}, "layer\n.*Extra inputs"),
        ({"titel": "a"}, "titel\n.*Extra inputs"),
    ],
)
def test_find_study__odd_files_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        find_study(write(tmp_path, **changes))
    assert "own.yaml" in str(caught.value)


def test_find_study__readings_that_are_no_settings_name_the_arm(tmp_path):
    presets = {"small": {"arms": [{"setting": {"a": {}}, "readings": {"odd": {"threshold": "much"}}}]}}
    with pytest.raises(ValueError, match=r"^a: "):
        find_study(write(tmp_path, presets=presets)).arms("small")


def test_find_study__unknown_names_and_files_are_told(tmp_path):
    with pytest.raises(ValueError, match="study is 'vv'; did you mean 'v"):
        find_study("vv")
    with pytest.raises(StoreError, match=r"cannot read .*none.yaml: No such file"):
        find_study(str(tmp_path / "none.yaml"))


def test_studies__every_table_of_the_papers_has_one():
    names = [*list_studies()]
    assert {find_study(name).table for name in names} == {"", *paper_rows()["table"]}
    assert names == [
        "ii",
        "iii",
        "iv",
        "v",
        "vi",
        "vii",
        "viii",
        "ix",
        "finetuning",
        "transfer",
        "unicam",
    ]


@pytest.mark.parametrize("name", [*list_studies()])
def test_studies__each_can_be_made_and_is_what_the_paper_printed(name):
    study = find_study(name)
    assert {*study.presets} == {"small", "paper"}
    for preset in study.presets:
        for arm in study.arms(preset):
            assert arm.plan.training.seeds and arm.name
    if not study.table:
        return
    printed = paper_rows(table=study.table)
    students = printed[printed["role"] == "student"]
    found = {
        (*(arm.labels.get(axis, "") for axis in ("dataset", "network", "teacher")), setting, layer)
        for arm in study.arms("paper")
        for setting in ([one for one in arm.readings if one] or [arm.labels.get("setting", "")])
        for layer in arm.plan.networks.layers
    }
    layers = {"last hidden": "hidden"}
    wanted = {
        (*row[["dataset", "network", "teacher", "setting"]], layers.get(row["layer"], row["layer"].lower()))
        for _, row in students.iterrows()
    }
    if study.table in ("II", "VIII"):  # whose layer the paper does not say
        wanted, found = ({one[:4] for one in many} for many in (wanted, found))
    if study.table == "V":  # Table V has no ResNet at the last convolution, and no fc3 beyond CUB
        assert len(wanted) == 57
    assert found == wanted


def test_command__lists_and_shows(capsys):
    for command in (["study", "list"], ["study", "show", "v"], ["study", "show", "vii", "--preset", "paper"]):
        cli.app(command, standalone_mode=False)
    told = capsys.readouterr().out
    assert "v           Student beside baseline, layer by layer (Table V, small, paper)" in told
    assert "small_vgg at conv, fc1, fc2, students by features, seeds 0, 1, 2, 12 epochs" in told
    assert "ModelNet40, PointNet++" in told and "next  kdviz study plan vii --preset paper" in told


def test_command__only_takes_an_axis_and_a_label():
    with pytest.raises(ValueError, match=r"--only takes AXIS=LABEL, got 'VGG-16'"):
        cli.app(["study", "show", "v", "--only", "VGG-16"], standalone_mode=False)
