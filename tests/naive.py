"""Slow twins: losses written from their definitions over dense matrices, for autograd.

A twin gets the anchor's similarities to its positives and to its negatives, and says what each
side adds to the loss.
"""

import torch
import torch.nn.functional as F

import crossbatch as xb


def pairs(labels, ids, ref_labels, ref_ids):
    same_label = labels[:, None] == ref_labels[None]
    same_id = ids[:, None] == ref_ids[None]
    return same_label & ~same_id, ~same_label & ~same_id


def dist(s):
    return (2 - 2 * s).clamp(min=1e-8).sqrt()


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def proxy_anchor(w, p, n):
    pos = torch.log1p(torch.exp(-w.alpha * (p - w.delta)).sum())
    return pos, torch.log1p(torch.exp(w.alpha * (n + w.delta)).sum())


def contrastive(w, p, n):
    return (1 - p).sum(), n[n > w.margin].sum()


def multi_similarity(w, p, n):
    low, high = p.min(), n.max()
    if w.epsilon is not None:
        p, n = p[p < high + w.epsilon], n[n > low - w.epsilon]
    pos = torch.log1p(torch.exp(-w.alpha * (p - w.base)).sum()) / w.alpha
    return pos, torch.log1p(torch.exp(w.beta * (n - w.base)).sum()) / w.beta


def hardest_triplet(w, p, n):
    if n.max() - p.min() + w.margin <= 0:
        return 0 * p.sum(), 0 * n.sum()
    return -p.min(), n.max() + w.margin


def margin(w, p, n):
    return F.relu(dist(p) - w.beta + w.alpha).sum(), F.relu(w.beta + w.alpha - dist(n)).sum()


def binomial(w, p, n):
    return softplus(-w.alpha * (p - w.base)).sum(), softplus(w.beta * (n - w.base)).sum()


def lifted(w, p, n):
    g = w.scale
    total = torch.logsumexp(-g * p, 0) + torch.logsumexp(g * n, 0) + g * w.margin
    return F.relu(total) / g, 0 * n.sum()


def nca(w, p, n):
    t = w.temperature
    return torch.logsumexp(torch.cat([p, n]) / t, 0) - torch.logsumexp(p / t, 0), 0 * n.sum()


def supcon(w, p, n):
    t = w.temperature
    if not len(p):
        return 0 * p.sum(), 0 * n.sum()
    return (torch.logsumexp(torch.cat([p, n]) / t, 0) - p / t).mean(), 0 * n.sum()


def decoupled(w, p, n):
    return -p.mean() / w.temperature, torch.logsumexp(n / w.temperature, 0)


def rivals(logits, n):
    terms = [-g + torch.logsumexp(torch.cat([g[None], n]), 0) for g in logits]
    return torch.stack(terms).mean(), 0 * n.sum()


def ntxent(w, p, n):
    return rivals(p / w.temperature, n / w.temperature)


def npairs(w, p, n):
    return rivals(w.scale * p, w.scale * n)


def turned(s, angle):
    return torch.cos(torch.acos(s.clamp(-1 + 1e-12, 1 - 1e-12)) + angle)


def tuplet_margin(w, p, n):
    return rivals(w.scale * turned(p, -w.slack), w.scale * n)


def cosface(w, p, n):
    return rivals(w.scale * (p - w.margin), w.scale * n)


def arcface(w, p, n):
    return rivals(w.scale * turned(p, w.margin), w.scale * n)


def circle(w, p, n):
    up = F.relu(1 + w.margin - p).detach()
    un = F.relu(n + w.margin).detach()
    pos = torch.logsumexp(-w.scale * up * (p - 1 + w.margin), 0)
    return softplus(pos + torch.logsumexp(w.scale * un * (n - w.margin), 0)), 0 * n.sum()


def ranked_list(w, p, n):
    far = F.relu(dist(p) - w.alpha + w.margin)
    near = n[dist(n) < w.alpha]
    share = torch.softmax(w.temperature * (w.alpha - dist(near)).detach(), 0)
    return far.sum() / max(int((far > 0).sum()), 1), (share * (w.alpha - dist(near))).sum()


def released_triplet(w, p, n):
    hard, easy = n.max(), p.max()
    p = p[p < hard + w.epsilon]
    return (1 - p).sum(), n[n > max(float(easy.detach()), w.base) - w.epsilon].sum()


def fastap(w, p, n):
    k = torch.arange(w.bins)

    def bins(s):
        t = (2 - 2 * s).clamp(0, 4) * (w.bins - 1) / 4
        return F.relu(1 - (t[:, None] - k).abs()).sum(0)

    up, total = bins(p).cumsum(0), (bins(p) + bins(n)).cumsum(0)
    safe = total.clamp(min=1e-12)
    return 1 - (bins(p) * up / safe).sum() / len(p), 0 * n.sum()


