"""The metrics of pytorch-metric-learning, where there are no ties, and the depths of a sweep."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from crossbatch.evaluation import Gallery, evaluate

NAMES = {
    "R@1": "precision_at_1",
    "R-precision": "r_precision",
    "MAP@R": "mean_average_precision_at_r",
    "mAP": "mean_average_precision",
    "MRR": "mean_reciprocal_rank",
}


def made(sizes, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = rng.standard_normal((len(sizes), dim))[labels] + 1.5 * rng.standard_normal(
        (len(labels), dim)
    )
    return F.normalize(torch.from_numpy(x).float(), dim=1), labels


def exact(x, labels, gallery, names):
    from pytorch_metric_learning.distances import CosineSimilarity

    search = CustomKNN(CosineSimilarity())
    calculator = AccuracyCalculator(
        include=names, k=None, device=torch.device("cpu"), knn_func=search
    )
    if gallery is None:
        return calculator.get_accuracy(x, torch.from_numpy(labels))
    held, theirs = gallery
    return calculator.get_accuracy(x, torch.from_numpy(labels), held, torch.from_numpy(theirs))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_as_pml_has_them(apart, depth):
    x, labels = made(np.random.default_rng(1).integers(2, 13, 60))
    names = [["MRR"], ["R-precision", "MAP@R"], ["R-precision", "MAP@R", "mAP", "MRR"]][depth - 1]
    asked = slice(0, 120) if apart else slice(None)
    gallery = (x[120:], labels[120:]) if apart else None
    found = evaluate(
        x[asked],
        labels[asked],
        gallery=None if gallery is None else Gallery(*gallery),
        ks=(1,),
        metrics=names,
    )
    theirs = exact(x[asked], labels[asked], gallery, tuple(NAMES[n] for n in found.metrics))
    for name, value in found.metrics.items():
        assert value == pytest.approx(theirs[NAMES[name]], abs=1e-4), name


@pytest.mark.parametrize(
    "sizes",
    [[900, *([3] * 300)], [300] * 6, [*([60] * 12), *([130] * 4), *([5] * 60)]],
    ids=["one class of half", "large classes", "of all sizes"],
)
def test_skewed_labels_have_the_same_scores_at_every_depth(sizes):
    """What the kernel for few nearest negatives serves, what it leaves, and counting all ranks."""
    x, labels = made(sizes)
    names = ["R-precision", "MAP@R"]
    deep = evaluate(x, labels, metrics=[*names, "mAP"], neighbours=4)
    for some in ([], names):
        found = evaluate(x, labels, metrics=some, neighbours=4)
        for name, scores in found.per_query.items():
            np.testing.assert_allclose(scores, deep.per_query[name], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(found.similarities, deep.similarities, atol=1e-6)
