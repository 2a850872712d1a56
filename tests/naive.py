"""Slow twins: losses written from their definitions over dense matrices, for autograd."""

import math

import torch

import crossbatch as xb


def pairs(labels, ids, ref_labels, ref_ids):
    same_label = labels[:, None] == ref_labels[None]
    same_id = ids[:, None] == ref_ids[None]
    return same_label & ~same_id, ~same_label & ~same_id


def contrastive(w, sim, positive, negative):
    pos = torch.where(positive, 1 - sim, 0.0)
    neg = torch.where(negative & (sim > w.margin), sim, 0.0)
    return pos, neg


def multi_similarity(w, sim, positive, negative):
    """Anchor by anchor, as in the paper's equations; sides that are empty skip the anchor."""
    pos, neg = torch.zeros_like(sim), torch.zeros_like(sim)
    for i in range(len(sim)):
        p, n = positive[i].nonzero().flatten(), negative[i].nonzero().flatten()
        if not len(p) or not len(n):
            continue
        low, high = sim[i, p].min(), sim[i, n].max()
        if w.epsilon is not None:
            p, n = p[sim[i, p] < high + w.epsilon], n[sim[i, n] > low - w.epsilon]
        if len(p):
            total = torch.log1p(torch.exp(-w.alpha * (sim[i, p] - w.base)).sum()) / w.alpha
            pos[i, p] = total / len(p)  # spread over its pairs: only the row sum matters
        if len(n):
            total = torch.log1p(torch.exp(w.beta * (sim[i, n] - w.base)).sum()) / w.beta
            neg[i, n] = total / len(n)
    return pos, neg


def hardest_triplet(w, sim, positive, negative):
    pos, neg = torch.zeros_like(sim), torch.zeros_like(sim)
    for i in range(len(sim)):
        if not positive[i].any() or not negative[i].any():
            continue
        p = sim[i].masked_fill(~positive[i], math.inf).argmin()
        n = sim[i].masked_fill(~negative[i], -math.inf).argmax()
        if sim[i, n] - sim[i, p] + w.margin > 0:
            pos[i, p], neg[i, n] = -sim[i, p], sim[i, n] + w.margin
    return pos, neg


def assigned(w, sim, positive, negative):
    fixed = sim.detach()
    pos = torch.where(positive, -w.positive_weight(fixed) * sim, 0.0)
    return pos, torch.where(negative, w.negative_weight(fixed) * sim, 0.0)


TWINS = {
    xb.Contrastive: contrastive,
    xb.MultiSimilarity: multi_similarity,
    xb.HardestTriplet: hardest_triplet,
    type(xb.from_functions(abs, abs)): assigned,
}


def loss(w, a, labels, ids, r, ref_labels, ref_ids, reduction="sum_per_anchor"):
    """The reduced loss as a function of dense similarities, differentiable by autograd."""
    sim = a @ r.T
    positive, negative = pairs(labels, ids, ref_labels, ref_ids)
    pos, neg = TWINS[type(w)](w, sim, positive, negative)
    pos, neg = pos + 0 * sim, neg + 0 * sim  # a graph even where every side is empty
    if reduction == "sum_per_anchor":
        return (pos.sum() + neg.sum()) / len(a)
    active = []
    for side, mask in ((pos, positive), (neg, negative)):
        slope = torch.autograd.grad(side.sum(), sim, retain_graph=True)[0]
        active.append(((slope != 0) & mask).sum().clamp(min=1))
    return pos.sum() / active[0] + neg.sum() / active[1]
