"""Memories copied to two and three ranks, or spread over them, against one process with one."""

import pytest
import torch

import crossbatch as xb
from tests.distributed import cases
from tests.distributed.cases import CASES, EVEN, RINGS, Case
from tests.distributed.launch import launch
from tests.tables import WEIGHTINGS

WORLDS = (2, 3)
IMAGES = Case("per image", "contrastive", sizes=EVEN)
SAVED = next(case for case in CASES if case.kind == "sharded" and case.sizes == EVEN)


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.fixture(scope="module")
def state():
    """Of one process; the memory has wrapped."""
    return cases.training(SAVED, [0, 1, 2], cases.one_memory)["state"]


@pytest.fixture(scope="module")
def images():
    """The state of one row per image."""
    return cases.training(IMAGES, [0, 1, 2], cases.one_memory, xb.PerImageMemory)["state"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, state, images):
    """What every rank of two and of three saw; three load what two have saved."""
    found, states = {}, {"one": state, "images": images}
    for world in WORLDS:
        folder = tmp_path_factory.mktemp(f"world{world}")
        torch.save(states, folder / "states.pt")
        launch(["-m", "tests.distributed.cases", folder / "states.pt", folder], world)
        files = [folder / f"rank{rank}.pt" for rank in range(world)]
        found[world] = [torch.load(file, weights_only=True) for file in files]
        saved = found[world][0]["cases"][str(SAVED)]
        states["two, sharded"] = saved["state"]
    return found


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_see_what_one_process_sees(ranks, world, case):
    expected = cases.training(case, range(world), cases.one_memory, cases.one_kind(case))
    for rank in range(world):
        found = ranks[world][rank]["cases"][str(case)]
        for step, wanted in zip(found["steps"], expected["steps"], strict=True):
            equal(step["ranks"][0], wanted["ranks"][rank])
            equal(step["gradient"], wanted["gradient"])
            assert step["size"] == wanted["size"]
            if wanted["drifts"]:
                equal(step["drifts"][0], wanted["drifts"][rank])
        equal(found["contents"], expected["contents"])
        equal(found["state"], expected["state"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", [c for c in CASES if c.sizes == EVEN], ids=str)
def test_equal_batches_are_one_large_batch(ranks, world, case):
    """Value and gradient with their scale, where every rank has as many anchors."""
    x, labels, ids = cases.one_memory([cases.batch(0, r, EVEN[r]) for r in range(world)])
    torch.manual_seed(1)
    model = torch.nn.Linear(6, cases.DIM, bias=False, dtype=torch.float64)
    z = torch.nn.functional.normalize(model(x), dim=1)
    memory = cases.made(cases.one_kind(case))
    memory.enqueue(*cases.one_memory([cases.filling(rank) for rank in range(world)]))
    memory.enqueue(z, labels, ids)
    loss = xb.PairLoss(WEIGHTINGS[case.weighting])(z, labels, ids=ids, references=memory)
    loss.backward()
    first = [rank["cases"][str(case)]["steps"][0] for rank in ranks[world]]
    equal(sum(step["ranks"][0]["value"] for step in first) / world, loss.detach())
    for step in first:
        equal(step["gradient"], model.weight.grad)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "sharded"], ids=str)
def test_without_other_ranks_a_sharded_memory_is_a_memory(case):
    one = cases.training(case, [0], cases.alone)
    equal(cases.training(case, [0], cases.alone, xb.ShardedMemory), one)


@pytest.mark.parametrize("world", WORLDS)
def test_each_rank_keeps_its_share(ranks, world):
    shares = [rank["share"] for rank in ranks[world]]
    assert sum(shares) == cases.CAPACITY
    assert max(shares) - min(shares) == 1


@pytest.mark.parametrize("kind", RINGS)
@pytest.mark.parametrize(
    ("saved", "world"), [("one", 2), ("one", 3), ("two, sharded", 3)], ids=str
)
def test_a_memory_goes_on_on_more_ranks(ranks, state, saved, world, kind):
    two = ranks[2][0]["cases"][str(SAVED)]["state"]
    before, after = cases.resumed(
        {"one": state, "two, sharded": two}[saved],
        xb.CrossBatchMemory,
        cases.one_memory,
        range(world),
    )
    for rank in ranks[world]:
        equal(rank["loaded"][saved, kind], (before, after))


@pytest.mark.parametrize("world", WORLDS)
def test_one_row_per_image_goes_on_on_more_ranks(ranks, images, world):
    expected = cases.resumed(images, xb.PerImageMemory, cases.one_memory, range(world))
    for rank in ranks[world]:
        equal(rank["loaded"]["images", "per image"], expected)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", RINGS)
@pytest.mark.parametrize("sub_centres", cases.SUB_CENTRES)
def test_ranks_believe_what_one_process_believes(ranks, world, kind, sub_centres):
    """One threshold for the batches of all; the memory is copied, or stays where it is."""
    seen, contents, state = cases.believed(sub_centres, range(world), cases.one_memory)
    assert any(not keep.all() for _, keep in seen)
    first = [sum(cases.UNEVEN[:rank]) for rank in range(world + 1)]
    for rank, found in enumerate(ranks[world]):
        here = slice(*first[rank : rank + 2])
        parts, rows, quantiles = found["believed"][kind, sub_centres]
        equal(parts, [(p[here], keep[here]) for p, keep in seen])
        equal((rows, quantiles), (contents, state))


def test_a_state_of_another_capacity_is_refused():
    saved = xb.CrossBatchMemory(8, 3).state_dict()
    with pytest.raises(RuntimeError, match=r"`embeddings` of 9 rows.*8 rows.*capacity"):
        xb.ShardedMemory(9, 3).load_state_dict(saved)


def test_a_sharded_memory_in_a_module_is_saved_and_loaded_with_it():
    def build():
        return torch.nn.ModuleDict({"inner": torch.nn.ModuleDict({"m": xb.ShardedMemory(5, 2)})})

    first, second = build(), build()
    first["inner"]["m"].enqueue(torch.eye(2), torch.tensor([0, 1]), torch.tensor([3, 4]))
    second.load_state_dict(first.state_dict())
    assert second["inner"]["m"].contents().ids.tolist() == [3, 4]
    second["inner"]["m"].clear()
    assert len(second["inner"]["m"]) == 0
    assert [len(tile.ids) for tile in first["inner"]["m"].tiles(1)] == [1, 1]
