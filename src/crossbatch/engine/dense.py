r"""Losses in which a pair's weight depends on the ranks of other pairs: dense, on a batch.

They hold the matrix S of all pairs and are differentiated by autograd, so they cost B² numbers
(all triplets: B² |P|). Beside a memory take a weighting; :class:`crossbatch.FastAP` is the one
over ranks. With positives P and negatives N of an anchor, over anchors that have both:

    all triplets   the mean of [S_n − S_p + m]₊ over (p, n) where it is above 0
    semi-hard      [S_n − S_p + m]₊ for each p with the hardest n below S_p, else the easiest
    Smooth-AP      1 − (1/|P|) Σ_p (1 + Σ_{P∖p} σ) / (1 + Σ_{P∖p} σ + Σ_N σ),
                   σ = σ((S_j − S_p)/τ)
    Recall@k       1 − mean_k Σ_p σ((k − r_p)/τ₂) / min(k, |P|),
                   r_p = 1 + Σ_{j ≠ p} σ((S_j − S_p)/τ₁)
    SoftTriple     cross-entropy of λ (Σ_k π_ck S_ck − δ 1[c = y]),
                   π = softmax(S/γ) within a class
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbatch._check import check_above, check_embeddings, check_integers
from crossbatch._shapes import Bool, Float, Int
from crossbatch.engine.proxies import Proxies


def all_triplets(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, margin: float = 0.1
) -> Float[Tensor, ""]:
    """The mean violation of all triplets of a batch that are violated.

    Args:
        embeddings: Unit norm, shape (B, D).
        labels: Shape (B,).
        margin: m.
    """
    sims = [
        F.relu(n[None, :] - p[:, None] + margin).flatten() for p, n in _sides(embeddings, labels)
    ]
    return _mean([violation[violation > 0] for violation in sims], embeddings)


def semi_hard_triplets(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, margin: float = 0.1
) -> Float[Tensor, ""]:
    """The triplets of *FaceNet* (Schroff, Kalenichenko, Philbin, CVPR 2015), in similarities.

    Args:
        embeddings: Unit norm, shape (B, D).
        labels: Shape (B,).
        margin: m.
    """
    violations: list[Tensor] = []
    for p, n in _sides(embeddings, labels):
        below = torch.where(n[None, :] < p[:, None], n[None, :], -torch.inf).amax(dim=1)
        chosen = torch.where(below > -torch.inf, below, n.amin())
        violations.append(F.relu(chosen - p + margin))
    return _mean(violations, embeddings)


def smooth_ap(
    embeddings: Float[Tensor, "B D"], labels: Int[Tensor, " B"], *, temperature: float = 0.01
) -> Float[Tensor, ""]:
    """*Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval* (Brown, Xie, Kalogeiton,
    Zisserman, ECCV 2020).

    Args:
        embeddings: Unit norm, shape (B, D).
        labels: Shape (B,).
        temperature: τ > 0.
    """  # noqa: D205
    check_above(temperature, 0.0, name="temperature", where="smooth_ap")
    losses: list[Tensor] = []
    for p, n in _sides(embeddings, labels):
        above = torch.sigmoid((p[None, :] - p[:, None]) / temperature)
        up = 1 + above.sum(dim=1) - above.diagonal()
        wrong = torch.sigmoid((n[None, :] - p[:, None]) / temperature).sum(dim=1)
        losses.append(1 - (up / (up + wrong)).mean()[None])
    return _mean(losses, embeddings)


def recall_at_k(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    temperature: float = 0.01,
    rank_temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """*Recall@k Surrogate Loss with Large Batches and Similarity Mixup* (Patel, Tolias, Matas,
    CVPR 2022), without the mixup.

    Args:
        embeddings: Unit norm, shape (B, D).
        labels: Shape (B,).
        ks: Which recalls are averaged.
        temperature: τ₁ > 0, of similarities.
        rank_temperature: τ₂ > 0, of ranks.
    """  # noqa: D205
    check_above(temperature, 0.0, name="temperature", where="recall_at_k")
    check_above(rank_temperature, 0.0, name="rank_temperature", where="recall_at_k")
    losses: list[Tensor] = []
    for p, n in _sides(embeddings, labels):
        all_sims = torch.cat([p, n])
        above = torch.sigmoid((all_sims[None, :] - p[:, None]) / temperature)
        rank = 1 + above.sum(dim=1) - above.diagonal()
        found = [torch.sigmoid((k - rank) / rank_temperature).sum() / min(k, len(p)) for k in ks]
        losses.append(1 - torch.stack(found).mean()[None])
    return _mean(losses, embeddings)


def soft_triple(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    proxies: Proxies,
    *,
    gamma: float = 0.1,
    scale: float = 20.0,
    margin: float = 0.01,
) -> Float[Tensor, ""]:
    """*SoftTriple Loss: Deep Metric Learning Without Triplet Sampling* (Qian et al., ICCV 2019).

    The regulariser that merges proxies of a class is left out.

    Args:
        embeddings: Unit norm, shape (B, D).
        labels: Classes 0 … C − 1, shape (B,).
        proxies: K of each class.
        gamma: γ > 0, how softly a class chooses among its proxies.
        scale: λ > 0.
        margin: δ.
    """
    check_embeddings(embeddings, where="soft_triple")
    check_integers(labels, name="labels", rows=len(embeddings), where="soft_triple")
    check_above(gamma, 0.0, name="gamma", where="soft_triple")
    sim = (embeddings @ proxies().embeddings.T).unflatten(1, (proxies.classes, proxies.per_class))
    of_class = (torch.softmax(sim / gamma, dim=2) * sim).sum(dim=2)
    own = F.one_hot(labels.long(), proxies.classes)
    return F.cross_entropy(scale * (of_class - margin * own), labels.long())


def _sides(embeddings: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarities to positives and to negatives, of every anchor that has both."""
    check_embeddings(embeddings, where="a dense loss")
    check_integers(labels, name="labels", rows=len(embeddings), where="a dense loss")
    x = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    sim = x @ x.T
    same: Bool[Tensor, "B B"] = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    for row, positive, negative in zip(sim, same & ~itself, ~same, strict=True):
        if bool(positive.any()) and bool(negative.any()):
            yield row[positive], row[negative]


def _mean(parts: list[Tensor], embeddings: Tensor) -> Tensor:
    whole = torch.cat(parts) if parts else embeddings.new_zeros(0)
    return whole.mean() if len(whole) else 0 * embeddings.float().sum()
