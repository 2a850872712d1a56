"""What a user reads when the input is wrong: the expectation, the finding, the remedy."""

import pytest
import torch

import crossbatch as xb

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

z = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
labels, ids = torch.tensor([0, 0, 1, 1]), torch.arange(4)
W = xb.Contrastive()


def memory():
    filled = xb.CrossBatchMemory(8, 3)
    filled.enqueue(z, labels, ids)
    return filled


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memory().enqueue(torch.zeros(4, 7), labels, ids), r"\(rows, 3\).*\(4, 7\)"),
        (lambda: memory().enqueue(z.long(), labels, ids), r"floating.*int64.*\.float"),
        (lambda: memory().enqueue(z, labels.float(), ids), r"integer `labels`.*float32.*Map each"),
        (lambda: memory().enqueue(z, labels, ids[:3]), r"`ids` of shape \(4,\).*\(3,\)"),
        (lambda: memory().enqueue(z / 0, labels, ids), r"finite.*NaN or infinity in 4 rows.*\[0"),
        (lambda: xb.CrossBatchMemory(0, 3), r"capacity ≥ 1.*capacity=0"),
        (lambda: xb.CrossBatchMemory(3, 3, dtype=torch.int64), r"floating dtype.*int64"),
        (lambda: xb.pair_loss(z[0], labels, weighting=W), r"\(rows, dim\).*\(3,\)"),
        (lambda: xb.pair_loss(z, labels, weighting=W, references=memory()), r"`ids` beside"),
        (lambda: xb.pair_loss(z, labels[:2], weighting=W), r"`labels` of shape \(4,\).*\(2,\)"),
        (lambda: xb.pair_loss(z[:0], labels[:0], weighting=W), r"0 anchors"),
        (
            lambda: xb.pair_loss(
                z, labels, weighting=W, ids=ids, references=xb.CrossBatchMemory(5, 3)
            ),
            r"0 references.*Enqueue",
        ),
        (
            lambda: xb.pair_loss(z, labels, weighting=W, reduction="mean_over_active_pair"),
            r"Did you mean `mean_over_active_pairs`",
        ),
        (lambda: xb.Contrastive(1.5), r"`margin` of Contrastive.*1\.5"),
        (lambda: xb.HardestTriplet(-1), r"`margin` of HardestTriplet.*-1"),
        (lambda: xb.MultiSimilarity(alpha=0), r"`alpha` of MultiSimilarity above 0.*0"),
        (lambda: xb.MultiSimilarity(epsilon=-0.1), r"`epsilon`.*-0\.1"),
        (
            lambda: xb.pair_loss(
                z, labels, weighting=xb.from_functions(torch.sum, torch.ones_like)
            ),
            r"positive weight function.*\(\).*without a reduction",
        ),
    ],
)
def test_message(call, message):
    with pytest.raises(xb.CrossbatchError, match=message):
        call()


def test_a_refused_batch_leaves_the_memory_as_it_was():
    held = memory()
    before = {k: v.clone() for k, v in held.state_dict().items()}
    with pytest.raises(xb.CrossbatchError):
        held.enqueue(z / 0, labels, ids)
    assert all(torch.equal(before[k], v) for k, v in held.state_dict().items())


def test_a_memory_keeps_its_dtype():
    held = memory()
    held.enqueue(z.bfloat16(), labels, ids)
    assert held.embeddings.dtype == torch.float32


def test_second_derivatives_are_refused_with_a_sentence():
    a = z.clone().requires_grad_()
    value = xb.pair_loss(a, labels, weighting=W).value
    with pytest.raises(xb.CrossbatchError, match=r"one differentiation.*create_graph"):
        torch.autograd.grad(value, a, create_graph=True)


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'Contrastve'"):
        _ = xb.Contrastve
