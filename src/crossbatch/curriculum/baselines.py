"""Other ways to tell clean labels from noisy ones, on the same features: what a ranking must beat.

All scores rise with cleanliness, so that :func:`crossbatch.curriculum.judge` compares them.
"""

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from crossbatch.curriculum.inputs import Classes, check_features, check_labels, read_rows
from crossbatch.curriculum.points import TILE, Floats
from crossbatch.errors import CrossbatchError, expected


def small_loss(losses: ArrayLike, *, seed: int = 0) -> Floats:
    """Probability that a sample is of the component of small losses; shape (N,), in [0, 1].

    A mixture of two Gaussians on losses scaled to [0, 1], as in *DivideMix* (Li, Socher, Hoi,
    ICLR 2020). Equal losses all have probability 1.

    Args:
        losses: Of each sample under the noisy labels, shape (N,), from a network that has not
            yet learnt the noise.
        seed: Of the mixture's start.

    Raises:
        CrossbatchError: Fewer than two losses, one that is not finite, or no scikit-learn.
    """
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 1 or len(losses) < 2 or not np.isfinite(losses).all():
        got = f"shape {losses.shape}" + ("" if np.isfinite(losses).all() else ", not all finite")
        raise CrossbatchError(expected("two or more finite losses", got, "Give one per sample."))
    spread = losses.max() - losses.min()
    if spread == 0:
        return np.ones(len(losses))
    column = ((losses - losses.min()) / spread)[:, None]
    mixture = _need("sklearn.mixture", "scikit-learn").GaussianMixture(
        2, max_iter=100, tol=1e-4, reg_covar=5e-4, random_state=seed
    )
    probability = mixture.fit(column).predict_proba(column)
    return probability[:, int(mixture.means_[:, 0].argmin())]


def neighbour_agreement(X: Any, y: Any, *, neighbours: int = 10) -> Floats:
    """Share of a row's nearest others that have its label; shape (N,), in [0, 1].

    Args:
        X: Features, shape (N, D), N ≥ 2.
        y: Labels, shape (N,).
        neighbours: k ≥ 1, by Euclidean distance; N − 1 at most are asked.

    Cost: one product of N² D in float32, in tiles; the features are held.

    Raises:
        CrossbatchError: As :meth:`DensityRanker.fit`, one row alone, or ``neighbours`` below 1.
    """
    x = check_features(X)
    _, codes = check_labels(y, len(x))
    k = min(neighbours, len(x) - 1)
    if k < 1:
        got = f"{len(x)} rows and {neighbours} neighbours"
        raise CrossbatchError(expected("two rows and one neighbour", got, "Give more."))
    rows = read_rows(x, np.arange(len(x)))
    rows -= rows.mean(axis=0)
    r = torch.as_tensor(rows / (np.abs(rows).max() or 1)).float()
    norms, labels = r.square().sum(dim=1), torch.as_tensor(codes)
    found = np.empty(len(x))
    for start in range(0, len(x), TILE // 4):
        part = slice(start, min(start + TILE // 4, len(x)))
        squares = torch.addmm(norms, r[part], r.T, alpha=-2)
        squares[torch.arange(len(squares)), torch.arange(part.start, part.stop)] = torch.inf
        near = squares.topk(k, largest=False).indices
        same = labels[near] == labels[part, None]
        found[part] = same.double().mean(dim=1).numpy()
    return found


def confident_learning(X: Any, y: Any, *, folds: int = 5, seed: int = 0) -> Floats:
    """Cleanlab's label quality; shape (N,), in [0, 1].

    Self-confidence under a logistic regression on standardised features, out of sample by
    cross-validation (Northcutt, Jiang, Chuang, *Confident Learning*, JAIR 2021).

    Args:
        X: Features, shape (N, D), which are held.
        y: Labels, shape (N,), each at least ``folds`` times.
        folds: Of the cross-validation, at least 2.
        seed: Of the folds.

    Raises:
        CrossbatchError: As :meth:`DensityRanker.fit`, a class with too few rows, or no cleanlab
            or scikit-learn.
    """
    classes = Classes.of(X, y)
    fewest = min(len(rows) for rows in classes.rows)
    if fewest < folds or len(classes.rows) < 2:
        got = f"{len(classes.rows)} classes, the smallest of {fewest}"
        remedy = "Leave small classes out, or take fewer folds."
        raise CrossbatchError(expected(f"two classes of {folds} rows and more", got, remedy))
    quality = _need("cleanlab.rank", "cleanlab").get_label_quality_scores
    linear = _need("sklearn.linear_model", "scikit-learn").LogisticRegression(max_iter=300)
    scaler = _need("sklearn.preprocessing", "scikit-learn").StandardScaler()
    model = _need("sklearn.pipeline", "scikit-learn").make_pipeline(scaler, linear)
    selection = _need("sklearn.model_selection", "scikit-learn")
    parts = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    x = read_rows(classes.x, np.arange(len(classes.codes)))
    chances = selection.cross_val_predict(
        model, x, classes.codes, cv=parts, method="predict_proba"
    )
    return np.asarray(quality(classes.codes, chances), np.float64)


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f"Install it: pip install {package}."
        raise CrossbatchError(expected(f"the package {package}", error, remedy)) from error
