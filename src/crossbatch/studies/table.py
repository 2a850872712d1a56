"""Weight curves as a table: one row per weighting, side and bin, in an Arrow (Feather) file.

============== ======= ===================================================================
`weighting`    text    its name, as a rule its code
`side`         text    positive or negative
`similarity`   float64 the middle of the bin
`weight_*`     float64 median, low (10th percentile), high (90th) over the anchors
`pairs`        int64   real pairs in the bin
`mass_batch`   float64 Σ |w| of the pairs with a row of the batch
`mass_memory`  float64 Σ |w| of the pairs with an older row
============== ======= ===================================================================

The schema's metadata holds, under the key ``crossbatch``, a JSON object: the format's version and,
for each weighting and side, ``active`` and ``hardest`` (see :class:`Curve`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from crossbatch._files import write_beside
from crossbatch.errors import FormatError, expected
from crossbatch.studies.curves import SIDES, Curve, WeightCurves

FORMAT = 1
_KEY = b"crossbatch"
_ARRAYS = {
    "weight_median": "median",
    "weight_low": "low",
    "weight_high": "high",
    "pairs": "pairs",
    "mass_batch": "mass_batch",
    "mass_memory": "mass_memory",
}


def to_table(curves: Sequence[WeightCurves]) -> pa.Table:
    """The curves as rows."""
    parts: list[pa.Table] = []
    scalars: dict[str, dict[str, Any]] = {}
    for one in curves:
        for side in SIDES:
            curve: Curve = getattr(one, side)
            rows = len(one.similarity)
            columns: dict[str, Any] = {"weighting": [one.name] * rows, "side": [side] * rows}
            columns["similarity"] = one.similarity
            columns |= {name: getattr(curve, field) for name, field in _ARRAYS.items()}
            parts.append(pa.table(columns))
            hardest = None if np.isnan(curve.hardest) else curve.hardest
            told = {"active": curve.active, "hardest": hardest}
            scalars.setdefault(one.name, {})[side] = told
    about = {"format": FORMAT, "weightings": scalars}
    return pa.concat_tables(parts).replace_schema_metadata({_KEY: json.dumps(about)})


def write_table(curves: Sequence[WeightCurves], path: Path) -> None:
    """Write the curves as a Feather file, whole or not at all."""
    table = to_table(curves)
    write_beside(path, lambda part: feather.write_feather(table, str(part)))


def read_table(path: Path) -> list[WeightCurves]:
    """Read what :func:`write_table` wrote.

    Raises:
        FormatError: There is no such file, or it holds something else.
    """
    wanted, remedy = f"a table of weight curves at {path}", "Run `crossbatch study weights`."
    try:
        table = feather.read_table(str(path))
        about = json.loads((table.schema.metadata or {})[_KEY])
        if about["format"] != FORMAT:
            wanted = f"weight curves of format {FORMAT} at {path}"
            raise FormatError(expected(wanted, about["format"], remedy))
        return [_curves(table, name, told) for name, told in about["weightings"].items()]
    except FormatError:
        raise
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise FormatError(expected(wanted, repr(error), remedy)) from error


def _curves(table: pa.Table, name: str, told: dict[str, dict[str, Any]]) -> WeightCurves:
    mine = table.filter(np.array(table["weighting"].to_pylist()) == name)
    sides: list[Curve] = []
    for side in SIDES:
        rows = mine.filter(np.array(mine["side"].to_pylist()) == side)
        arrays = {field: rows[column].to_numpy() for column, field in _ARRAYS.items()}
        hardest = told[side]["hardest"]
        active = told[side]["active"]
        sides.append(
            Curve(**arrays, active=active, hardest=np.nan if hardest is None else hardest)
        )
    similarity = mine["similarity"].to_numpy()[: len(mine) // 2]
    return WeightCurves(name, similarity, *sides)
