"""PRISM against loops over rows; what it keeps of labels of which some are wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import crossbatch as xb
from tests.generators import problem


def groups(rows, sub_centres):
    """The rows of a class by their nearest centre: k-means, begun at rows far from each other."""
    if sub_centres == 1:
        return [rows]
    unit = [F.normalize(sum(r for r, _ in rows), dim=0)]
    for first in [True] + [False] * (sub_centres - 1):
        apart = [max(float(c @ r) for c in unit) for r, _ in rows]
        far = rows[apart.index(min(apart))][0]
        unit = [far] if first else [*unit, far]
    for _ in range(3):
        parts = [[] for _ in unit]
        for row in rows:
            sims = [float(c @ row[0]) for c in unit]
            parts[sims.index(max(sims))].append(row)
        unit = [
            F.normalize(sum(r for r, _ in part), dim=0) if part else centre
            for part, centre in zip(parts, unit, strict=True)
        ]
    return parts


def naive(memory, z, labels, ids, temperature=1.0, sub_centres=1):
    """P of each label, row by row."""
    rows = list(zip(*memory.contents()[:3], strict=True))
    known = sorted({int(y) for _, y, _ in rows})
    parted = {k: groups([(r, int(i)) for r, y, i in rows if y == k], sub_centres) for k in known}
    result = []
    for x, label, image in zip(z, labels.tolist(), ids.tolist(), strict=True):
        means = {}
        for k, parts in parted.items():
            said = [[float(x @ r) for r, i in p if (i, k) != (image, label)] for p in parts]
            if any(said):
                means[k] = max(sum(part) / len(part) for part in said if part)
        total = sum(math.exp(t / temperature) for t in means.values())
        p = math.exp(means[label] / temperature) / total if label in means else math.nan
        result.append(p)
    return torch.tensor(result, dtype=z.dtype)


def filled(p, rows=0, capacity=500):
    memory = xb.CrossBatchMemory(capacity, p.r.shape[1], dtype=p.r.dtype)
    memory.enqueue(p.r, p.ref_labels, p.ref_ids)
    return memory


@given(
    seed=st.integers(0, 500),
    references=st.integers(1, 60),
    classes=st.integers(1, 9),
    temperature=st.sampled_from([0.1, 1.0]),
    sub_centres=st.sampled_from([1, 2, 3]),
)
@settings(max_examples=100, deadline=None)
def test_probabilities_are_those_of_a_loop(seed, references, classes, temperature, sub_centres):
    p = problem(seed, references=references, classes=classes)
    memory = filled(p)
    prism = xb.Prism(0.2, temperature=temperature, sub_centres=sub_centres)
    found = prism(p.a, p.labels, ids=p.ids, references=memory)
    expected = naive(memory, p.a, p.labels, p.ids, temperature, sub_centres)
    torch.testing.assert_close(found.probability, expected, equal_nan=True)
    assert found.keep.any()
    assert found.keep[expected.isnan()].all()


def test_tiles_do_not_matter(monkeypatch):
    p = problem(4, references=50)
    once = [
        xb.Prism(0.3, sub_centres=s)(p.a, p.labels, ids=p.ids, references=filled(p))
        for s in (1, 2)
    ]
    monkeypatch.setattr("crossbatch.memory.prism._ROWS", 7)
    again = [
        xb.Prism(0.3, sub_centres=s)(p.a, p.labels, ids=p.ids, references=filled(p))
        for s in (1, 2)
    ]
    for a, b in zip(once, again, strict=True):
        torch.testing.assert_close(a.probability, b.probability, equal_nan=True)


def looks(noise=0.0, per=40):
    """Four classes of two opposite looks each; some labels are those of the next class."""
    g = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 8, generator=g), dim=1)
    truth = torch.arange(4).repeat_interleave(per)
    side = torch.where(torch.arange(len(truth)) % 2 == 0, 1.0, -1.0)[:, None]
    x = F.normalize(side * centres[truth] + 0.1 * torch.randn(len(truth), 8, generator=g), dim=1)
    wrong = torch.rand(len(truth), generator=g) < noise
    return x, torch.where(wrong, (truth + 1) % 4, truth), wrong


def test_sub_centres_know_classes_of_several_looks():
    x, labels, _ = looks()
    ids = torch.arange(len(x))
    memory = xb.CrossBatchMemory(len(x), 8)
    memory.enqueue(x, labels, ids)
    one, two = (
        xb.Prism(0.0, sub_centres=s, temperature=0.2)(
            x, labels, ids=ids, references=memory
        ).probability
        for s in (1, 2)
    )
    assert one.mean() < 0.3  # opposite looks cancel
    assert two.min() > 0.5


@pytest.mark.parametrize("sub_centres", [1, 2])
def test_an_images_own_rows_do_not_vote_for_its_label(sub_centres):
    """A wrong label that the memory has seen of this very image many times."""
    g = torch.Generator().manual_seed(1)
    x = F.normalize(torch.randn(6, 8, generator=g), dim=1)
    memory = xb.CrossBatchMemory(100, 8)
    for _ in range(5):
        memory.enqueue(x, torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(6))
        memory.enqueue(x[:1], torch.tensor([1]), torch.tensor([77]))
    prism = xb.Prism(0.1, sub_centres=sub_centres, temperature=0.1)
    one = torch.tensor([1])
    seen = prism(x[:1], one, ids=torch.tensor([77]), references=memory)
    other = prism(x[:1], one, ids=torch.tensor([78]), references=memory)
    assert seen.probability < other.probability / 2


def test_alone_in_its_class_nothing_is_known():
    memory = xb.CrossBatchMemory(10, 4)
    x = torch.eye(4)
    memory.enqueue(x, torch.tensor([0, 0, 1, 2]), torch.arange(4))
    found = xb.Prism(0.9)(x, torch.tensor([0, 0, 1, 9]), ids=torch.arange(4), references=memory)
    assert found.probability.isnan().tolist() == [False, False, True, True]
    assert found.keep[2:].all()


def test_wrong_labels_are_left_out():
    x, labels, wrong = looks(noise=0.25)
    ids = torch.arange(len(x))
    memory = xb.CrossBatchMemory(len(x), 8)
    memory.enqueue(x, labels, ids)
    prism = xb.Prism(0.25, sub_centres=2)
    for part in torch.randperm(len(x), generator=torch.Generator().manual_seed(2)).split(16):
        prism(x[part], labels[part], ids=ids[part], references=memory)
    keep = prism(x, labels, ids=ids, references=memory).keep
    assert wrong[keep].float().mean() < 0.05
    assert keep[~wrong].float().mean() > 0.9


def test_the_threshold_is_the_mean_of_the_last_quantiles():
    p, prism = problem(3, references=60), xb.Prism(0.4, window=3)
    memory, quantiles = filled(p), []
    for start in range(5):
        part = slice(start, start + 3)
        found = prism(p.a[part], p.labels[part], ids=p.ids[part], references=memory)
        beside_chance = found.probability * len(p.ref_labels.unique())
        quantiles.append(beside_chance.sort().values[int(0.4 * 3)])
        threshold = torch.stack(quantiles[-3:]).mean()
        assert torch.equal(found.keep, beside_chance >= threshold.to(torch.float32)) or (
            found.keep.sum() == 1
        )
    again = xb.Prism(0.4, window=3)
    again.load_state_dict(prism.state_dict())
    part = slice(2, 6)
    a, b = (
        m(p.a[part], p.labels[part], ids=p.ids[part], references=memory) for m in (prism, again)
    )
    assert torch.equal(a.keep, b.keep)


def test_a_memory_that_fills_leaves_out_no_more_than_a_full_one():
    """From a few classes to all of them: a label is one of more and more, and as right."""
    g = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(200, 16, generator=g), dim=1)
    truth = torch.randint(0, 200, (4000,), generator=g)
    x = F.normalize(centres[truth] + 0.15 * torch.randn(4000, 16, generator=g), dim=1)
    wrong = torch.rand(4000, generator=g) < 0.2
    labels = torch.where(wrong, (truth + 1) % 200, truth)
    memory, prism, kept = xb.CrossBatchMemory(4000, 16), xb.Prism(0.2), []
    for part in torch.randint(0, 4000, (120, 16), generator=g):
        found = prism(x[part], labels[part], ids=part, references=memory)
        kept.append(found.keep[~found.probability.isnan()].float())
        memory.enqueue(x[part[found.keep]], labels[part[found.keep]], part[found.keep])
    for some in (kept[5:30], kept[30:60], kept[60:120]):
        assert 0.7 < torch.cat(some).mean() < 0.9


def test_an_empty_memory_believes_everything():
    found = xb.Prism(0.5)(
        torch.eye(3),
        torch.arange(3),
        ids=torch.arange(3),
        references=xb.CrossBatchMemory(5, 3),
    )
    assert found.keep.all()
    assert found.probability.isnan().all()


@pytest.mark.parametrize(
    "wrong", [{"noise": 1.0}, {"noise": -0.1}, {"window": 0}, {"temperature": 0.0}]
)
def test_what_is_out_of_range_is_named(wrong):
    with pytest.raises(xb.CrossbatchError, match="Prism with noise"):
        xb.Prism(**({"noise": 0.1} | wrong))
