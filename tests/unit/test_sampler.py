"""Laws of the stream of batches, over data sets of every shape."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossbatch.data import PKSampler
from crossbatch.data.sampler import _subsets
from crossbatch.errors import CrossbatchError

law = settings(deadline=None, max_examples=60)


@st.composite
def collections(draw):
    """Codes of a shuffled data set with classes of one to seven images, and P and K that fit."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=2, max_size=12))
    names = draw(st.lists(st.integers(-50, 50), min_size=12, max_size=12, unique=True))
    codes = np.repeat(names[: len(sizes)], sizes)
    np.random.default_rng(draw(st.integers(0, 9))).shuffle(codes)
    classes, instances = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    assume(sum(min(size, instances) for size in sizes) >= classes * instances)
    return codes, {"classes": classes, "instances": instances, "seed": draw(st.integers(0, 99))}


def take(sampler, count):
    return [rows.tolist() for rows in itertools.islice(sampler, count)]


def packed(codes, *, classes, instances, seed, batch):
    """The classes of a batch with their shares: the definition, in plain loops."""
    names, sizes = np.unique(codes, return_counts=True)
    most, shares, room = min(classes * instances, len(names)), {}, classes * instances
    for number in np.random.default_rng([seed, batch]).choice(len(names), most, replace=False):
        if room:
            shares[int(names[number])] = min(instances, int(sizes[number]), room)
            room -= shares[int(names[number])]
    return shares


@law
@given(collections())
def test_every_batch_is_full_and_no_image_stands_twice_in_it(collection):
    codes, numbers = collection
    size = numbers["classes"] * numbers["instances"]
    for rows in take(PKSampler(codes, **numbers), 25):
        assert len(set(rows)) == len(rows) == size
        assert set(rows) <= set(range(len(codes)))


@law
@given(collections())
def test_classes_and_their_shares_are_those_of_the_plain_loops(collection):
    codes, numbers = collection
    for batch, rows in enumerate(take(PKSampler(codes, **numbers), 25)):
        names, counts = np.unique(codes[rows], return_counts=True)
        shares = packed(codes, **numbers, batch=batch)
        assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == shares


@law
@given(collections())
def test_a_class_gives_all_it_may_unless_it_is_the_last(collection):
    codes, numbers = collection
    whole = dict(zip(*np.unique(codes, return_counts=True), strict=True))
    for rows in take(PKSampler(codes, **numbers), 25):
        names, counts = np.unique(codes[rows], return_counts=True)
        cut = [
            name
            for name, count in zip(names, counts, strict=True)
            if count < min(numbers["instances"], whole[name])
        ]
        assert len(cut) <= 1


def test_a_class_comes_as_often_after_it_was_seen_as_after_it_was_not():
    codes = np.repeat(np.arange(40), 3)
    stream = take(PKSampler(codes, classes=10, instances=2, seed=0), 2000)
    seen = np.array([np.isin(np.arange(40), codes[rows]) for rows in stream])
    assert 0.24 < seen[1:][seen[:-1]].mean() < 0.26  # 10 of 40, whatever came before
    assert np.abs(seen.mean(axis=0) - 0.25).max() < 0.04


@law
@given(collections(), st.integers(0, 40))
def test_a_restored_place_goes_on_as_if_never_left(collection, steps):
    codes, numbers = collection
    sampler = PKSampler(codes, **numbers)
    take(sampler, steps)
    state = sampler.state_dict()
    restored = PKSampler(codes, **numbers)
    take(restored, 3)
    restored.load_state_dict(state)
    assert take(restored, 10) == take(sampler, 10)
    assert restored.state_dict() == sampler.state_dict()
    assert all(type(value) is int for value in state.values())
    assert len(state) == 5


@law
@given(collections(), st.integers(0, 40))
def test_skipping_is_drawing_without_looking(collection, steps):
    codes, numbers = collection
    drawn, skipped = PKSampler(codes, **numbers), PKSampler(codes, **numbers)
    take(drawn, steps)
    skipped.skip(steps)
    assert skipped.state_dict() == drawn.state_dict()


@law
@given(collections(), st.integers(1, 4), st.integers(0, 12))
def test_ranks_together_are_the_one_stream(collection, world, steps):
    codes, numbers = collection
    ranks = [PKSampler(codes, **numbers, rank=rank, world=world) for rank in range(world)]
    shares = [take(sampler, steps) for sampler in ranks]
    together = [batch for group in zip(*shares, strict=True) for batch in group]
    alone = PKSampler(codes, **numbers)
    assert together == take(alone, steps * world)
    assert all(sampler.state_dict() == alone.state_dict() for sampler in ranks)


@law
@given(collections(), st.integers(1, 4), st.integers(1, 4))
def test_the_number_of_ranks_may_change_at_a_restart(collection, before, after):
    codes, numbers = collection
    sampler = PKSampler(codes, **numbers, world=before)
    take(sampler, 5)
    ranks = [PKSampler(codes, **numbers, rank=rank, world=after) for rank in range(after)]
    for rank in ranks:
        rank.load_state_dict(sampler.state_dict())
    alone = PKSampler(codes, **numbers)
    alone.skip(5 * before)
    assert [next(rank).tolist() for rank in ranks] == take(alone, after)


