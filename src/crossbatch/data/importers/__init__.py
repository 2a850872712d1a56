"""Importers: from what people have to a manifest. One file per layout."""

from crossbatch.data.importers.csv import from_csv
from crossbatch.data.importers.folder import from_folder

__all__ = ["from_csv", "from_folder"]
