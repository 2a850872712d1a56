"""The protocol that a manifest asks for: by its roles, or each image among the others."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation.protocol import Gallery, RetrievalResult, evaluate


def evaluate_manifest(
    embeddings: Float[Tensor, "N D"],
    manifest: Manifest,
    *,
    ks: Sequence[int] = (1, 10, 100, 1000),
    neighbours: int = 5,
) -> RetrievalResult:
    """Evaluate embeddings of a manifest's images.

    Where a row has the role ``query`` or ``gallery``, queries search in the gallery; a row
    without a role is then both, and does not find itself. Without such roles: leave-one-out.

    Args:
        embeddings: Shape (N, D), in the manifest's order.
        manifest: N rows, as a rule of one split.
        ks: The cutoffs of R@K.
        neighbours: How many of the nearest to report.

    Raises:
        CrossbatchError: One side has no rows, or as :func:`evaluate`.
    """
    if len(embeddings) != len(manifest) or len(manifest) == 0:
        raise CrossbatchError(
            expected(
                "one embedding per row of a manifest that has rows",
                f"{len(embeddings)} and {len(manifest)} rows",
                "Check the split that was asked for.",
            )
        )
    labels, ids, role = manifest.labels, manifest.ids, manifest.column("role")
    if not np.isin(role, ["query", "gallery"]).any():
        return evaluate(embeddings, labels, ids=ids, ks=ks, neighbours=neighbours)
    asks, holds = role != "gallery", role != "query"
    if not asks.any() or not holds.any():
        raise CrossbatchError(
            expected(
                "queries and a gallery among the roles of the split",
                f"{asks.sum()} queries, {holds.sum()} in the gallery",
                "Leave the column `role` empty to let every image search among the others.",
            )
        )
    gallery = Gallery(embeddings[holds], labels[holds], ids[holds])
    return evaluate(
        embeddings[asks],
        labels[asks],
        ids=ids[asks],
        gallery=gallery,
        ks=ks,
        neighbours=neighbours,
    )
