"""A count is read again wherever somebody else wrote it, and so is a tensor that was finite."""

import copy
import io

import pytest
import torch

import crossbatch as xb


def filled(rows=5):
    memory = xb.CrossBatchMemory(8, 2)
    memory.enqueue(torch.ones(rows, 2), torch.arange(rows), torch.arange(rows))
    return memory


def test_whoever_writes_is_seen():
    memory = filled()
    assert len(memory) == 5
    memory.enqueued_rows.fill_(3)
    assert len(memory) == 3
    memory.load_state_dict(filled(7).state_dict())
    assert len(memory) == 7
    memory.enqueued_rows = torch.tensor(2)
    assert len(memory) == 2
    memory.clear()
    assert len(memory) == 0


def copied(memory):
    return copy.deepcopy(memory)


def saved(memory):
    file = io.BytesIO()
    torch.save(memory, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("of", [copied, saved])
@pytest.mark.parametrize("writes", range(1, 8))
def test_a_copy_counts_for_itself(of, writes):
    """Also where it has been written to as often as the first was when it was read."""
    memory = xb.CrossBatchMemory(20, 2)
    for row in range(5):
        memory.enqueue(torch.ones(1, 2), torch.tensor([row]), torch.tensor([row]))
    other = of(memory)
    for _ in range(writes):
        other.enqueued_rows.add_(1)
    assert (len(memory), len(other)) == (5, 5 + writes)
    other.enqueue(torch.ones(1, 2), torch.tensor([9]), torch.tensor([9]))
    assert other.contents().ids[-1] == 9
    assert len(memory) == 5


@pytest.mark.parametrize("of", [copied, saved])
def test_a_copy_makes_codes_of_its_own(of):
    memory = filled()
    memory.encode()
    other = of(memory)
    assert [tile.codes is None for tile in (*memory.tiles(8), *other.tiles(8))] == [False, True]
    other.encode()
    assert torch.equal(next(other.tiles(8)).codes.values, next(memory.tiles(8)).codes.values)


def test_in_inference_nothing_is_remembered():
    with torch.inference_mode():
        memory = filled()
        assert len(memory) == 5
        memory.enqueued_rows.fill_(4)
        assert len(memory) == 4


def test_a_tensor_that_was_finite_is_looked_at_again_when_it_is_written_to():
    memory, x = filled(), torch.ones(2, 2)
    rows = torch.arange(2), torch.arange(2)
    memory.enqueue(x, *rows)
    x[1, 0] = torch.nan
    with pytest.raises(xb.CrossbatchError, match=r"NaN or infinity in 1 rows, the first: \[1\]"):
        memory.enqueue(x, *rows)
    y = torch.tensor([[torch.inf, 0.0], [-torch.inf, 1.0]])
    with pytest.raises(xb.CrossbatchError, match=r"in 2 rows"):
        memory.enqueue(y, *rows)


def test_large_numbers_are_finite_though_their_sum_is_not():
    memory = filled()
    memory.enqueue(torch.full((2, 2), 3e38), torch.arange(2), torch.arange(2))
    assert len(memory) == 7
