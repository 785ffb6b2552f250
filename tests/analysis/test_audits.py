"""What a run says of maps that moved while weights were rescaled."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measured_runs import measure_small

from kdviz import analysis, schema
from kdviz.store import Run

ROW = {
    "pair": "a -> b", "factor": "x4", "layer": "a", "place": "between", "method": "entropy", "ratio": 1.0,
    "cosine": 1.0, "rank_correlation": 1.0, "difference": 0.0, "jaccard": 1.0, "n_fg": 0.0, "n_bg": 0.0,
    "moved": False, "output_difference": 0.0,
}  # fmt: skip
MOVED = {"moved": True, "ratio": 0.5, "cosine": 0.9, "difference": 2.0, "jaccard": 0.8}


def keep(run: Run, name: str, *rows: dict[str, object], refused: str = "") -> None:
    table = pd.DataFrame([ROW | row for row in rows], columns=[*ROW])
    values = {f"audit_{column}": table[column].to_numpy() for column in table}
    run.write_result(
        f"coherency/{name}", schema.build({"audit_refused": np.array(refused)} if refused else values)
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return measure_small(tmp_path / "run.zarr", "student", "student", 0, images=2)


def test_read_audits__gives_back_what_was_stored(run: Run) -> None:
    keep(run, "teacher", {}, MOVED | {"factor": "per channel"})
    keep(run, "student", {"method": "activation", "n_fg": np.nan})
    keep(run, "other", refused="it is random")
    table = analysis.read_audits(run)
    assert table["network"].tolist() == ["student", "teacher", "teacher"]
    expected = [ROW | {"method": "activation", "n_fg": np.nan}, ROW, ROW | MOVED | {"factor": "per channel"}]
    pd.testing.assert_frame_equal(table.drop(columns="network"), pd.DataFrame(expected))
    assert analysis.list_refused(run) == {"other": "it is random"}


def test_read_audits__of_a_run_without_any_is_empty(run: Run) -> None:
    assert analysis.read_audits(run).empty and analysis.list_refused(run) == {}
    assert not any("coherency" in one.question for one in analysis.give_verdict(run).answers)


def test_summarise_audits__counts_what_moved_and_keeps_the_worst() -> None:
    table = pd.DataFrame([ROW | MOVED, ROW | {"rank_correlation": 0.7}, ROW | {"place": "after"}])
    summary = analysis.summarise_audits(table.drop(columns="jaccard"))
    assert [*summary.index] == [("entropy", "x4", "between"), ("entropy", "x4", "after")]
    row = summary.iloc[0].to_dict()
    assert np.isnan(row.pop("jaccard"))
    assert row == {
        "compared": 2, "moved": 1, "ratio_low": 0.5, "ratio_high": 1, "cosine": 0.9, "rank_correlation": 0.7,
        "difference": 2,
    }  # fmt: skip
    assert analysis.summarise_audits(table)["jaccard"].tolist() == [0.8, 1.0]


def test_give_verdict__tells_under_which_factors_the_entropy_stays(run: Run) -> None:
    channel = {"factor": "per channel"}
    keep(run, "teacher", {}, {"place": "after"}, MOVED | channel, channel | {"place": "after"})
    keep(run, "student", {"method": "activation"} | MOVED, {"method": "grad_cam"})
    keep(run, "other", refused="torch.fx cannot trace it")
    answer = analysis.give_verdict(run).answers[-1]
    assert answer.question.startswith("The entropy stays where weights are rescaled and no output changes")
    assert answer.answer == "mixed"
    assert [*map(str, answer.findings)] == [
        "a layer by 4: yes (moved in 0 of 2 comparisons)",
        "each channel by its own factor: partly the other way (moved in 1 of 2 comparisons, between the "
        "two layers)",
        "other maps that moved, too: activation",
        "other maps that did not move: grad cam",
        "not asked of other: torch.fx cannot trace it",
    ]


def test_give_verdict__of_networks_that_cannot_be_rescaled_says_why(run: Run) -> None:
    keep(run, "teacher", refused="no pair")
    answer = analysis.give_verdict(run).answers[-1]
    assert (answer.answer, [*map(str, answer.findings)]) == (
        "cannot be asked", ["not asked of teacher: no pair"],
    )  # fmt: skip
