"""``crossbatch manifest folder|csv|sop|...``: list images, look at each, write the manifest."""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from crossbatch.data import (
    Imported,
    Manifest,
    Validation,
    from_csv,
    from_folder,
    hold_out,
    hold_out_images,
    validate,
)
from crossbatch.data._schema import SPLITS
from crossbatch.data.importers import (
    from_cars,
    from_clothing1m,
    from_cub,
    from_food101,
    from_huggingface,
    from_imagenet,
    from_in_shop,
    from_inaturalist,
    from_sop,
    from_vehicle_id,
    from_webvision,
)
from crossbatch.data.importers.clothing1m import Training
from crossbatch.data.importers.vehicle_id import Protocol
from crossbatch.errors import CrossbatchError, expected


@dataclass(frozen=True, kw_only=True)
class _Options:
    out: Path
    """Where to write the manifest (Parquet)."""
    embed: bool = False
    """Put the images themselves into the manifest."""
    test_fraction: Annotated[float | None, tyro.conf.arg(metavar="FRACTION")] = None
    """Set this part of the classes aside for testing."""
    hold_out: Literal["classes", "images"] = "classes"
    """What `--test-fraction` sets aside: classes for retrieval, or images of every class for
    classification."""
    seed: int = 0
    """Of the choice of test classes, and of trials."""
    classes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A text file of the known labels, one a line; images with others are left out."""
    decode: bool = True
    """Look no further than that each file is there; otherwise every image is decoded."""
    strict: bool = False
    """Write nothing and exit with status 2 if any image would be left out."""


@dataclass(frozen=True, kw_only=True)
class Folder(_Options):
    """A folder of images: ROOT/CLASS/image, or ROOT/SPLIT/CLASS/image (train, val, test)."""

    root: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="ROOT")]]
    """The folder."""

    def load(self) -> Imported:
        """List the images."""
        return from_folder(self.root)


@dataclass(frozen=True, kw_only=True)
class Csv(_Options):
    """A list of images: our columns, plain path,label lines, or the CSV of OML."""

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The list."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The folder that relative paths start from [default: that of the list]."""

    def load(self) -> Imported:
        """Read the list."""
        return from_csv(self.file, root=self.root)


_Root = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="ROOT")]]


@dataclass(frozen=True, kw_only=True)
class Sop(_Options):
    """Stanford Online Products: Ebay_train.txt, Ebay_test.txt."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_sop(self.root)


@dataclass(frozen=True, kw_only=True)
class InShop(_Options):
    """In-Shop Clothes Retrieval of DeepFashion: Eval/list_eval_partition.txt."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_in_shop(self.root)


@dataclass(frozen=True, kw_only=True)
class VehicleId(_Options):
    """PKU VehicleID: train_test_split/train_list.txt and one of its test lists."""

    root: _Root
    """Where it was unpacked."""
    test_list: Literal[800, 1600, 2400] = 2400
    """The number of vehicles in the test list."""
    protocol: Protocol = "metric-learning"
    """All test images among each other, or one of each vehicle as gallery in ten trials."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_vehicle_id(
            self.root, test_list=self.test_list, protocol=self.protocol, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class Cub(_Options):
    """CUB-200-2011: images.txt, image_class_labels.txt, classes.txt; halves by class."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_cub(self.root)


@dataclass(frozen=True, kw_only=True)
class Cars(_Options):
    """Cars-196: cars_annos.mat (needs scipy); halves by class."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the annotations."""
        return from_cars(self.root)


@dataclass(frozen=True, kw_only=True)
class INaturalist(_Options):
    """iNaturalist 2018, split for retrieval: Inaturalist_train_set1.txt, _test_set1.txt."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_inaturalist(self.root)


@dataclass(frozen=True, kw_only=True)
class Food101(_Options):
    """Food-101: meta/train.txt, meta/test.txt."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_food101(self.root)


