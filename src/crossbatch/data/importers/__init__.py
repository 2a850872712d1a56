"""Importers: from what people have to a manifest. One file per layout or data set."""

from crossbatch.data.importers.cars import from_cars
from crossbatch.data.importers.clothing1m import from_clothing1m
from crossbatch.data.importers.csv import from_csv
from crossbatch.data.importers.cub import from_cub
from crossbatch.data.importers.folder import from_folder, from_pictures, from_source
from crossbatch.data.importers.food101 import from_food101
from crossbatch.data.importers.huggingface import from_huggingface
from crossbatch.data.importers.imagenet import from_imagenet
from crossbatch.data.importers.in_shop import from_in_shop
from crossbatch.data.importers.inaturalist import from_inaturalist
from crossbatch.data.importers.sop import from_sop
from crossbatch.data.importers.vehicle_id import from_vehicle_id
from crossbatch.data.importers.webvision import from_webvision

__all__ = [
    "from_cars",
    "from_clothing1m",
    "from_csv",
    "from_cub",
    "from_folder",
    "from_food101",
    "from_huggingface",
    "from_imagenet",
    "from_in_shop",
    "from_inaturalist",
    "from_pictures",
    "from_sop",
    "from_source",
    "from_vehicle_id",
    "from_webvision",
]
