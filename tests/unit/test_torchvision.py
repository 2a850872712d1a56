"""torchvision imports beside a torch that lacks its compiled operators."""

import builtins
import sys

import pytest
import torch

from crossbatch._torchvision import import_torchvision


@pytest.fixture
def refusing(monkeypatch):
    """Let the import of torchvision stop with the given messages, one a time, then succeed."""
    loaded = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "torchvision"}
    original = builtins.__import__
    tries = []

    def refuse(*messages):
        waiting = list(messages)

        def imported(name, *rest):
            if name == "torchvision":
                tries.append(name)
                if waiting:
                    raise RuntimeError(waiting.pop(0))
                return loaded[name]
            return original(name, *rest)

        monkeypatch.setattr(builtins, "__import__", imported)
        return tries

    yield refuse
    monkeypatch.undo()
    sys.modules.update(loaded)


@pytest.fixture(autouse=True)
def torchvision():
    return import_torchvision()


def test_it_imports_and_stays_imported(torchvision):
    assert torchvision.__name__ == "torchvision"
    assert import_torchvision() is torchvision
    assert import_torchvision() is sys.modules["torchvision"]


def test_each_missing_operator_is_declared_and_the_import_tried_again(refusing, torchvision):
    missing = ["torchvision::declared_one", "torchvision::declared_two"]
    tries = refusing(*(f"operator {name} does not exist" for name in missing))
    assert import_torchvision() is torchvision
    assert len(tries) == 3
    assert torch.ops.torchvision.declared_one.default is not None
    assert torch.ops.torchvision.declared_two.default is not None
    with pytest.raises(AttributeError, match="declared_three"):
        _ = torch.ops.torchvision.declared_three


def test_another_failure_is_not_swallowed(refusing):
    refusing("out of order")
    with pytest.raises(RuntimeError, match="out of order"):
        import_torchvision()
