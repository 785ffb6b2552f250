"""What a run says, in sentences: first what would spoil it, then an answer to every question asked of it.

A side counts only where an interval leaves out zero. Those of hypotheses are over training seeds where there
are several, else over the samples of the one training; those of properties over samples, network by network.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.accuracies import tabulate_accuracy
from kdviz.analysis.coherency import list_refused, read_audits
from kdviz.analysis.doubts import list_doubts
from kdviz.analysis.judging import (
    NO,
    OPEN,
    UNDEFINED,
    YES,
    judge,
    tabulate_differences,
)
from kdviz.analysis.metrics import HYPOTHESES, METRICS
from kdviz.analysis.networks import list_networks, name_kind, name_layers, read_room
from kdviz.analysis.pairs import NetworkPair, pair_networks
from kdviz.analysis.settings import Settings
from kdviz.analysis.transfer import read_transfer, score_transfer
from kdviz.analysis.unicam import tabulate_relevance
from kdviz.arguments import name_some
from kdviz.errors import KdvizWarning
from kdviz.schema import PLAIN, Vocabulary, choose_words
from kdviz.store import Run
from kdviz.wording import say_interval, say_number, say_sides

_ORDER = (YES, f"partly {YES}", "mixed", OPEN, f"partly {NO}", NO)
_LISTED = 5  # places named in one sentence
_ROLES = ("teacher", "student", "baseline")
_SCORES = {  # of UniCAM: the student's and the baseline's, what is asked of them, what they are
    ("rs distilled", "rs residual"): (
        "What only the student sees has more to do with the classes than what only its baseline sees",
        "relevance",
    ),
    ("fss student-teacher", "fss base-teacher"): (
        "The student's features are more like the teacher's than those of its baseline are",
        "similarity",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One sentence of an answer.

    Attributes
    ----------
    claim
        What was expected of a metric, or of whom.
    parts
        Answers, each with the places and numbers for which it holds.
    """

    claim: str
    parts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Write it as a sentence."""
        told = "; ".join(f"{answer} {numbers}".strip() for answer, numbers in self.parts)
        return f"{self.claim}: {told}" if told else self.claim


@dataclass(frozen=True)
class Answer:
    """What is known of one question.

    Attributes
    ----------
    question
        What was expected, in words.
    answer
        ``"yes"``, ``"the other way"`` or ``"undecided"`` where all findings agree, ``"partly yes"`` or
        ``"partly the other way"`` where others are undecided, ``"mixed"`` where two are opposite, or
        ``"cannot be asked"``.
    findings
        With their numbers.
    """

    question: str
    answer: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Verdict:
    """What a run says.

    Attributes
    ----------
    about
        Name, data, networks and date, by what they are called.
    doubts
        What would spoil the answers, worst first.
    answers
        One for each hypothesis, then one for each property asked for.
    notes
        What the answers hold for, such as the kind of their intervals.
    """

    about: Mapping[str, str]
    doubts: tuple[str, ...]
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Everything but `about`, as lines for a terminal."""
        lines = [f"in doubt: {one}" for one in self.doubts]
        for one in self.answers:
            lines += [f"{one.question}: {one.answer}", *(f"  {finding}" for finding in one.findings)]
        return "\n".join([*lines, *self.notes])


