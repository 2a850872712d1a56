"""The protocol that a manifest asks for: by its roles, among each other, or in trials."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from crossbatch._shapes import Float
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected, nearest
from crossbatch.evaluation.averages import Trials
from crossbatch.evaluation.measures import DEFAULT
from crossbatch.evaluation.protocol import (
    LEAVE_ONE_OUT,
    QUERY_GALLERY,
    Gallery,
    RetrievalResult,
    Search,
    evaluate,
)

_TRIAL = re.compile(r"trial_(\d+)")
PROTOCOLS = ("roles", LEAVE_ONE_OUT, QUERY_GALLERY)


def evaluate_manifest(
    embeddings: Float[Tensor, "N D"],
    manifest: Manifest,
    *,
    ks: Sequence[int] = (1, 10, 100, 1000),
    metrics: Sequence[str] = DEFAULT,
    neighbours: int = 5,
    protocol: str = "roles",
    exclude: str | None = None,
    search: Search | None = None,
) -> RetrievalResult:
    """Evaluate embeddings of a manifest's images.

    Where a row has the role ``query`` or ``gallery``, queries search in the gallery; a row
    without a role is then both, and does not find itself. Without such roles: leave-one-out.

    Args:
        embeddings: Shape (N, D), in the manifest's order.
        manifest: N rows, as a rule of one split.
        ks: The cutoffs of R@K.
        metrics: Further ones by name.
        neighbours: How many of the nearest to report.
        protocol: ``roles`` as above; ``leave-one-out`` whatever the roles are; ``query-gallery``
            is an error without roles.
        exclude: A column, such as ``camera``: images with the query's label and its value there
            are ignored. Where it is empty nothing is.
        search: Options; cameras come from ``exclude``.

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
    asks, holds = _sides(manifest, protocol)
    search, cameras = search or Search(), _cameras(manifest, exclude)
    alone = asks is None or holds is None
    if cameras is not None:
        search = replace(
            search,
            cameras=cameras if alone else cameras[asks],
            gallery_cameras=None if alone else cameras[holds],
        )
    labels, ids, gallery = manifest.labels, manifest.ids, None
    if not alone:
        gallery = Gallery(embeddings[holds], labels[holds], ids[holds])
        embeddings, labels, ids = embeddings[asks], labels[asks], ids[asks]
    return evaluate(
        embeddings,
        labels,
        ids=ids,
        gallery=gallery,
        ks=ks,
        metrics=metrics,
        neighbours=neighbours,
        search=search,
    )


def evaluate_trials(
    embeddings: Float[Tensor, "N D"],
    manifest: Manifest,
    *,
    ks: Sequence[int] = (1, 10, 100, 1000),
    metrics: Sequence[str] = DEFAULT,
    neighbours: int = 5,
    exclude: str | None = None,
    search: Search | None = None,
) -> Trials:
    """Evaluate with the random galleries of a manifest: its columns ``trial_0``, ``trial_1`` ….

    Each of them stands for the column ``role``, as `crossbatch manifest vehicle-id --protocol
    re-identification` writes them. Seeds are those in the manifest's notes.

    Args:
        embeddings: As in :func:`evaluate_manifest`, and so are the others.
        manifest: With columns of trials.
        ks: The cutoffs.
        metrics: Further ones.
        neighbours: How many to report.
        exclude: A column.
        search: Options.

    Raises:
        CrossbatchError: No such column, or as :func:`evaluate_manifest`.
    """
    found = [match for name in manifest.table.column_names if (match := _TRIAL.fullmatch(name))]
    names = [match[0] for match in sorted(found, key=lambda match: int(match[1]))]
    if not names:
        remedy = "Make it with `crossbatch manifest vehicle-id --protocol re-identification`."
        got = ", ".join(manifest.table.column_names)
        raise CrossbatchError(expected("columns trial_0, trial_1 ... of roles", got, remedy))
    results = [
        evaluate_manifest(
            embeddings,
            manifest.with_column("role", manifest.table[name].combine_chunks()),
            ks=ks,
            metrics=metrics,
            neighbours=neighbours,
            protocol=QUERY_GALLERY,
            exclude=exclude,
            search=search,
        )
        for name in names
    ]
    seeds = manifest.notes.get("seeds", [])
    return Trials(tuple(names), tuple(seeds[: len(names)]), tuple(results))


def _sides(manifest: Manifest, protocol: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Who asks and who is searched; None twice where all search among each other."""
    if protocol not in PROTOCOLS:
        hint = nearest(protocol, PROTOCOLS)
        raise CrossbatchError(expected("a protocol", repr(protocol), hint))
    role = manifest.column("role")
    if protocol == LEAVE_ONE_OUT:
        return None, None
    if protocol == "roles" and not np.isin(role, ["query", "gallery"]).any():
        return None, None
    asks, holds = role != "gallery", role != "query"
    given = np.isin(role, ["query", "gallery"]).any()
    if not given or not asks.any() or not holds.any():
        counted = f"{asks.sum()} queries, {holds.sum()} in the gallery" if given else "no roles"
        raise CrossbatchError(
            expected(
                "queries and a gallery among the roles of the split",
                counted,
                "Leave the column `role` empty to let every image search among the others.",
            )
        )
    return asks, holds


def _cameras(manifest: Manifest, exclude: str | None) -> np.ndarray | None:
    if exclude is None:
        return None
    manifest.column(exclude)  # raises where there is none, with the nearest name
    values = manifest.table[exclude].to_pylist()
    cameras = np.empty(len(values), object)
    cameras[:] = values
    if all(value is None for value in values):
        remedy = "Name the column of the manifest that tells cameras or sequences apart."
        raise CrossbatchError(expected(f"values in column `{exclude}`", "none", remedy))
    return cameras
