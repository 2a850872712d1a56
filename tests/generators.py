"""Problems: anchors and references with labels, copies of images and true duplicates."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Problem:
    a: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    r: torch.Tensor
    ref_labels: torch.Tensor
    ref_ids: torch.Tensor
    memory: object = None

    @property
    def references(self):
        import crossbatch as xb

        if self.memory is not None:
            return self.memory
        return xb.Batch(self.r, self.ref_labels, self.ref_ids)


def problem(seed=0, anchors=7, references=41, dim=5, classes=6, dtype=torch.float64, twin=True):
    """Classes cluster, so that all regimes of similarity occur. Some references are copies of
    anchors (same id), and with ``twin`` one is a duplicate (same embedding, other id)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=g, dtype=torch.float64)

    def draw(n):
        labels = torch.randint(0, classes, (n,), generator=g)
        x = centres[labels] + 0.6 * torch.randn(n, dim, generator=g, dtype=torch.float64)
        return F.normalize(x, dim=1), labels

    a, labels = draw(anchors)
    r, ref_labels = draw(references)
    ids = torch.arange(anchors)
    ref_ids = torch.arange(100, 100 + references)
    if references > 4 and anchors > 2:
        r[1], ref_labels[1], ref_ids[1] = a[0], labels[0], ids[0]  # the anchor's own older copy
        if twin:
            r[3], ref_labels[3] = a[2], labels[2]  # a true duplicate: another id
    # label values are arbitrary integers: 0 and negatives are ordinary
    return Problem(a.to(dtype), labels - 2, ids, r.to(dtype), ref_labels - 2, ref_ids)