def give_verdict(
    run: Run, pairs: Mapping[str, NetworkPair] | None = None, *, settings: Settings | None = None
) -> Verdict:
    """Say what a run shows, and what would spoil it.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`; may be empty or unfinished.
    pairs
        Of it, from `pair_networks` with ``finished=True``, for what is not measured whole is not judged.
    settings
        How points follow where `pairs` are not given; as in `pair_networks`.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    words = choose_words(run.samples)
    shared = read_transfer(run)
    with warnings.catch_warnings(action="ignore", category=KdvizWarning):  # the verdict says it
        if pairs is None:
            masked = "foreground" in run.samples.variables
            pairs = pair_networks(run, settings, finished=True) if masked else {}
        accuracies, differences = tabulate_accuracy(run), tabulate_differences(pairs)
    return Verdict(
        about=_describe(run, accuracies, words),
        doubts=tuple(list_doubts(run, pairs, accuracies, shared, words)),
        answers=(
            *_answer_hypotheses(run, differences, words),
            *_answer_transfer(shared),
            *_answer_unicam(run),
            *_answer_coherency(run),
        ),
        notes=tuple(_note(run, differences, shared, words)),
    )


def _sum_up(answers: Sequence[str]) -> str:
    """Sum up answers, some of which may sum up others."""
    known = [one for one in answers if one != UNDEFINED]
    sides = {side for side in (YES, NO) for one in known if one.endswith(side)}
    if not known:
        return "cannot be asked"
    if len(sides) > 1 or "mixed" in known:
        return "mixed"
    if len(set(known)) == 1:
        return known[0]
    return f"partly {sides.pop()}" if sides else OPEN


# -- answers


def _answer_hypotheses(run: Run, differences: pd.DataFrame, words: Vocabulary) -> Iterator[Answer]:
    named = {"foreground": words.foreground, "samples": f"{words.sample}s"}
    mixed = differences.loc[differences["seeds"] > 0, "seeds"].nunique() > 1
    for hypothesis, claim in HYPOTHESES.items():
        of_it = differences[differences["hypothesis"] == hypothesis]
        findings = [
            Finding(METRICS[str(metric)].claim.format(**named), tuple(_tell(rows, words, mixed)))
            for metric, rows in of_it.groupby("metric", sort=False)
        ]
        findings = findings or [Finding(_explain_silence(run, words))]
        question = f"{hypothesis}, {claim.format(**named)}"
        yield Answer(question, _sum_up([*of_it["answer"]]), tuple(findings))


def _tell(rows: pd.DataFrame, words: Vocabulary, mixed: bool) -> Iterator[tuple[str, str]]:
    """Say of one metric where the answer is which, with numbers, and with those of seeds if they differ."""
    unit = f" per {words.sample}" if rows["metric"].iloc[0] in ("n_fg", "n_bg") else ""
    rows = rows.assign(told=[_tell_basis(row, words, mixed) for _, row in rows.iterrows()])
    for answer in (YES, NO, OPEN, UNDEFINED):
        there = rows[rows["answer"] == answer]
        if answer == UNDEFINED and len(there) == len(rows) > 1:
            yield answer, "everywhere"
        elif len(there):
            told = [_tell_place(row, unit) for _, row in there[:_LISTED].iterrows()]
            told += [f"{len(there) - _LISTED} more"] if len(there) > _LISTED else []
            yield answer, "; ".join(told)


def _tell_basis(row: pd.Series, words: Vocabulary, mixed: bool) -> str:
    """Say on what a number stands, where that is not the same for all."""
    told = [f"of seeds: {row['seeds']}"] if mixed else []
    if row["over"] == "samples" and row["left_out"]:
        told.append(f"without {row['left_out']} {words.sample}s")
    return f" ({', '.join(told)})" if told else ""


def _tell_place(row: pd.Series, unit: str) -> str:
    where = f"{'for' if ' at ' in row['layer'] else 'at'} {row['layer']}"
    if row["answer"] == UNDEFINED:
        return where
    ends = row["low"], row["high"]
    ours, theirs = say_sides(row["student"], row["baseline"], row["difference"], *ends)
    return f"{where} {say_interval(row['difference'], *ends, unit)}, {ours} against {theirs}{row['told']}"


def _explain_silence(run: Run, words: Vocabulary) -> str:
    if "foreground" not in run.samples.variables:
        return f"no masks say what the {words.foreground} is; `kdviz.store.add_masks(run, masks)` adds them"
    roles = {one.role for one in list_networks(run, finished=True).values()}
    if gone := [role for role in ("student", "baseline") if role not in roles]:
        begun = {one.role for one in list_networks(run).values()}
        whole = " that is measured whole" if begun & {*gone} else ""
        return (
            f"the run has no {' and no '.join(gone)}{whole}; any two networks are compared by "
            "`kdviz.compare(student=..., baseline=...)`"
        )
    return "no student and baseline of one training seed are measured at the same layer"


def _answer_transfer(shared: Mapping[str, xr.Dataset]) -> Iterator[Answer]:
    """Say which kinds of students are nearer to the teacher, and have what sets it apart from others."""
    results = [ds for ds in shared.values() if "independent" in ds["role"].values]
    if not results:  # or nobody to compare with
        return
    rows = _judge_margins(score_transfer(results))
    students = rows[rows["role"] == "student"]
    findings = [
        Finding(claim, _tell_kinds(found)) for claim, found in _part_plain(students[~students["own"]])
    ]
    question = "Students are more like the teacher than networks trained without one"
    yield Answer(question, _sum_up_all(findings), tuple(findings))
    findings = []
    for (title, part), found in rows[rows["own"]].groupby(["title", "part"], sort=False):
        (own,) = found[found["role"] == "teacher"].to_dict("records")
        if own["side"] in (YES, NO):
            apart = f"{'higher' if own['side'] == YES else 'lower'} by {say_number(abs(own['margin']))}"
            claim = f"{title} {part}".strip() + f" (teacher {apart})"
            findings.append(Finding(claim, _tell_kinds(found[found["role"] == "student"], own["side"])))
    if findings:
        question = "Students share what sets the teacher apart from networks trained without one, good or bad"
        yield Answer(question, _sum_up_all(findings), tuple(findings))


def _judge_margins(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to scores on which ``side`` of networks without a teacher each lies: beyond their mean and all.

    Intervals are over samples; how far trainings differ is told by these networks themselves. Where all are
    alike in every case, such as where nobody falls for an attack, there is nothing to tell.
    """
    parts, untaught = ["property", "part"], rows["role"] == "independent"
    alone = rows[untaught].groupby(parts)["score"].agg(["min", "max"])
    ends = rows.join(alone, on=parts)
    low = np.minimum(ends["margin_low"], ends["score"] - ends["max"])  # above all that are without a teacher
    high = np.maximum(ends["margin_high"], ends["score"] - ends["min"])
    sides = np.array([judge(*both) for both in zip(low, high, strict=True)], object)
    same = rows[["margin", "margin_low", "margin_high"]].fillna(0).eq(0).all(axis=1)  # case by case
    all_same = (same | (rows["role"] == "teacher")).groupby([rows[one] for one in parts]).transform("all")
    silent = rows["score"].isna() | (all_same & ~rows["own"])
    return rows.assign(side=np.where(silent, UNDEFINED, sides))


