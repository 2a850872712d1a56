"""What stands in front: imports that cost nothing, names that exist, flags that do not drift."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crossbatch as xb
from crossbatch.cli import main as cli

ROOT = Path(__file__).parents[2]
SURFACE = ROOT / "tests" / "contracts" / "cli_surface.txt"


def python(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout, run.stderr


def test_help_imports_no_torch():
    code = (
        "import sys; sys.argv = ['crossbatch', '--help']\n"
        "from crossbatch.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'tyro', 'timm', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.perf_counter()
    status, out, err = python(code)
    assert status == 0, err
    assert "usage: crossbatch" in out
    assert time.perf_counter() - started < 5  # a guard against an accident, not a timing


def test_floors_0_to_2_run_without_the_extras():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in {'timm', 'pyarrow', 'PIL', 'tyro', 'yaml', 'rich',\n"
        "                'accelerate', 'torchvision', 'jaxtyping', 'matplotlib'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import torch, crossbatch as xb\n"
        "memory = xb.CrossBatchMemory(8, 2)\n"
        "z, y = torch.eye(2), torch.tensor([0, 1])\n"
        "memory.enqueue(z, y, y)\n"
        "print(float(xb.PairLoss(xb.Contrastive())(z, y, ids=y, references=memory)))"
    )
    status, out, err = python(code)
    assert status == 0, err
    assert out.strip() == "0.0"


@pytest.mark.parametrize("name", xb.__all__)
def test_public_names_exist_and_are_documented(name):
    member = getattr(xb, name)
    if callable(member):
        assert member.__doc__


def test_commands_are_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for command in cli.COMMANDS:
        assert f"crossbatch {command}" in readme


def test_an_unknown_command_exits_with_2_and_the_nearest():
    code = "import sys; sys.argv = ['crossbatch', 'trian']\n"
    status, _, err = python(code + "from crossbatch.cli.main import main; main()")
    assert status == 2
    assert "Did you mean `train`" in err
    assert "Traceback" not in err


def flags():
    """Every field that a command reads from its line, from the dataclasses of the code."""
    from crossbatch.training.config import TrainConfig, to_mapping

    def walk(mapping, prefix=""):
        for key, value in mapping.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"train --{prefix}{key}".replace("_", "-")

    yield from walk(to_mapping(TrainConfig("m")))
    for path in sorted((ROOT / "src" / "crossbatch" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        yield f"{path.stem} --{item.target.id}".replace("_", "-")


def test_the_surface_of_the_command_line_is_what_was_agreed():
    """To change a flag, change this file, the docs and the changelog with it."""
    assert sorted(set(flags())) == SURFACE.read_text().split("\n")[:-1]


if __name__ == "__main__":
    SURFACE.write_text("\n".join(sorted(set(flags()))) + "\n")
