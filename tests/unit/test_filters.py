"""Conditions on metadata: what passes means what it says, and nothing else passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbatch.errors import CrossbatchError
from crossbatch.search import condition

COLUMNS = ["label", "id", "Weight", "two words", "in"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("label = 'shoe'", "`label` = 'shoe'"),
        ("label='it''s; DROP TABLE x --'", "`label`='it''s; DROP TABLE x --'"),
        ("Weight >= 1.5e-3 AND NOT id<>-3", "`Weight` >= 1.5e-3 AND NOT `id`<>-3"),
        ('"two words" IN (\'a\', "label")', "`two words` IN ('a', `label`)"),
        ("`in` is not null or lower(label) like 'x%'", None),
        ("label between 'a' and 'b' and (id + 1) % 2 = 0", None),
    ],
)
def test_conditions_that_are_ones(where, expected):
    found = condition(where, COLUMNS)
    if expected is not None:
        assert found == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("labl = 'a'", "Got `labl`. Did you mean `label`"),
        ("weight > 1", "Did you mean `Weight`"),
        ("vector is null", "Got `vector`"),
        ('label = "shoe"', "Got `shoe`.*single quotes"),
        ("label = 'a'; DROP TABLE items", "Got '; DROP TABLE', which has no place"),
        ("label = 'a' -- or so", "Got '-- or so'"),
        ("label = 'a' /* x */", "Got `x`|no place"),
        ("id in (select id from items)", "Got `select`"),
        ("sleep(9) = 1", "Got `sleep`"),
        ("label = 'a", "a quote that is never closed: 'a"),
        ('"label', "a quote that is never closed"),
        ("label = 'a' \\", "no place"),
        ("", "Got nothing"),
        ("  ", "Got nothing"),
        ("id = 1 or " * 2000, "10,000 characters. Got 20,000"),
        ("id = $1", "no place"),
        ("label = 'a\x00", "never closed"),
    ],
)
def test_what_is_none(where, message):
    with pytest.raises(CrossbatchError, match=message.replace("(", r"\(")):
        condition(where, COLUMNS)


@given(st.text())
def test_any_value_is_one_literal(value):
    found = condition({"label": value}, COLUMNS)
    literal = found.removeprefix("`label` = ")
    assert literal[0] + literal[-1] == "''"
    assert literal[1:-1].count("'") == 2 * value.count("'")
    assert literal[1:-1].replace("''", "'") == value
    assert condition(found, COLUMNS) == found


def test_values_of_a_mapping():
    found = condition({"id": 3, "in": True, "Weight": 0.5, "label": None}, COLUMNS)
    assert found == "`id` = 3 AND `in` = true AND `Weight` = 0.5 AND `label` IS NULL"
    with pytest.raises(CrossbatchError, match="Got `nothing`"):
        condition({"nothing": 3}, COLUMNS)
