"""One thread embeds for all requests, and takes those that wait together.

While a batch is in the network the next requests gather; a lone one never waits for company. One
pass over b pictures costs less than b passes over one, and two passes at once would only take the
processor from each other. Passes are over powers of two: torch keeps buffers for every size that
it has seen, and the memory of five sizes is reached soon and stays.
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbatch.models import Encoder

Array = np.ndarray[Any, Any]
BATCH = 16  # pictures


class _Asked(NamedTuple):
    encoder: Encoder
    pictures: list[Tensor]
    answer: "Future[Array]"


class Embedder:
    """A thread that embeds pictures. Close it when nothing is asked any more.

    Args:
        batch: Pictures that are embedded together at most, unless one request has more.
    """

    def __init__(self, *, batch: int = BATCH) -> None:
        self._batch = batch
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    def ask(self, encoder: Encoder, pictures: list[Tensor]) -> "Future[Array]":
        """The embeddings to come, (len(pictures), D) of unit norm; a cancelled one is left out.

        Args:
            encoder: In evaluation mode.
            pictures: (3, S, S) each, as `crossbatch.models.encoding.plain_transform` leaves them.
        """
        answer: Future[Array] = Future()
        self._waiting.put(_Asked(encoder, pictures, answer))
        return answer

    def close(self) -> None:
        """Finish what was asked, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: _Asked | None = None
        while (first := held or self._waiting.get()) is not None:
            together, held, last = [first], None, False
            while sum(len(asked.pictures) for asked in together) < self._batch:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                    break
                if following.encoder is not first.encoder:
                    held = following
                    break
                together.append(following)
            _embed(first.encoder, [a for a in together if a.answer.set_running_or_notify_cancel()])
            if last:
                return


def _embed(encoder: Encoder, together: list[_Asked]) -> None:
    pictures = [picture for asked in together for picture in asked.pictures]
    if not pictures:
        return
    try:
        found = np.concatenate([_pass(encoder, part) for part in _parts(pictures)])
    except Exception as error:  # whatever it is, those who wait must hear of it
        for asked in together:
            asked.answer.set_exception(error)
        return
    start = 0
    for asked in together:
        end = start + len(asked.pictures)
        asked.answer.set_result(found[start:end])
        start = end


def _parts(pictures: list[Tensor]) -> Iterator[list[Tensor]]:
    start = 0
    while start < len(pictures):
        size = 1 << (len(pictures) - start).bit_length() - 1
        yield pictures[start : start + size]
        start += size


@torch.inference_mode()
def _pass(encoder: Encoder, pictures: list[Tensor]) -> Array:
    device = next(encoder.parameters()).device
    return encoder(torch.stack(pictures).to(device)).float().cpu().numpy()
