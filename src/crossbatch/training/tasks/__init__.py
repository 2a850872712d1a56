"""The tasks that can be trained: retrieval and classification."""

from crossbatch.data import Manifest
from crossbatch.training.config import TrainConfig
from crossbatch.training.tasks.base import Task
from crossbatch.training.tasks.classification import Classification
from crossbatch.training.tasks.retrieval import Retrieval

__all__ = ["Classification", "Retrieval", "Task", "make_task"]


def make_task(config: TrainConfig, manifest: Manifest) -> Task:
    """The task of a run, of the images of its manifest."""
    kinds = {"retrieval": Retrieval, "classification": Classification}
    return kinds[config.task](config, manifest)
