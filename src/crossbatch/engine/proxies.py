r"""Proxies: learned references, one or several for each class.

Beside proxies p_c an image is compared with classes instead of images. The same engine takes the
loss and the gradients of both sides:

    ProxyNCA++    PairLoss(NTXent(τ))            images beside proxies
    CosFace       PairLoss(CosFace(m, γ))        images beside proxies
    ArcFace       PairLoss(ArcFace(m, γ))        images beside proxies
    Proxy-Anchor  :func:`proxy_anchor`           proxies beside images

*No Fuss Distance Metric Learning using Proxies* (Movshovitz-Attias et al., ICCV 2017),
*ProxyNCA++* (Teh, DeVries, Taylor, ECCV 2020), *Proxy Anchor Loss for Deep Metric Learning* (Kim,
Kim, Cho, Kwak, CVPR 2020). SoftTriple, which mixes the proxies of a class, is
:func:`crossbatch.soft_triple`.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbatch._shapes import Float, Int
from crossbatch.engine.pair_loss import PairLossResult, pair_loss
from crossbatch.errors import CrossbatchError, expected
from crossbatch.references import Batch
from crossbatch.weighting import ProxyAnchor


class Proxies(nn.Module):
    """Unit vectors that stand for classes 0 … C − 1, trained along with the encoder.

    They want a learning rate of their own, a hundred times that of the encoder or so.

    Args:
        classes: C ≥ 2.
        dim: D ≥ 1, the width of the embeddings.
        per_class: K ≥ 1, proxies of each class.

    Raises:
        CrossbatchError: A number is too small.

    >>> import crossbatch as xb
    >>> proxies = xb.Proxies(classes=10, dim=4)
    >>> z = F.normalize(torch.randn(3, 4), dim=1)
    >>> loss_fn = xb.PairLoss(xb.NTXent(0.1))
    >>> loss = loss_fn(z, torch.tensor([1, 5, 5]), ids=torch.arange(3), references=proxies())
    >>> loss.backward()
    >>> proxies.weight.grad.shape
    torch.Size([10, 4])
    """

    labels: Tensor

    cites: ClassVar[tuple[str, ...]] = ("movshovitz2017proxynca", "teh2020proxynca")

    def __init__(self, classes: int, dim: int, *, per_class: int = 1) -> None:
        super().__init__()
        if classes < 2 or dim < 1 or per_class < 1:
            raise CrossbatchError(
                expected(
                    "Proxies of at least 2 classes, 1 dimension and 1 of each class",
                    f"classes={classes}, dim={dim}, per_class={per_class}",
                    "Give the number of training classes and the width of the embeddings.",
                )
            )
        self.classes, self.per_class = classes, per_class
        self.weight = nn.Parameter(torch.empty(classes * per_class, dim))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")
        self.register_buffer("labels", torch.arange(classes).repeat_interleave(per_class))

    def forward(self) -> Batch:
        """The proxies as references, with ids below zero, which no image has."""
        ids = -1 - torch.arange(len(self.labels), device=self.labels.device)
        return Batch(F.normalize(self.weight, dim=1), self.labels, ids)


def proxy_anchor(
    embeddings: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    proxies: Proxies,
    *,
    weighting: ProxyAnchor | None = None,
) -> PairLossResult:
    """The Proxy-Anchor loss: every proxy is an anchor beside the images of the batch.

    Args:
        embeddings: Images of unit norm, shape (B, D).
        labels: Classes 0 … C − 1, shape (B,).
        proxies: One proxy or more for each class.
        weighting: Its two parameters; None takes the paper's.

    Returns:
        As :func:`crossbatch.pair_loss`, an entry for each proxy; positives are averaged over
        proxies that have some, negatives likewise, as in the paper.
    """
    anchors = proxies()
    ids = torch.arange(len(embeddings), device=embeddings.device)
    return pair_loss(
        anchors.embeddings,
        anchors.labels,
        weighting=weighting or ProxyAnchor(),
        references=Batch(embeddings, labels, ids),
        ids=anchors.ids,
        reduction="mean_over_anchors",
    )
