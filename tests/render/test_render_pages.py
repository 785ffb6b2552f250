"""Tables and verdicts as HTML: what is written, in how many digits, and that names cannot break it."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from kdviz import render


def parse(page: render.Page) -> BeautifulSoup:
    return BeautifulSoup(page._repr_html_(), "html.parser")


def test_show_table__writes_what_is_uncertain_in_two_digits_and_keeps_exact_values() -> None:
    table = pd.DataFrame(
        {
            "layer": ["fc1", "fc2"],
            "gain": [4.66, -0.3],
            "low": [2.13, np.nan],
            "high": [7.31, np.nan],
            "count": pd.array([3, None], dtype="Int64"),
            "answer": ["partly yes", "the other way"],
        }
    )
    page = parse(render.show_table(table, intervals={"gain": ("low", "high")}, about={"gain": "what is won"}))
    assert [head.text for head in page.select("th")] == ["layer", "gain", "count", "answer"]
    first, second = ([cell.text for cell in row.select("td")] for row in page.select("tbody tr"))
    assert first == ["fc1", "4.7 (2.1 to 7.3)", "3", "partly yes"]
    assert second == ["fc2", "-0.30", "–", "the other way"]
    assert [cell["data-value"] for cell in page.select("tbody tr td:nth-of-type(2)")] == ["4.66", "-0.3"]
    assert page.select_one("th[title]")["title"] == "" and page.select("th")[1]["title"] == "what is won"
    assert page.select_one(".note").text == "gain what is won."
    colours = [cell["style"] for cell in page.select(".answer")]
    assert colours[0] != colours[1], "answers are told apart by colour, too"


def test_show_table__signs_are_written_where_a_difference_may_be_below_zero() -> None:
    table = pd.DataFrame({"one": [0.5], "low": [-0.1], "high": [1.1]})
    assert "+0.50 (-0.10 to 1.10)" in parse(render.show_table(table, intervals={"one": ("low", "high")})).text


def test_show_table__sides_differ_by_what_is_written() -> None:
    table = pd.DataFrame({"one": [12.6, 12.6], "other": [10.2, 10.6], "less": [2.4, 2.0]})
    table = table.assign(low=[-18.0, 1.4], high=[23.0, 2.6])
    options = {"intervals": {"less": ("low", "high")}, "sides": {"less": ("one", "other")}}
    rows = parse(render.show_table(table, **options)).select("tbody tr")
    told = [[cell.text for cell in row.select("td")] for row in rows]
    # 13 and 10 would differ by 3
    assert told == [["12.6", "10.2", "+2 (-18 to 23)"], ["12.60", "10.60", "+2.00 (1.40 to 2.60)"]]


def test_show_table__names_stay_text() -> None:
    name = '<script>alert("x")</script> `a` & "b"'
    page = parse(render.show_table(pd.DataFrame({name: [name]}), about={name: name}, folded=name))
    assert len(page.select("script")) == 1, "its own alone"
    assert page.select_one("td").text == '<script>alert("x")</script> a & "b"'  # a stands as code
    assert page.select_one("td code").text == "a"
    assert page.select_one("td")["data-value"] == name == page.select_one("th")["title"]


def test_show_verdict__says_doubts_before_answers() -> None:
    finding = {"claim": "more <points>", "parts": (("yes", "at fc1 +3"), ("undecided", "at fc2"))}
    answer = {"question": "H1", "answer": "partly yes", "findings": [finding]}
    page = parse(render.show_verdict({"run": "mine"}, ["all is at chance"], [answer], ["95 %.", "By lot."]))
    assert page.text.index("In doubt: all is at chance.") < page.text.index("H1: partly yes")
    assert page.select_one("li").text == "more <points>: yes at fc1 +3; undecided at fc2"
    assert [note.text for note in page.select(".note")] == ["95 %. By lot."]  # one after the other


def test_show_notes__is_small_print() -> None:
    (note,) = parse(render.show_notes("`kdviz attribute` <draws>.", "Or not.")).select(".note")
    assert (
        note.text == "kdviz attribute <draws>. Or not." and note.select_one("code").text == "kdviz attribute"
    )
