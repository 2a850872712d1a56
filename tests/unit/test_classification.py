"""Top-k, classes, views and ensembles against loops, by hand and as scikit-learn has them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from crossbatch.errors import CrossbatchError, FormatError
from crossbatch.evaluation import classification
from crossbatch.evaluation.classification import (
    classify,
    read_classification,
    write_classification,
)


def softmax(row):
    top = np.exp(row - row.max())
    return top / top.sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(2, 6), st.integers(1, 3), st.booleans())
def test_against_a_loop(seed, rows, classes, runs, small):
    rng = np.random.default_rng(seed)
    outputs = [rng.standard_normal((rows, rng.integers(1, 4), classes)) for _ in range(runs)]
    labels = rng.integers(0, classes, rows)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(classification, "_ENTRIES", 7)
        found = classify(outputs, labels, ks=(1, 2))
    for i in range(rows):
        mean = sum(softmax(view) / len(run[i]) for run in outputs for view in run[i]) / runs
        order = sorted(range(classes), key=lambda c: (-mean[c], c == labels[i]))
        assert found.predictions[i] == mean.argmax()
        assert found.confidences[i] == pytest.approx(mean.max())
        for k in (1, 2):
            assert found.per_image[f"top-{k}"][i] == float(labels[i] in order[:k])


def test_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    outputs, labels = rng.standard_normal((400, 12)), rng.integers(0, 12, 400)
    found = classify(torch.from_numpy(outputs), torch.from_numpy(labels))
    for k in (1, 5):
        wanted = top_k_accuracy_score(labels, outputs, k=k, labels=np.arange(12))
        assert found.metrics[f"top-{k}"] == pytest.approx(wanted)
    wanted = balanced_accuracy_score(labels, outputs.argmax(axis=1))
    assert found.metrics["macro top-1"] == pytest.approx(wanted)
    assert found.combined == "1 run, 1 view"


def test_views_and_runs_are_averaged_as_probabilities_not_as_logits():
    """One view is sure of class 0 and two lean to class 1: the sum of logits would say 0."""
    views = np.array([[[9.0, 0.0], [0.0, 1.5], [0.0, 1.5]]])
    mean = np.mean([softmax(view) for view in views[0]], axis=0)
    assert views[0].sum(axis=0).argmax() == 0
    assert mean.argmax() == 1
    assert classify(views, [1], ks=(1,)).metrics["top-1"] == 1
    assert classify(list(views[0][:, None]), [1], ks=(1,)).metrics["top-1"] == 1
    assert classify(views, [1], ks=(1,)).combined == "1 run, 3 views"


def test_ties_count_against_the_image_and_macro_weighs_classes():
    flat = np.full((3, 4), 0.25)
    found = classify(flat, [0, 0, 3], kind="probabilities", ks=(3, 4))
    assert found.metrics["top-3"] == 0
    assert found.metrics["top-4"] == 1
    assert found.idle == ("top-4",)
    skewed = classify(np.eye(3)[[0, 0, 0, 1]], [0, 0, 0, 2], ks=(1,))
    assert skewed.metrics == {"top-1": 0.75, "macro top-1": 0.5}
    assert skewed.per_class().queries.tolist() == [3, 1]


def test_files_come_back(tmp_path):
    rng = np.random.default_rng(0)
    found = classify(rng.standard_normal((30, 10, 4)), rng.integers(0, 4, 30), ids=range(5, 35))
    write_classification(tmp_path, found)
    again = read_classification(tmp_path)
    assert again.metrics == found.metrics
    assert again.combined == "1 run, 10 views"
    assert again.ids.tolist() == list(range(5, 35))
    np.testing.assert_array_equal(again.confidences, found.confidences)
    text = (tmp_path / "classification" / "per_class.csv").read_text()
    assert text.startswith("label,images,top-1,top-5")
    (tmp_path / "classification" / "metrics.json").write_text("{}")
    with pytest.raises(FormatError, match=r"a classification of format 1"):
        read_classification(tmp_path)


GOOD = np.array([[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((GOOD[0], [0]), {}, r"shape \(N, C\) or \(N, views, C\).* shape \(2,\)"),
        ((GOOD.astype(int), [0, 1]), {}, r"floating outputs.* int64"),
        ((GOOD, [0, 2]), {}, r"2 integer labels in \[0, 2\).* from 0 to 2"),
        ((GOOD, [0]), {}, r"2 integer labels.* shape \(1,\)"),
        ((GOOD * [1, np.nan], [0, 1]), {}, r"NaN or infinity in 2 .*the first: \[0, 1\]"),
        ((GOOD * 3, [0, 1]), {"kind": "probabilities"}, r"sum to 1.* Say kind='logits'"),
        ((GOOD, [0, 1]), {"kind": "scores"}, r"as `logits` or `probabilities`"),
        ((GOOD, [0, 1]), {"ks": (0,)}, r"different `ks`, each at least 1"),
        (([GOOD, GOOD[:1]], [0, 1]), {}, r"runs of one shape \(N, C\)"),
        (([], [0, 1]), {}, r"at least one run"),
    ],
)
def test_messages(arguments, options, message):
    with pytest.raises(CrossbatchError, match=message):
        classify(*arguments, **options)
