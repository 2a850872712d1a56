"""Laws of the streams that are no P × K: images as they come, balanced classes, mixed parts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbatch import CrossbatchError
from crossbatch.data import ImageSampler, MixedSampler, PKSampler

law = settings(deadline=None, max_examples=60)


@st.composite
def collections(draw):
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=8))
    codes = np.repeat(np.arange(len(sizes)) * 3 - 5, sizes)
    np.random.default_rng(draw(st.integers(0, 9))).shuffle(codes)
    batch = draw(st.integers(1, len(codes)))
    return codes, {"batch": batch, "seed": draw(st.integers(0, 99))}


def take(sampler, count):
    return [rows.tolist() for rows in itertools.islice(sampler, count)]


def balanced(codes, batch, seed):
    """The balanced stream in plain loops: the definition."""
    names = sorted(set(codes.tolist()))
    images = [np.flatnonzero(codes == name) for name in names]
    most = math.ceil(batch / len(names))
    for k in itertools.count():
        order, rows = np.random.default_rng([seed, 0, k]).permutation(len(names)), []
        for place in range(batch):
            c = order[place % len(names)]
            size = len(images[c])
            lasts = size // most if size >= most else 1
            shuffle = np.random.default_rng([seed, 1, c + 1, k // lasts]).permutation(size)
            at = (k % lasts) * most + place // len(names)
            rows.append(int(images[c][shuffle[at % size]]))
        yield rows


@law
@given(collections())
def test_every_image_comes_once_in_an_epoch_and_never_twice_in_a_batch(collection):
    codes, numbers = collection
    batches = -(-len(codes) // numbers["batch"])
    for _ in range(3):
        sampler = ImageSampler(codes, **numbers)
        epoch = take(sampler, batches)
        assert all(len(set(rows)) == numbers["batch"] for rows in epoch)
        stream = list(itertools.chain(*epoch))
        assert sorted(stream[: len(codes)]) == list(range(len(codes)))


@law
@given(collections())
def test_balanced_is_the_plain_loops(collection):
    codes, numbers = collection
    found = take(ImageSampler(codes, balanced=True, **numbers), 12)
    assert found == list(itertools.islice(balanced(codes, **numbers), 12))
    sizes = {name: (codes == name).sum() for name in set(codes.tolist())}
    for rows in found:
        counts = {name: sum(codes[row] == name for row in rows) for name in sizes}
        assert max(counts.values()) - min(counts.values()) <= 1
        if all(counts[name] <= sizes[name] for name in sizes):
            assert len(set(rows)) == len(rows)


def test_a_class_comes_as_often_after_it_was_seen_as_after_it_was_not():
    codes = np.repeat(np.arange(40), 3)
    stream = take(ImageSampler(codes, batch=10, seed=0, balanced=True), 2000)
    seen = np.array([np.isin(np.arange(40), codes[rows]) for rows in stream])
    again = seen[1:][seen[:-1]].mean()
    assert 0.24 < again < 0.26  # 10 of 40, whatever came before
    images = np.bincount(np.concatenate(stream), minlength=len(codes)) / (20_000 / len(codes))
    assert images.min() > 0.6
    assert images.max() < 1.4


@law
@given(collections(), st.booleans(), st.integers(1, 3), st.integers(0, 9))
def test_ranks_share_one_stream_that_goes_on_anywhere(collection, balanced, world, stop):
    codes, numbers = collection
    make = lambda **more: ImageSampler(codes, balanced=balanced, **numbers, **more)  # noqa: E731
    whole = take(make(), 30)
    ranks = [make(rank=rank, world=world) for rank in range(world)]
    mine = [take(sampler, stop) for sampler in ranks]
    assert [batch for step in zip(*mine, strict=True) for batch in step] == whole[: stop * world]
    again = make()
    again.load_state_dict(ranks[-1].state_dict())
    assert take(again, 3) == whole[stop * world : stop * world + 3]


def mixed(codes, **more):
    first, second = np.arange(0, len(codes), 2), np.arange(1, len(codes), 2)
    parts = [
        (first, PKSampler(codes[first], classes=2, instances=2, seed=1)),
        (second, ImageSampler(codes[second], batch=3, seed=2)),
    ]
    return MixedSampler(parts, **more)


def test_parts_are_put_together_on_every_rank():
    codes = np.repeat(np.arange(5), 6)
    whole = take(mixed(codes), 30)
    for rows in whole:
        assert [row % 2 for row in rows] == [0] * 4 + [1] * 3
        assert len(set(rows)) == len(rows) == mixed(codes).batch_size
    ranks = [mixed(codes, rank=rank, world=3) for rank in range(3)]
    mine = [take(sampler, 7) for sampler in ranks]
    assert [batch for step in zip(*mine, strict=True) for batch in step] == whole[:21]
    states = [sampler.state_dict() for sampler in ranks]
    assert states[0] == states[1] == states[2]
    assert all(isinstance(value, int) for value in states[0].values())
    again = mixed(codes)
    again.load_state_dict(states[0])
    assert take(again, 5) == whole[21:26]
    skipped = mixed(codes)
    skipped.skip(21)
    assert skipped.state_dict() == states[0]


def test_one_class_may_be_a_part():
    with pytest.raises(CrossbatchError, match="two classes"):
        PKSampler([0, 0, 0], classes=1, instances=2, seed=0)
    assert len(next(PKSampler([0, 0, 0], classes=1, instances=2, seed=0, least=1))) == 2


def test_what_is_wrong_is_named():
    for changes, message in (
        ({"batch": 4}, r"a `batch` of 1 to 3 images.*Got 4"),
        ({"batch": 0}, r"a `batch` of 1 to 3 images.*Got 0"),
        ({"seed": -1}, "`seed` of ImageSampler to be 0 or more. Got -1"),
        ({"rank": 2, "world": 2}, r"`rank` of ImageSampler in \[0, 2\). Got 2"),
    ):
        with pytest.raises(CrossbatchError, match=message):
            ImageSampler([0, 0, 1], **{"batch": 2, "seed": 0} | changes)
    state = ImageSampler([0, 0, 1], batch=2, seed=0).state_dict()
    for other in (
        ImageSampler([0, 1, 1], batch=2, seed=0),
        ImageSampler([0, 0, 1], batch=2, seed=1),
    ):
        with pytest.raises(CrossbatchError, match="the state of a sampler with"):
            other.load_state_dict(state)
    with pytest.raises(CrossbatchError, match="a `place` of 0 or more"):
        ImageSampler([0, 0, 1], batch=2, seed=0).load_state_dict(state | {"place": -1})
    with pytest.raises(CrossbatchError, match="at least one part"):
        MixedSampler([])