@dataclass(frozen=True, kw_only=True)
class Clothing1M(_Options):
    """Clothing1M: keys and labels, noisy and clean."""

    root: _Root
    """Where it was unpacked."""
    train: Training = "noisy"
    """Which labels training images have; validation and test have clean ones."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_clothing1m(self.root, train=self.train)


@dataclass(frozen=True, kw_only=True)
class WebVision(_Options):
    """WebVision 1.0, or mini-WebVision: the lists in info."""

    root: _Root
    """Where it was unpacked."""
    mini: bool = False
    """The first 50 classes, Google alone: mini-WebVision."""

    def load(self) -> Imported:
        """Read the lists."""
        return from_webvision(self.root, mini=self.mini)


@dataclass(frozen=True, kw_only=True)
class ImageNet(_Options):
    """ImageNet (ILSVRC 2012): train and val, a folder per synset."""

    root: _Root
    """Where it was unpacked."""

    def load(self) -> Imported:
        """List the folders."""
        return from_imagenet(self.root)


@dataclass(frozen=True, kw_only=True)
class HuggingFace(_Options):
    """A Hugging Face data set: Parquet or Arrow files, or a name on the hub."""

    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
    """A file, a folder of files, or a name on the hub."""
    image: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "image"
    """The column of the images."""
    label: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "label"
    """The column of the labels."""

    def load(self) -> Imported:
        """Read the files."""
        return from_huggingface(self.source, image=self.image, label=self.label)


_Command = (
    Annotated[Folder, tyro.conf.subcommand("folder")]
    | Annotated[Csv, tyro.conf.subcommand("csv")]
    | Annotated[Sop, tyro.conf.subcommand("sop")]
    | Annotated[InShop, tyro.conf.subcommand("in-shop")]
    | Annotated[VehicleId, tyro.conf.subcommand("vehicle-id")]
    | Annotated[Cub, tyro.conf.subcommand("cub")]
    | Annotated[Cars, tyro.conf.subcommand("cars")]
    | Annotated[INaturalist, tyro.conf.subcommand("inaturalist")]
    | Annotated[Food101, tyro.conf.subcommand("food101")]
    | Annotated[Clothing1M, tyro.conf.subcommand("clothing1m")]
    | Annotated[WebVision, tyro.conf.subcommand("webvision")]
    | Annotated[ImageNet, tyro.conf.subcommand("imagenet")]
    | Annotated[HuggingFace, tyro.conf.subcommand("huggingface")]
)


def main(argv: Sequence[str]) -> int:
    """Run ``crossbatch manifest`` and return the exit status.

    Raises:
        CrossbatchError: The images cannot be listed, or the manifest cannot be written.
    """
    command = tyro.cli(
        tyro.conf.FlagCreatePairsOff[_Command],  # pyright: ignore[reportArgumentType]
        prog="crossbatch manifest",
        description="List images in a Parquet manifest, after a look at each of them.",
        args=argv,
    )
    console = Console(highlight=False)
    checked = _check(command, console)
    listed = command.out.with_suffix(".problems.csv")
    if checked.problems:
        checked.write_problems(listed)
        _show_problems(console, checked, listed)
    else:
        with contextlib.suppress(OSError):
            listed.unlink()
    for difference in checked.manifest.notes.get("differs", ()):
        console.print(f"[yellow]warning:[/] {escape(difference)}", soft_wrap=True)
    _refuse(checked, strict=command.strict, listed=listed)
    manifest = checked.manifest.embed() if command.embed else checked.manifest
    manifest.write(command.out)
    _show_counts(console, manifest, command.out)
    return 0


def _check(command: _Command, console: Console) -> Validation:
    manifest, found = command.load()
    if command.test_fraction is not None and len(manifest):
        aside = hold_out if command.hold_out == "classes" else hold_out_images
        manifest = aside(manifest, split="test", fraction=command.test_fraction, seed=command.seed)
    watch = functools.partial(
        track,
        description="Looking at images",
        total=len(manifest),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    known = None if command.classes is None else _lines(command.classes)
    return validate(manifest, decode=command.decode, known=known, found=found, watch=watch)


def _lines(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Give a text file with one label a line."
        raise CrossbatchError(expected(f"the known labels in {file}", error, remedy)) from error


def _refuse(checked: Validation, *, strict: bool, listed: Path) -> None:
    """Stop where nothing is left to write, or where `--strict` forbids to leave anything out."""
    if strict and checked.excluded:
        wanted = "no image to be left out (--strict)"
        named = ", ".join(problem.path for problem in checked.excluded[:5])
        got = f"{len(checked.excluded)}, listed in {listed}, first {named}"
        remedy = "Mend them, or run without --strict. No manifest was written."
        raise CrossbatchError(expected(wanted, got, remedy))
    if not len(checked.manifest):
        got = f"none, and {len(checked.excluded)} left out"
        remedy = "Check the folder, or --root, and the problems listed. No manifest was written."
        raise CrossbatchError(expected("at least one image that can be used", got, remedy))


def _show_problems(console: Console, checked: Validation, listed: Path) -> None:
    table = Table("problem", "count", "the first", box=None, pad_edge=False)
    for kind, count in checked.counts.items():
        first = next(problem for problem in checked.problems if problem.kind == kind)
        style = "red" if kind.excludes else "yellow"
        about = f"{first.path}: {first.reason}"
        table.add_row(f"[{style}]{kind}[/]", str(count), escape(about))
    console.print(table)
    console.print(f"{len(checked.excluded)} left out. All are listed in {escape(str(listed))}.\n")


def _show_counts(console: Console, manifest: Manifest, out: Path) -> None:
    table = Table("split", "images", "classes", box=None, pad_edge=False)
    for name in SPLITS:
        if len(part := manifest.split(name)):
            table.add_row(name, f"{len(part):,}", f"{len(part.classes):,}")
    console.print(table)
    console.print(f"Wrote {escape(str(out))}.", soft_wrap=True)
