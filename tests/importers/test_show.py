"""What is shown of the importers is shown of all of them."""

from pathlib import Path

from tests.importers.show import NAMES, printed


def test_every_importer_is_shown(tmp_path):
    there = {p.stem.removeprefix("test_") for p in Path(__file__).parent.glob("test_*.py")}
    assert set(NAMES) == there - {"show"}
    text = printed("sop", tmp_path)
    assert "59,551 images of 11,318 classes published" in text
    assert text.endswith("Wrote m.parquet.\n")
