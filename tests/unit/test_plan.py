"""Plans: values that print as code, and what they say of batches and lengths."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbatch import CrossbatchError, Plan, Stage, cite
from crossbatch.curriculum.plan import RECIPES, allot
from crossbatch.training import parse_plan

law = settings(deadline=None, max_examples=200)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_prints_as_code_that_reads_back(name):
    plan = getattr(Plan, name)()
    assert parse_plan(name) == parse_plan(f"Plan.{name}()") == parse_plan(repr(plan)) == plan
    assert hash(plan) == hash(parse_plan(name))


def test_the_shares_and_weights_of_the_paper():
    batch, stages = 256, Plan.curriculumnet().stages
    shares = [allot(s.shares or (1.0,), (999,) * len(s.subsets), batch) for s in stages]
    assert shares == [(256,), (128, 128), (128, 64, 64)]
    assert [[s.weight(k) for k in s.subsets] for s in stages] == [[1], [1, 0.5], [1, 0.5, 0.5]]
    assert [s.balanced for s in stages] == [True, False, False]
    assert stages[2].fractions == (1, 1, 0.5)
    assert Plan.two_stages().stages == stages[:2]
    assert Plan.clean_only().stages == stages[:1]
    assert not Plan.all_at_once().ranked
    assert Plan.clean_only().ranked
    assert "CurriculumNet" in cite(Plan.curriculumnet())


def test_stages_part_what_others_leave():
    stages = (Stage(), Stage(iterations=40), Stage(), Stage(epochs=1.5), Stage())
    found = Plan(stages).lengths(107, images=(9, 9, 9, 20, 9), batch=8)
    assert found == (21, 40, 21, 4, 21)
    assert Plan.curriculumnet(iterations=(5, 6, 7)).lengths(1) == (5, 6, 7)


@law
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.lists(st.integers(0, 30), min_size=5, max_size=5),
    st.data(),
)
def test_places_are_allotted(parts, rooms, data):
    shares, rooms = [p / sum(parts) for p in parts], rooms[: len(parts)]
    total = data.draw(st.integers(0, sum(rooms)))
    found = allot(shares, rooms, total)
    assert sum(found) == total
    assert all(0 <= n <= room for n, room in zip(found, rooms, strict=True))
    if all(room >= share * total + 1 for share, room in zip(shares, rooms, strict=True)):
        assert all(abs(n - s * total) < 1 for n, s in zip(found, shares, strict=True))
    for k, n in enumerate(found):  # whoever has more than its share is the first with room
        if n > shares[k] * total + 1:
            assert all(found[j] == rooms[j] for j in range(k))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(subsets=(0, 0)), "different whole numbers `subsets`"),
        (lambda: Stage(subsets=(-1,)), "`subsets`, each 0 or more"),
        (lambda: Stage(subsets=(0.5,)), "whole numbers `subsets`"),
        (lambda: Stage(subsets=(0, 1), shares=(1.0,)), "`shares` one for each of 2"),
        (lambda: Stage(shares=(1.0,)), "`shares` one for each of 0"),
        (lambda: Stage(subsets=(0, 1), shares=(0.5, 0.6)), "`shares` that sum to 1"),
        (lambda: Stage(subsets=(0, 1), shares=(1.0, 0.0)), "positive `shares`"),
        (lambda: Stage(subsets=(0,), weights=(float("nan"),)), "finite `weights`"),
        (lambda: Stage(subsets=(0,), weights=(0.0,)), "one of them positive"),
        (lambda: Stage(subsets=(0,), fractions=(1.5,)), r"`fractions` in \(0, 1\]"),
        (lambda: Stage(iterations=-1), "`iterations` and `epochs` of 0 or more"),
        (lambda: Stage(iterations=1.5), "a whole number `iterations`"),
        (lambda: Stage(iterations=1, epochs=1.0), "either `iterations` or `epochs`"),
        (lambda: Stage(lr=0.0), "a positive factor `lr`"),
        (lambda: Plan(()), "one or more stages"),
        (lambda: Plan((1,)), "one or more stages"),
        (lambda: Plan.curriculumnet(iterations=(1, 2)), "`iterations` of 3 stages"),
        (lambda: Plan.curriculumnet().lengths(2), "`iterations` of 3 or more for this plan"),
        (lambda: Plan((Stage(epochs=1.0),)).lengths(9), "whose images are not known yet"),
        (lambda: allot((1.0,), (3,), 4), "room for 4 in a batch.*room for 3"),
        (lambda: parse_plan("curiculumnet"), "Did you mean `curriculumnet`"),
        (lambda: parse_plan("Plan.two_stage()"), "Did you mean `Plan.two_stages`"),
        (lambda: parse_plan("Plan(stages=(Stage(subset=(0,)),))"), "Did you mean `subsets`"),
        (lambda: parse_plan("Plan(stages=(Stage(subsets=3),))"), "parameters of Stage"),
        (lambda: parse_plan("Stage()"), "a plan as code"),
        (lambda: parse_plan("Plan"), "parameters of Plan"),
        (lambda: parse_plan("__import__('os').system('ls')"), "the name of a plan"),
        (lambda: parse_plan("3 +"), "a plan as code"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(CrossbatchError, match=message) as error:
        make()
    assert re.match(r"Expected .*\. Got .*\. \w", str(error.value))
