"""Dense losses against their definitions, proxies against a classifier, and a learned boundary."""

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])


@pytest.fixture
def z():
    return F.normalize(torch.randn(9, 4, dtype=torch.float64), dim=1)


def rows(z):
    """Positives and negatives of every anchor that has both."""
    sim = z @ z.T
    for i in range(len(z)):
        p = [sim[i, j] for j in range(len(z)) if LABELS[j] == LABELS[i] and j != i]
        n = [sim[i, j] for j in range(len(z)) if LABELS[j] != LABELS[i]]
        if p and n:
            yield p, n


def test_all_triplets(z):
    violations = [float(b - a + 0.2) for p, n in rows(z) for a in p for b in n if b - a + 0.2 > 0]
    expected = sum(violations) / len(violations)
    assert float(xb.all_triplets(z, LABELS, margin=0.2)) == pytest.approx(expected, rel=1e-5)


def test_semi_hard_triplets(z):
    violations = []
    for p, n in rows(z):
        for a in p:
            chosen = max([b for b in n if b < a], default=min(n))
            violations.append(max(float(chosen - a + 0.2), 0.0))
    expected = sum(violations) / len(violations)
    found = float(xb.semi_hard_triplets(z, LABELS, margin=0.2))
    assert found == pytest.approx(expected, rel=1e-5)


def test_smooth_ap_becomes_average_precision(z):
    losses = []
    for p, n in rows(z):
        order = sorted([(-float(s), 1) for s in p] + [(-float(s), 0) for s in n])
        hits = [k for k, (_, hit) in enumerate(order, start=1) if hit]
        losses.append(1 - sum(i / k for i, k in enumerate(hits, start=1)) / len(hits))
    found = float(xb.smooth_ap(z, LABELS, temperature=1e-6))
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_recall_at_k_becomes_recall(z):
    """With a rank temperature that tells k from k + 1/2, recall counts positives before k."""
    losses = []
    for p, n in rows(z):
        order = sorted([(-float(s), 1) for s in p] + [(-float(s), 0) for s in n])
        found = [sum(hit for _, hit in order[:k]) / min(k, len(p)) for k in (2, 4)]
        losses.append(1 - sum(found) / 2)
    # σ((k − r)/τ₂) is 1/2 at r = k: ks between whole ranks settle it
    soft = xb.recall_at_k(z, LABELS, ks=(2, 4), temperature=1e-6, rank_temperature=1e-3)
    at = 0.0
    for p, n in rows(z):
        order = sorted([(-float(s), 1) for s in p] + [(-float(s), 0) for s in n])
        at += sum(order[k - 1][1] / 2 / min(k, len(p)) for k in (2, 4)) / 2
    count = len(losses)
    assert float(soft) == pytest.approx(sum(losses) / count + at / count, abs=1e-4)


@pytest.mark.parametrize(
    "loss", [xb.all_triplets, xb.semi_hard_triplets, xb.smooth_ap, xb.recall_at_k]
)
def test_dense_losses_learn_and_stay_finite(loss, z):
    x = z.clone().requires_grad_()
    value = loss(x, LABELS)
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    lone = z.clone().requires_grad_()
    nothing = loss(lone, torch.arange(9))  # no positives anywhere
    nothing.backward()
    assert nothing == 0
    assert not lone.grad.any()


def test_proxies_are_the_rows_of_a_classifier(z):
    proxies = xb.Proxies(4, 4).double()
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    weight = proxies.weight.detach().clone().requires_grad_()
    F.cross_entropy(a @ F.normalize(weight, dim=1).T / 0.2, LABELS).backward()
    loss = xb.PairLoss(xb.NTXent(0.2))
    loss(b, LABELS, ids=torch.arange(9), references=proxies()).backward()
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(proxies.weight.grad, weight.grad)


def test_many_proxies_are_plain_references(z):
    """With more classes than a tile, most proxies go through the streamed part."""
    proxies = xb.Proxies(5000, 4).double()
    labels = torch.tensor([1, 4999, 70, 2, 2, 9, 300, 301, 302])
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    weight = proxies.weight.detach().clone().requires_grad_()
    sim = a @ F.normalize(weight, dim=1).T
    own = F.one_hot(labels, 5000)
    F.cross_entropy(16 * (sim - 0.3 * own), labels).backward()
    loss = xb.PairLoss(xb.CosFace(0.3, 16.0))
    loss(b, labels, ids=torch.arange(9), references=proxies()).backward()
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(proxies.weight.grad, weight.grad)


@pytest.mark.parametrize("reduction", ["sum_per_anchor", "mean_over_anchors"])
def test_a_boundary_is_learned(z, reduction):
    learned = xb.LearnableMargin(0.2, 1.0, reduction=reduction).double()
    learned(z, LABELS).backward()
    step = 1e-6
    values = [
        xb.pair_loss(z, LABELS, weighting=xb.Margin(0.2, 1.0 + d), reduction=reduction).value
        for d in (step, -step)
    ]
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(learned.beta.grad, slope, rtol=1e-4, atol=1e-6)
    assert slope != 0
    with torch.no_grad():
        learned.beta.fill_(7.0)
    assert learned.weighting == xb.Margin(0.2, 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xb.Proxies(1, 4), "at least 2 classes.*classes=1"),
        (lambda: xb.LearnableMargin(beta=3.0), "`beta` of Margin"),
        (lambda: xb.smooth_ap(torch.eye(3), torch.arange(3), temperature=0.0), "`temperature`"),
        (lambda: xb.NTXent(0.0), "`temperature` of NTXent above 0.*Got 0.0"),
        (lambda: xb.SupCon(float("nan")), "`temperature` of SupCon above 0"),
        (lambda: xb.Circle(scale=-1.0), "`scale` of Circle above 0"),
        (lambda: xb.FastAP(1), "`bins` of FastAP"),
        (lambda: xb.TopK(xb.Contrastive(), 0), "`k` of TopK"),
        (lambda: xb.Clipped(xb.Contrastive(), 1.0, 0.0), "`low` < `high`"),
        (lambda: xb.Scheduled(xb.Contrastive(), xb.Contrastive(), 5, 2), "`begin` ≤ `end`"),
    ],
)
def test_what_is_out_of_range_is_named(make, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        make()


def test_what_is_no_reference_is_named(unchecked_shapes):
    z = torch.eye(3)
    ids = torch.arange(3)
    for wrong, name in ((xb.Proxies(3, 3), "Proxies"), (z, "Tensor")):
        with pytest.raises(xb.CrossbatchError, match=f"Got {name}.*proxies\\(\\)"):
            xb.pair_loss(z, ids, weighting=xb.NTXent(), references=wrong, ids=ids)


def test_a_schedule_turns():
    schedule = xb.Scheduled(xb.Contrastive(0.5), xb.SupCon(), begin=10, end=20)
    assert schedule.at(10) == xb.Contrastive(0.5)
    assert schedule.at(15) == xb.Mixed(xb.Contrastive(0.5), xb.SupCon(), 0.5)
    assert schedule.at(20) == xb.SupCon()
    assert xb.NTXent().at(3) == xb.NTXent()
