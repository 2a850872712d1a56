"""``crossbatch train``: a new run from a manifest, or a run that goes on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from crossbatch.collective import leave
from crossbatch.curriculum.plan import Plan
from crossbatch.errors import CrossbatchError, expected
from crossbatch.training import (
    TrainConfig,
    parse_plan,
    parse_weighting,
    read_config,
    read_plan,
    resume,
    train,
)
from crossbatch.weighting import PairWeighting

_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _weighting(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[PairWeighting] | None:
    if info.type is not PairWeighting:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="WEIGHTING",
        instance_from_str=lambda words: parse_weighting(words[0]),
        is_instance=lambda value: isinstance(value, PairWeighting),
        str_from_instance=lambda value: [repr(value)],
    )


@_registry.primitive_rule
def _plan(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Plan | None] | None:
    if info.type != Plan | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PLAN",
        instance_from_str=lambda words: _read_plan(words[0]),
        is_instance=lambda value: isinstance(value, Plan | None),
        str_from_instance=lambda value: [repr(value)],
    )


def _read_plan(text: str) -> Plan | None:
    """A file, code, or none."""
    if text.lower() == "none":
        return None
    return read_plan(Path(text)) if text.endswith((".yaml", ".yml")) else parse_plan(text)


def main(argv: list[str]) -> int:
    """Train, or resume with ``--resume RUN`` alone."""
    if argv[:1] == ["--resume"]:
        if len(argv) != 2:
            remedy = "A resumed run keeps its config; begin a new run to change it."
            raise CrossbatchError(expected("`--resume RUN` alone", " ".join(argv), remedy))
        run = resume(Path(argv[1]))
    else:
        out, config = parse(argv)
        run = train(config, out)
    leave()
    if os.environ.get("RANK", "0") == "0":
        console, advice = Console(stderr=True), run.advice()
        if advice is not None:
            console.print(advice)
        console.print(f"The encoder stands in [bold]{run.encoder}[/bold].")
    return 0


@dataclass(frozen=True)
class _Invocation:
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Annotated[Path, tyro.conf.arg(help="The run folder, new or empty.")]


def parse(argv: list[str]) -> tuple[Path, TrainConfig]:
    """The run folder and the config that a command line asks for."""
    argv = list(argv)
    default = None
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise CrossbatchError(expected("a file after `--config`", "nothing", "Name it."))
        base = read_config(Path(argv[at + 1]))
        default = _Invocation(base, tyro.MISSING)
        del argv[at : at + 2]
    invocation = tyro.cli(
        _Invocation,
        prog="crossbatch train",
        description="Train an encoder on a manifest. `--resume RUN` alone continues a run; "
        "`--config FILE.yaml` gives the defaults of the options below.",
        args=argv,
        default=default,
        registry=_registry,
    )
    assert invocation is not None
    return invocation.out, invocation.config