def assigned(w, p, n):
    """Fixed weights times similarities: what any weighting without a value means."""
    return -(w[0].detach() * p).sum(), (w[1].detach() * n).sum()


TWINS = {
    xb.ArcFace: arcface,
    xb.BinomialDeviance: binomial,
    xb.Circle: circle,
    xb.Contrastive: contrastive,
    xb.CosFace: cosface,
    xb.DecoupledContrastive: decoupled,
    xb.FastAP: fastap,
    xb.HardestTriplet: hardest_triplet,
    xb.LiftedStructure: lifted,
    xb.Margin: margin,
    xb.MultiSimilarity: multi_similarity,
    xb.NCA: nca,
    xb.NPairs: npairs,
    xb.NTXent: ntxent,
    xb.ProxyAnchor: proxy_anchor,
    xb.RankedList: ranked_list,
    xb.ReleasedTriplet: released_triplet,
    xb.SupCon: supcon,
    xb.TupletMargin: tuplet_margin,
}


def weights(w, p, n):
    """Dense weights of combinations, from those of their parts; None where w is no combination."""
    kind = type(w)
    if kind is type(xb.from_functions(abs, abs)):
        return w.positive_weight(p), w.negative_weight(n)
    if kind is xb.Sides:
        return slopes(w.pull, p, n)[0], slopes(w.push, p, n)[1]
    if kind is xb.Thresholded:
        pull, push = slopes(w.inner, p, n)
        return pull, push * (n > w.base)
    if kind is xb.TopK:
        pull, push = slopes(w.inner, p, n)
        least = n.sort(descending=True).values[: w.k].min() if len(n) else 0
        return pull, push * (n >= least)
    if kind is xb.Clipped:
        pull, push = slopes(w.inner, p, n)
        return pull.clamp(w.low, w.high), push.clamp(w.low, w.high)
    if kind is xb.Balanced:
        return tuple(
            x / (x.abs().sum() if x.abs().sum() > 0 else 1) for x in slopes(w.inner, p, n)
        )
    if kind is xb.Mixed:
        both = zip(slopes(w.first, p, n), slopes(w.last, p, n), strict=True)
        return tuple((1 - w.share) * a + w.share * b for a, b in both)
    if kind is xb.Scheduled:
        return slopes(w.first, p, n)
    return None


def slopes(w, p, n):
    """w⁺ and w⁻ as derivatives of the dense value, or as assigned."""
    found = weights(w, p, n)
    if found is not None:
        return found
    p, n = p.detach().requires_grad_(), n.detach().requires_grad_()
    if w.needs_both and not (len(p) and len(n)):
        return torch.zeros_like(p), torch.zeros_like(n)
    value = sum(TWINS[type(w)](w, p, n))
    value = value + 0 * p.sum() + 0 * n.sum()
    pull, push = torch.autograd.grad(value, (p, n))
    return -pull, push


def sides(w, p, n):
    if w.needs_both and not (len(p) and len(n)):
        return 0 * p.sum(), 0 * n.sum()
    found = weights(w, p, n)
    return TWINS[type(w)](w, p, n) if found is None else assigned(found, p, n)


def loss(w, a, labels, ids, r, ref_labels, ref_ids, reduction="sum_per_anchor"):
    """The reduced loss as a function of dense similarities, differentiable by autograd."""
    sim = a @ r.T
    positive, negative = pairs(labels, ids, ref_labels, ref_ids)
    values = [sides(w, sim[i, positive[i]], sim[i, negative[i]]) for i in range(len(sim))]
    pos, neg = (torch.stack(side) + 0 * sim.sum(1) for side in zip(*values, strict=True))
    if reduction == "sum_per_anchor":
        return (pos.sum() + neg.sum()) / len(a)
    if reduction == "mean_over_anchors":
        pulled, pushed = positive.any(1), negative.any(1)
        if w.coupled:
            pulled = pushed = pulled & pushed
        return pos.sum() / max(int(pulled.sum()), 1) + neg.sum() / max(int(pushed.sum()), 1)
    active = []
    for i in range(len(sim)):
        pull, push = slopes(w, sim[i, positive[i]], sim[i, negative[i]])
        active.append((int((pull.abs() > 1e-12).sum()), int((push.abs() > 1e-12).sum())))
    if w.coupled:
        return (pos.sum() + neg.sum()) / max(sum(bool(p or n) for p, n in active), 1)
    pulled, pushed = (max(sum(side), 1) for side in zip(*active, strict=True))
    return pos.sum() / pulled + neg.sum() / pushed
