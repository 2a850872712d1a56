"""Studies: why a weighting does what it does, looked at in similarities of a run or of none."""

from crossbatch.studies.curves import (
    Curve,
    WeightCurves,
    default_weightings,
    pair_weights,
    weight_curves,
)
from crossbatch.studies.picture import draw, inline, write_picture
from crossbatch.studies.sample import Sample, draw_samples, sample_run, synthetic_samples
from crossbatch.studies.table import read_table, to_table, write_table

__all__ = [
    "Curve",
    "Sample",
    "WeightCurves",
    "default_weightings",
    "draw",
    "draw_samples",
    "inline",
    "pair_weights",
    "read_table",
    "sample_run",
    "synthetic_samples",
    "to_table",
    "weight_curves",
    "write_picture",
    "write_table",
]
