"""``crossbatch rank``: which images of each class to believe; a manifest, a page, a list."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crossbatch.curriculum import DensityRanker, Ranking, write_suspects
from crossbatch.data import Manifest
from crossbatch.errors import CrossbatchError, expected
from crossbatch.evaluation import embed_manifest
from crossbatch.features import read_features
from crossbatch.models import Encoder
from crossbatch.report.ranking import write_ranking
from crossbatch.training import RunFolder
from crossbatch.training.material import feature_table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rank the images of each class by density: CurriculumNet, and what repairs it."""

    manifest: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MANIFEST")]]
    """The manifest whose images are ranked."""
    features: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|FEATURES")]]
    """A run folder, whose encoder looks at the images; a folder of features; or a .npy, .feather
    or .parquet file (columns id and features)."""
    out: Path = Path("ranked.parquet")
    """The manifest with `density`, `delta`, `subset`, `rank` and `contrast`."""
    page: Path | None = None
    """The page to look at [default: as --out, .html]."""
    suspects: Path | None = None
    """A list (CSV) of labels to look at, the most suspicious first."""
    split: str = "train"
    """Which images to rank; the others get no density."""
    subsets: int = 3
    """How many; 0 is clean, the last one highly noisy."""
    by: Literal["density", "centre", "quantile"] = "density"
    """k-means on densities (released code), on distances to the densest image (paper), or equal
    sizes."""
    density: Literal["cutoff", "gaussian", "knn"] = "cutoff"
    """Neighbours nearer than a quantile of the class's distances, Gaussian kernels, or the k
    nearest."""
    quantile: float = 0.6
    """Of `cutoff`."""
    pca: Literal["per_class", "once", "none"] = "per_class"
    """To --components dimensions, if there are more."""
    components: int = 256
    """Of the PCA."""
    contrast: bool = False
    """Rank by own density against the densest other class's: where labels are wrong in one
    direction."""
    jobs: int = 1
    """Threads; -1: one per core."""


_FEW = 0.75  # of an equal share, below which the clean subset is small
_COPIES = 0.1  # of a class, from which copies are told


def main(argv: list[str]) -> int:
    """Run ``crossbatch rank`` and return the exit status."""
    options = tyro.cli(Options, prog="crossbatch rank", args=argv)
    console = Console(highlight=False)
    whole = Manifest.read(options.manifest)
    chosen = np.flatnonzero(whole.column("split") == options.split)
    if not len(chosen):
        had = ", ".join(sorted(set(whole.column("split"))))
        remedy = f"The manifest has: {had}. Name one with --split."
        raise CrossbatchError(expected(f"images in split `{options.split}`", 0, remedy))
    images = whole.select(chosen)
    x = _features(options, whole, images, chosen)
    ranker = DensityRanker(
        n_subsets=options.subsets,
        density=options.density,
        quantile=options.quantile,
        subsets=options.by,
        pca=None if options.pca == "none" else options.pca,
        n_components=options.components,
        contrast=options.contrast,
        n_jobs=options.jobs,
    )
    with console.status("Ranking"):
        ranking = Ranking.of(ranker, x, images.labels)
    page = options.page or options.out.with_suffix(".html")
    _with_columns(whole, chosen, ranking).write(options.out)
    if options.suspects:
        names = np.array([images.name(row) for row in range(len(images))], dtype=object)
        write_suspects(options.suspects, ranking.suspects(), names)
    with console.status("Drawing the page"):
        write_ranking(ranking, images, page)
    _show(console, ranking, options, page)
    return 0


def _features(
    options: Options, whole: Manifest, images: Manifest, chosen: NDArray[np.intp]
) -> NDArray[Any]:
    """Of the images: the encoder's, or those of a file."""
    path = options.features
    if (path / "run.json").is_file():
        run = RunFolder.open(path)
        encoder, config = Encoder.load(run.encoder), run.read_config()
        table = feature_table(encoder, whole, replace(config, manifest=str(options.manifest)))
        if config.mode == "head":
            return embed_manifest(encoder, images, features=table).numpy()
        return np.asarray(table.array[table.rows(images.ids)])
    if path.suffix == ".npy":
        every = read_features(path, whole.ids)
        return every if len(chosen) == len(whole) else every[chosen]
    return read_features(path, images.ids)


def _with_columns(whole: Manifest, chosen: NDArray[np.intp], ranking: Ranking) -> Manifest:
    """The manifest with what was found; nothing where nothing was ranked."""
    ranker = ranking.ranker
    unranked = np.ones(len(whole), bool)
    unranked[chosen] = False
    columns: dict[str, NDArray[Any]] = {
        "density": ranker.density_,
        "delta": ranker.delta_,
        "subset": ranker.subset_,
        "rank": ranker.rank_,
        "contrast": ranking.contrast,
    }
    for name, found in columns.items():
        values = np.zeros(len(whole), found.dtype)
        values[chosen] = found
        whole = whole.with_column(name, pa.array(values, mask=unranked))
    value = ranking.trust.value
    notes = {"ranker": repr(ranker), "trust": None if np.isnan(value) else value}
    return replace(whole, notes=whole.notes | {"ranking": notes})


def _show(console: Console, ranking: Ranking, options: Options, page: Path) -> None:
    ranker = ranking.ranker
    sizes = np.bincount(ranker.subset_, minlength=ranker.n_subsets)
    table = Table("subset", "images", "share", "another class denser", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for subset, size in enumerate(sizes.tolist()):
        doubted = (ranking.contrast[ranker.subset_ == subset] < 0.5).mean() if size else 0.0
        share = size / sizes.sum()
        table.add_row(str(subset), f"{size:,}", f"{100 * share:.1f} %", f"{100 * doubted:.1f} %")
    console.print(f"{sizes.sum():,} images of {len(ranker.classes_):,} classes, {ranker}")
    console.print(table)
    if not ranker.contrast:
        value, sentence = ranking.trust.value, escape(ranking.trust.sentence)
        told = "" if np.isnan(value) else f"Trust {value:.2f} of 1 (0.5: none). "
        console.print(f"{told}{sentence}")
    clean = sizes[0] / sizes.sum()
    if clean < _FEW / ranker.n_subsets:
        console.print(
            f"Only {100 * clean:.1f} % of the images are clean: a plan shows them again and "
            "again, until a network knows them by heart. --by quantile makes subsets of one size.",
            soft_wrap=True,
        )
    _show_copies(console, ranking)
    written = [options.out, page, *([options.suspects] if options.suspects else [])]
    console.print(f"Wrote {escape(', '.join(map(str, written)))}.", soft_wrap=True)


def _show_copies(console: Console, ranking: Ranking) -> None:
    copies, classes = ranking.copies(), ranking.classes
    each = np.array([copies[rows].sum() for rows in classes.rows])
    sizes = np.array([len(rows) for rows in classes.rows])
    worst = int(np.argmax(each / sizes))
    clean = np.count_nonzero(ranking.ranker.subset_[copies] == 0)
    if each[worst] >= _COPIES * sizes[worst]:
        console.print(
            "Copies of another image of their class (equal features, `delta` 0): "
            f"{copies.sum():,}, above all in `{escape(str(classes.names[worst]))}`, "
            f"{each[worst]:,} of {sizes[worst]:,}. Subset 0 holds {clean:,} of them: a "
            "placeholder is its own neighbour, and may pass as clean.",
            soft_wrap=True,
        )