def _part_plain(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Put each property in words, that of samples as they are apart from that of all other domains."""
    for title, found in rows.groupby("title", sort=False):
        claim, plain = str(title).rstrip(":"), found["part"] == PLAIN
        if plain.any():
            yield f"{claim}, samples {PLAIN}", found[plain]
            claim += f", in {name_some(found.loc[~plain, 'part'].unique())}"
        if not plain.all():
            yield claim, found[~plain]


def _tell_kinds(rows: pd.DataFrame, side: str = YES) -> tuple[tuple[str, str], ...]:
    """Say which kinds of students lie on a side."""
    turned = {side: YES, OPEN: OPEN}
    told: dict[str, list[str]] = {}
    known = rows[rows["side"] != UNDEFINED]
    if not len(known):
        levels = name_some(map(say_number, rows["score"].dropna().unique()))
        return ((UNDEFINED, f"(all networks are at {levels})" if levels else "(there is no such case)"),)
    for kind, found in known.groupby("kind", sort=False):
        each = [turned.get(one, NO) for one in found["side"]]
        sides = {"clear": each.count(YES), "the other way": each.count(NO)}
        clear = ", ".join(f"{side} in {count} of {len(each)}" for side, count in sides.items() if count)
        margin = say_number(found["margin"].mean(), sign=True)
        name = str(kind).removeprefix("student-")
        told.setdefault(_sum_up(each), []).append(f"{name} {margin}{f' ({clear})' if clear else ''}")
    return tuple((one, "; ".join(told[one])) for one in _ORDER if one in told)


def _sum_up_all(findings: Sequence[Finding]) -> str:
    return _sum_up([answer for one in findings for answer, _ in one.parts])


def _answer_unicam(run: Run) -> Iterator[Answer]:
    """Say what a student's own features have to do with the classes, and whether all are like a teacher's."""
    table = tabulate_relevance(read_room(run, "unicam-scores").values())
    if not len(table):
        return
    last = table[table["epoch"] == table.groupby("student")["epoch"].transform("max")]
    last = last[last["input"] == last["input"].iloc[0]]
    labels = {module: label for label, modules in name_layers(run).items() for module in modules}
    for (ours, theirs), (question, name) in _SCORES.items():
        findings = []
        ahead = f"{ours.partition(' ')[0]} ahead"
        for layer, of_layer in last[last["score"].isin([ours, theirs, ahead])].groupby("layer", sort=False):
            low, value, high = (
                of_layer.pivot(index="student", columns="score", values=f"value{end}")
                for end in ("_low", "", "_high")
            )
            below, above = low[ours] - high[theirs], high[ours] - low[theirs]  # where nobody took differences
            if ahead in value:
                below, above = low[ahead].fillna(below), high[ahead].fillna(above)
            more, less = int((below > 0).sum()), int((above < 0).sum())
            answer = _sum_up([YES] * more + [NO] * less + [OPEN] * (len(value) - more - less))
            sides = " against ".join(say_number(value[score].mean()) for score in (ours, theirs))
            told = f"(more in {more} of {len(value)} students, less in {less}; {name} {sides})"
            findings.append(Finding(f"at {labels.get(str(layer), layer)}", ((answer, told),)))
        if findings:  # without a teacher there is no likeness to it
            yield Answer(f"{question} (UniCAM)", _sum_up_all(findings), tuple(findings))


def _answer_coherency(run: Run) -> Iterator[Answer]:
    """Say whether the entropy, and which other maps, moved while weights were rescaled."""
    audited, refused = read_audits(run), list_refused(run)
    findings = []
    for factor, of_it in audited[audited["method"] == "entropy"].groupby("factor", sort=False):
        moved, count = int(of_it["moved"].sum()), len(of_it)
        where = ", ".join(f"{place} the two layers" for place in of_it.loc[of_it["moved"], "place"].unique())
        told = f"(moved in {moved} of {count} comparisons{f', {where}' if where else ''})"
        answer = NO if moved == count else f"partly {NO}" if moved else YES
        own = factor == "per channel"
        claim = "each channel by its own factor" if own else f"a layer by {str(factor)[1:]}"
        findings.append(Finding(claim, ((answer, told),)))
    others = audited[audited["method"] != "entropy"].groupby("method", sort=False)["moved"].any()
    for moved, word in ((True, "moved, too"), (False, "did not move")):
        if names := [str(name).replace("_", " ") for name, one in others.items() if one == moved]:
            findings.append(Finding(f"other maps that {word}: {', '.join(names)}"))
    findings += [Finding(f"not asked of {name}: {why}") for name, why in refused.items()]
    if findings:
        question = "The entropy stays where weights are rescaled and no output changes (coherency)"
        answers = [answer for one in findings for answer, _ in one.parts]
        yield Answer(question, _sum_up(answers), tuple(findings))


# -- what it is about


def _describe(run: Run, accuracies: pd.DataFrame, words: Vocabulary) -> dict[str, str]:
    samples = run.samples
    count, units = samples.sizes["sample"], samples.sizes["unit"]
    size = f"of {units} {words.unit}s" if samples["valid"].values.all() else f"of up to {units} {words.unit}s"
    roles = [
        f"{len(found)} {str(role) or 'network'}{'s' if len(found) > 1 else ''}{_list_kinds(found)}"
        for role, found in accuracies.groupby("role", sort=False)
    ]
    roles.sort(key=lambda told: [role in told.split()[1] for role in _ROLES], reverse=True)
    told = [attrs.get("dataset_id") for attrs in (run.attrs, *run.catalogue().values())]
    origin = next((str(one) for one in told if one), "")
    about = {
        "run": run.name,
        "data": f"{count} {words.sample}s {size}, {origin or 'of unrecorded origin'}",
        "networks": name_some(roles) or "none",
    }
    begun = str(run.attrs.get("created_at", ""))[:10]
    return about | ({"measured": begun} if begun else {})


def _list_kinds(found: pd.DataFrame) -> str:
    kinds = [*dict.fromkeys(name_kind(str(name)) for name in found.index)]
    return f" ({name_some(kinds, 6)})" if len(kinds) > 1 else ""


def _note(
    run: Run, differences: pd.DataFrame, shared: Mapping[str, xr.Dataset], words: Vocabulary
) -> Iterator[str]:
    known, count = differences[differences["answer"] != UNDEFINED], run.samples.sizes["sample"]
    counts = sorted(set(known.loc[known["over"] == "seeds", "seeds"]))
    if counts:
        yield (
            f"Intervals of H1 to H3: 95 %, over {' or '.join(map(str, counts))} training seeds (Student's "
            "t); a side counts only where they leave out 0."
            + (" Two seeds hardly decide anything: see each by itself below." if 2 in counts else "")
        )
    alone = known[known["over"] == "samples"]
    if len(alone):
        several = ", or of several whose differences are equal" if (alone["seeds"] > 1).any() else ""
        if counts:
            yield f"Those of one training{several} are over its {words.sample}s; another may differ by more."
        else:
            yield (
                f"Intervals of H1 to H3: 95 %, over the {words.sample}s of one training{several}; another "
                "training may differ by more. A side counts only where they leave out 0."
            )
    if (known["left_out"] > 0).any():
        yield (
            f"Up to {known['left_out'].max()} of {count} {words.sample}s have no point, or none on the "
            f"{words.foreground}, and so no share of points, or neither peak nor detours: they are left out "
            'there (`no_points="published"` counts 0, as the papers do), and less than ten decide nothing.'
        )
    if len(known) > 1:
        yield (
            f"Of {len(known)} answers of H1 to H3, one in twenty would be clear by chance if students and "
            "baselines did not differ."
        )
    if any(name.startswith(("transfer/", "unicam-scores/")) for name in run.results):
        asked = f"the {shared['confidence'].sizes['sample']} " if "confidence" in shared else ""
        yield (
            f"Likeness to the teacher and UniCAM: intervals of 95 % over {asked}{words.sample}s that were "
            "asked about, of each network alone. Counted are networks, in each domain that was asked; one "
            "that is no further off than some network without a teacher is undecided."
        )
    if (differences["answer"] == UNDEFINED).any():
        yield (
            "Undefined: without two checkpoints after epoch 0, with other checkpoints than the other side, "
            "without the distance that the weights went, or where no two samples have a point."
        )
