"""Ceilings: modules, functions, parameters and inheritance stay small."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "crossbatch"
MODULES = sorted(SOURCE.rglob("*.py"))
MODULE_LINES, FUNCTION_LINES, ENGINE_LINES = 400, 60, 80
PARAMETERS, POSITIONAL, BASES = 8, 3, 2
POSITIONAL_INSIDE = 5  # of a private function, whose callers stand in the same file
FOREIGN = {"pml.forward", "pml.create_indices_tuple"}  # the signature is another library's


def functions(path):
    """All functions but those of autograd functions, whose parameters torch fixes, and kernels,
    which take pointers one by one."""
    found = []

    class Finder(ast.NodeVisitor):
        def visit_ClassDef(self, node):
            if "torch.autograd.Function" not in [ast.unparse(b) for b in node.bases]:
                self.generic_visit(node)

        def visit_FunctionDef(self, node):
            if "triton.jit" not in [ast.unparse(d) for d in node.decorator_list]:
                found.append(node)
            self.generic_visit(node)

    Finder().visit(ast.parse(path.read_text()))
    return found


def code_lines(node):
    """Lines of a function without its docstring."""
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return node.end_lineno - first.end_lineno + first.lineno - node.lineno
    return node.end_lineno - node.lineno + 1


def names(arguments):
    return [a.arg for a in arguments if a.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_ceilings(path):
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    for node in functions(path):
        limit = ENGINE_LINES if path.parent.name == "engine" else FUNCTION_LINES
        place = f"{path.stem}.{node.name}"
        assert code_lines(node) <= limit, place
        positional = names(node.args.posonlyargs + node.args.args)
        keywords = names(node.args.kwonlyargs)
        private = path.stem.startswith("_") or node.name.startswith("_")
        assert len(positional) + len(keywords) <= PARAMETERS, place
        if place not in FOREIGN:
            assert len(positional) <= (POSITIONAL_INSIDE if private else POSITIONAL), place
        assert private or node.args.kwarg is None, f"{place} takes **kwargs"


def test_inheritance_is_abstract_to_final():
    own = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                own[node.name] = [ast.unparse(b) for b in node.bases]

    def depth(name):
        return 1 + max((depth(b) for b in own.get(name, []) if b in own), default=0)

    assert max(map(depth, own)) <= BASES
