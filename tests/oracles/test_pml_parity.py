"""Values and gradients of pytorch-metric-learning, for every loss that both have.

Four images of each class, so that a mean over positive pairs is a mean over anchors.
"""

import math

import pytest
import torch
import torch.nn.functional as F

import crossbatch as xb

pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import distances, losses, reducers

COSINE = distances.CosineSimilarity()
CLASSES, DIM = 6, 8
LABELS = torch.arange(CLASSES).repeat_interleave(4)


@pytest.fixture
def z():
    g = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(CLASSES, DIM, generator=g)
    x = torch.randn(len(LABELS), DIM, generator=g) + centres[LABELS]
    return F.normalize(x, dim=1).double()


def tangent(gradient, z):
    """PML normalises inside its distance; what is left of a gradient is along the sphere."""
    return gradient - (gradient * z).sum(1, keepdim=True) * z


def compare(z, ours, theirs, factor=1.0, rtol=1e-5):
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    mine, pml = ours(a), theirs(b, LABELS)
    mine.backward()
    (factor * pml).backward()
    torch.testing.assert_close(mine.detach(), factor * pml.detach(), rtol=rtol, atol=1e-7)
    scale = float(b.grad.abs().max())
    torch.testing.assert_close(
        tangent(a.grad, z), tangent(b.grad, z), rtol=rtol, atol=10 * rtol * scale
    )


def loss(weighting, reduction="mean_over_anchors", references=None):
    ids = torch.arange(len(LABELS))

    def take(z):
        return xb.pair_loss(
            z, LABELS, weighting=weighting, ids=ids, reduction=reduction, references=references
        ).value

    return take


PAIRS = {
    "circle": (xb.Circle(0.4, 80.0), losses.CircleLoss(m=0.4, gamma=80)),
    "fastap": (xb.FastAP(11), losses.FastAPLoss(num_bins=10)),
    "lifted": (
        xb.LiftedStructure(1.0),
        losses.GeneralizedLiftedStructureLoss(neg_margin=-1, pos_margin=0, distance=COSINE),
    ),
    "multi-similarity": (
        xb.MultiSimilarity(2.0, 50.0, 0.5, None),
        losses.MultiSimilarityLoss(2, 50, 0.5),
    ),
    "nca": (xb.NCA(0.1), losses.NCALoss(softmax_scale=10, distance=COSINE)),
    "ntxent": (xb.NTXent(0.1), losses.NTXentLoss(0.1)),
    "supcon": (xb.SupCon(0.1), losses.SupConLoss(0.1)),
    "tuplet margin": (
        xb.TupletMargin(math.radians(5.73), 64.0),
        losses.TupletMarginLoss(margin=5.73, scale=64),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(z, name):
    weighting, theirs = PAIRS[name]
    compare(z, loss(weighting), theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_the_converter_knows_them(name):
    weighting, theirs = PAIRS[name]
    if name == "multi-similarity":
        assert xb.compat.pml.weighting(theirs) == xb.MultiSimilarity(2.0, 50.0, 0.5, None)
    else:
        assert xb.compat.pml.weighting(theirs) == weighting


def test_contrastive_has_the_margin_more_for_every_active_negative(z):
    weighting, ids = xb.Contrastive(0.3), torch.arange(len(LABELS))
    theirs = losses.ContrastiveLoss(1, 0.3, distance=COSINE, reducer=reducers.SumReducer())
    result = xb.pair_loss(z, LABELS, weighting=weighting, ids=ids)
    active = int(result.active_negatives.sum())
    assert active
    expected = (theirs(z, LABELS) + 0.3 * active) / len(z)
    torch.testing.assert_close(result.value, expected, rtol=1e-6, atol=1e-7)
    minus = lambda z, labels: theirs(z, labels) / len(z)  # noqa: E731
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss(weighting, "sum_per_anchor")(a).backward()
    minus(b, LABELS).backward()
    torch.testing.assert_close(tangent(a.grad, z), tangent(b.grad, z), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn")
def test_ranked_list_sums_what_pml_averages(z):
    """PML adds small constants to denominators, and differentiates the weights of negatives,
    which the paper takes as constants: values agree, gradients do not."""
    theirs = losses.RankedListLoss(0.4, 10, alpha=1.2)
    ours = loss(xb.RankedList())(z)
    torch.testing.assert_close(ours, 2 * theirs(z, LABELS), rtol=5e-4, atol=0)


def test_all_triplets(z):
    theirs = losses.TripletMarginLoss(margin=0.1, distance=COSINE)
    compare(z, lambda z: xb.all_triplets(z, LABELS, margin=0.1), theirs)


@pytest.fixture
def proxies():
    torch.manual_seed(2)
    return xb.Proxies(CLASSES, DIM).double()


PROXIES = {
    "arcface": (
        xb.ArcFace(math.radians(28.6), 64.0),
        losses.ArcFaceLoss(CLASSES, DIM, margin=28.6, scale=64),
    ),
    "cosface": (
        xb.CosFace(0.35, 64.0),
        losses.CosFaceLoss(CLASSES, DIM, margin=0.35, scale=64),
    ),
    "softmax": (
        xb.NTXent(0.05),
        losses.NormalizedSoftmaxLoss(CLASSES, DIM, temperature=0.05),
    ),
}


@pytest.mark.parametrize("name", PROXIES)
def test_images_beside_proxies(z, proxies, name):
    weighting, theirs = PROXIES[name]
    theirs = theirs.double()
    with torch.no_grad():
        theirs.W.copy_(proxies.weight.T)
    compare(z, lambda z: loss(weighting, references=proxies())(z), theirs)
    mine = proxies.weight.grad.clone()
    torch.testing.assert_close(mine, theirs.W.grad.T, rtol=1e-4, atol=1e-5)


def test_proxies_beside_images(z, proxies):
    theirs = losses.ProxyAnchorLoss(CLASSES, DIM, margin=0.1, alpha=32).double()
    with torch.no_grad():
        theirs.proxies.copy_(proxies.weight)
    compare(z, lambda z: xb.proxy_anchor(z, LABELS, proxies).value, theirs)
    torch.testing.assert_close(proxies.weight.grad, theirs.proxies.grad, rtol=1e-4, atol=1e-5)


def test_soft_triple(z, proxies):
    theirs = losses.SoftTripleLoss(
        CLASSES, DIM, centers_per_class=2, la=20, gamma=0.1, margin=0.01
    ).double()
    several = xb.Proxies(CLASSES, DIM, per_class=2).double()
    with torch.no_grad():
        several.weight.copy_(theirs.fc.T)
    compare(z, lambda z: xb.soft_triple(z, LABELS, several), theirs)