def test_seeds_and_batches_differ():
    codes = np.repeat(np.arange(50), 6)
    streams = [take(PKSampler(codes, classes=5, instances=2, seed=seed), 20) for seed in range(3)]
    assert streams[0] != streams[1] != streams[2]
    assert streams[0][:10] != streams[0][10:]


def test_other_images_are_chosen_every_time():
    def chosen(seed):
        sampler = PKSampler(np.repeat([0, 1], 50), classes=2, instances=2, seed=seed)
        return {frozenset(rows) for rows in take(sampler, 20)}

    assert len(chosen(0)) == 20
    assert chosen(0).isdisjoint(chosen(1))


def test_a_class_with_one_image_comes_alone():
    codes = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2])
    batches = take(PKSampler(codes, classes=2, instances=4, seed=0), 50)
    shares = [tuple(np.bincount(codes[rows], minlength=3)) for rows in batches]
    assert {share[0] for share in shares} == {0, 1}
    assert {share for share in shares if share[0]} <= {(1, 4, 3), (1, 3, 4)}


def test_chosen_images_are_uniform_over_all_subsets():
    sets, generator = 30_000, np.random.default_rng(0)
    takes = np.tile([1, 2, 3], sets // 3)
    chosen = _subsets(np.full(sets, 5), takes, generator)
    for count, subsets in ((1, 5), (2, 10), (3, 10)):
        found = np.sort(chosen[takes == count, :count], axis=1)
        names, counts = np.unique(found, axis=0, return_counts=True)
        assert len(names) == subsets
        wanted = len(found) / subsets
        assert ((counts - wanted) ** 2 / wanted).sum() < 30  # χ², nine degrees of freedom


def test_batches_cost_less_than_reading_an_image():
    sampler = PKSampler(np.repeat(np.arange(10_000), 5), classes=8, instances=4, seed=0)
    start = time.process_time()
    take(sampler, 500)
    assert time.process_time() - start < 0.5


def test_a_list_of_codes_is_fine():
    assert len(next(PKSampler([3, 3, -1, -1], classes=2, instances=2, seed=0))) == 4


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([0.0, 1.0], r"`codes` of shape \(rows,\) and an integer dtype.*float64.*Manifest.codes"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([5, 5, 5, 5], "at least two classes.*Got 1. Add images of other classes"),
        ([0, 0, 1], r"2 × 2 = 4 images for a batch. Got 3 \(2 classes of at most 2 images\)"),
        ([0] * 9 + [1], r"Got 3 \(2 classes of at most 2 images\). Lower `classes`"),
    ],
)
def test_data_that_cannot_make_a_batch(codes, message):
    with pytest.raises(CrossbatchError, match=message):
        PKSampler(codes, classes=2, instances=2, seed=0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"classes": 0}, "`classes` of PKSampler to be 1 or more. Got 0"),
        ({"instances": 0}, "`instances` of PKSampler to be 1 or more. Got 0"),
        ({"seed": -1}, "`seed` of PKSampler to be 0 or more. Got -1"),
        ({"world": 0}, "`world` of PKSampler to be 1 or more. Got 0"),
        ({"rank": 2, "world": 2}, r"`rank` of PKSampler in \[0, 2\). Got 2"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(CrossbatchError, match=message):
        PKSampler([0, 0, 1, 1], **({"classes": 2, "instances": 2, "seed": 0} | numbers))


def test_negative_skip():
    with pytest.raises(CrossbatchError, match="`batches` of PKSampler to be 0 or more"):
        PKSampler([0, 0, 1, 1], classes=2, instances=2, seed=0).skip(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "a sampler with `seed` 0. Got 1. Resume with the manifest"),
        ({"classes": 1}, "with `classes` 2. Got 1"),
        ({"instances": 1}, "with `instances` 2. Got 1"),
        ({"codes": [0, 1, 1, 1]}, "with the same data"),
        ({"codes": [0, 1, 0, 1]}, "with the same data"),
    ],
)
def test_a_state_of_something_else_is_refused(change, message):
    numbers = {"codes": [0, 0, 1, 1], "classes": 2, "instances": 2, "seed": 0}
    other = numbers | change
    other["instances"] = change.get("instances", 1 if "codes" in change else 2)
    state = PKSampler(**other).state_dict()
    if "codes" in change:
        numbers["instances"] = 1
    with pytest.raises(CrossbatchError, match=message):
        PKSampler(**numbers).load_state_dict(state)


@pytest.mark.parametrize("state", [{"place": -1}, {"epoch": 3, "batch": 7}])
def test_a_state_without_a_place_is_refused(state):
    sampler = PKSampler([0, 0, 1, 1], classes=2, instances=2, seed=0)
    known = {name: value for name, value in sampler.state_dict().items() if name != "place"}
    with pytest.raises(CrossbatchError, match=r"a `place` of 0 or more.*Got -1. Use an unaltered"):
        sampler.load_state_dict(known | state)
