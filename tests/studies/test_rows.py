"""Rows of a study: each is of the type of its kind, and errors name the row and the field."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from refiner.errors import ConfigError
from studies.accuracy.rows import RECORD, LifterRow, Refinement, RefinerRow, ScoreRow, record_of, row_from
from studies.accuracy.table import load_table

WORDS = {"name": "a", "title": "t", "group": "g"}


def test_every_row_of_the_study_has_the_type_of_its_kind():
    table = load_table()
    kinds = {"lifter": LifterRow, "refiner": RefinerRow, "score": ScoreRow}
    for row in table.rows:
        assert type(row) is kinds[row.kind]
        record = record_of(row)
        assert list(record) == list(RECORD) and record["name"] == row.name
        given = {name: value for name, value in record.items() if value != RECORD[name]}
        assert row_from(given, "again") == row


def test_a_row_says_which_models_run():
    table = load_table()
    assert table.row("lifter").refinement is None and table.row("lifter").lifted_by == "lifter"
    assert table.row("full").refinement == Refinement("full", "lifter", "default", "")
    assert table.row("five-steps").refinement == Refinement("full", "lifter", "default", "", steps=5)
    assert table.row("linear").refinement is None and table.row("linear").models == ("lifter", "full")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "row a: kind: expected one of lifter, refiner, score, got None"),
        ({"kind": "salad"}, "row a: kind: expected one of lifter, refiner, score, got 'salad'"),
        ({"kind": "lifter", "title": 3}, "row a: title: expected str, got 3"),
        ({"kind": "lifter", "fold": "x"}, "row a: fold: expected int"),
        ({"kind": "lifter", "set": "x=1"}, "row a: set: expected a list"),
        ({"kind": "lifter", "keep": "first"}, "row a: keep: expected one of last, best"),
        ({"kind": "lifter", "cross_fit": ["b"]}, "row a: cross_fit is for rows of the kind refiner"),
        ({"kind": "refiner", "lifter": "b", "fold": 1}, "row a: fold is for rows of the kind lifter"),
        ({"kind": "refiner", "lifter": "b", "steps": 1}, "row a: steps is for rows of the kind score"),
        ({"kind": "score", "lifter": "b", "of": "c", "config": "x"}, "config is for rows of the kind lifter and rows"),
        ({"kind": "score"}, "row a: lifter: a score needs a lifter"),
        ({"kind": "score", "lifter": "b", "method": "magic"}, "row a: method: expected one of none"),
        ({"kind": "score", "lifter": "b", "method": "none", "smooth": True}, "row a: smooth is for rows that score"),
    ],
)
def test_an_error_names_the_row_and_the_field(fields, words):
    with pytest.raises(ConfigError, match=words):
        row_from(WORDS | fields, "table.toml")


def test_a_row_without_a_field_that_every_row_has():
    with pytest.raises(ConfigError, match=r"table.toml: row a: missing group"):
        row_from({"name": "a", "title": "t", "kind": "lifter"}, "table.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[study]\nseed = 1\n[[row]]\nname = "a"\n', "study: unknown seed"),
        ("[budget]\nscore = ['x=1']\n", "budget: unknown score"),
        ("[data.dark]\nnoise = 'much'\n", "data.dark: noise: expected float"),
    ],
)
def test_a_section_is_checked_too(text, words, tmp_path):
    file = tmp_path / "table.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_table(file)


def test_a_row_that_scores_is_no_model_of_another(tmp_path):
    file = tmp_path / "table.toml"
    rows = [
        {"kind": "lifter"},
        {"name": "b", "kind": "score", "lifter": "a", "method": "none"},
        {"name": "c", "kind": "score", "lifter": "b", "method": "none"},
    ]
    lines = [line for row in rows for line in ("[[row]]", *(f'{k} = "{v}"' for k, v in (WORDS | row).items()))]
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="row c needs b, which has no model of its own"):
        load_table(file)
