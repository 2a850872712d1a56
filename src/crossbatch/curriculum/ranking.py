"""A ranked collection: what to write beside each image, and which labels to look at first."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbatch._files import write_beside
from crossbatch.curriculum.contrast import Trust, of_classes, trust_of
from crossbatch.curriculum.inputs import Classes
from crossbatch.curriculum.points import Floats, Places
from crossbatch.curriculum.ranker import DensityRanker


@dataclass(frozen=True, eq=False)
class Ranking:
    """N images, ranked.

    Attributes:
        ranker: Fitted.
        classes: The features and labels that it was fitted on.
        contrast: Of each image, in [0, 1]; a half: another class is as dense there.
        rival: The densest other class at each image, as a place in ``ranker.classes_``; -1 where
            none is near.
        claim: Its share of the densities of all classes there, in [0, 1].
        trust: Whether to believe the order.
    """

    ranker: DensityRanker
    classes: Classes
    contrast: Floats
    rival: Places
    claim: Floats
    trust: Trust

    @staticmethod
    def of(ranker: DensityRanker, X: Any, y: Any) -> "Ranking":
        """Fit the ranker, and judge it by the densities of other classes.

        Raises:
            CrossbatchError: As :meth:`DensityRanker.fit`.
        """
        ranker.fit(X, y)
        classes = Classes.of(X, y)
        contrast, claim = np.empty((2, len(classes.codes)))
        rival = np.empty(len(classes.codes), np.intp)
        for rows, found in zip(classes.rows, of_classes(classes), strict=True):
            contrast[rows], rival[rows], claim[rows] = found
        judged = trust_of(classes.rows, contrast, ranker.subset_)
        return Ranking(ranker, classes, contrast, rival, claim, judged)

    def copies(self) -> NDArray[np.bool_]:
        """All but one of those that are equal to another of their class: δ is 0."""
        found = self.ranker.delta_ == 0
        found[self.ranker.centre_] = False
        return found

    def suspects(self) -> list["Suspect"]:
        """Images whose label to look at, the most suspicious first.

        Those where another class is denser than their own, with suspicion (1 + claim) / 2: an odd
        image amid many classes is less suspicious than one that a single class claims. And the
        rest of the last subset, with half their rank as a share of the class, so below a half.
        """
        sizes = np.array([len(rows) for rows in self.classes.rows])[self.classes.codes]
        subset, rank = self.ranker.subset_, self.ranker.rank_
        torn = (self.contrast < 0.5) & (self.rival >= 0)
        stray = ~torn & (subset > 0) & (subset == self.ranker.n_subsets - 1)
        score = np.where(torn, 0.5 + 0.5 * self.claim, 0.5 * rank / sizes)
        rows = np.flatnonzero(torn | stray)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        names = self.ranker.classes_
        found: list[Suspect] = []
        for row in rows.tolist():
            rival = str(names[self.rival[row]]) if self.rival[row] >= 0 else ""
            reason = f"unlike its class: place {rank[row] + 1} of {sizes[row]} by density"
            if torn[row]:
                share = float(self.contrast[row])
                times = (
                    f"near it, `{rival}` is {(1 - share) / (share or 1):.1f} times as dense here"
                )
                reason = times if share else f"none of its class near it, most dense is `{rival}`"
            label = str(names[self.classes.codes[row]])
            found.append(Suspect(row, label, float(score[row]), rival, reason))
        return found


class Suspect(NamedTuple):
    """An image to look at.

    Attributes:
        row: Among those ranked.
        label: What it has.
        suspicion: In [0, 1]; above a half another class is denser at the image.
        rival: The densest other class there; empty where none is near.
        reason: For people.
    """

    row: int
    label: str
    suspicion: float
    rival: str
    reason: str


def write_suspects(path: Path, suspects: list[Suspect], names: NDArray[Any]) -> None:
    """Write suspects as CSV: path, label, suspicion, nearest other class, reason.

    Args:
        path: The file.
        suspects: In the order that shall stand there.
        names: What to call each of the ranked images, shape (N,).

    Raises:
        CrossbatchError: The file could not be written.
    """

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "suspicion", "nearest_other_class", "reason"])
            for s in suspects:
                score = f"{s.suspicion:.3f}"
                rows.writerow([names[s.row], s.label, score, s.rival, s.reason])

    write_beside(path, write)
