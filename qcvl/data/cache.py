"""Decoded photos kept in memory: a photo shown many times in windows is decoded once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from qcvl.schema.types import Sample, Task


class SampleCache:
    """Samples by key, the least recently used dropped where their pixels would exceed ``limit_mb`` (0 keeps none).

    Pixels are marked read-only: a sample that was kept must not be changed by whoever gets it.
    """

    def __init__(self, limit_mb: int) -> None:
        self.limit, self.held = limit_mb * 2**20, 0
        self._samples: OrderedDict[Hashable, Sample] = OrderedDict()

    def get(self, key: Hashable, task: Task, decode: Callable[[], Sample]) -> Sample:
        """The sample of ``key`` for ``task``: as kept, or from ``decode()``."""
        kept = self._samples.get(key)
        if kept is None:
            kept = decode()
            self._keep(key, kept)
        else:
            self._samples.move_to_end(key)
        return replace(kept, task=task)

    def _keep(self, key: Hashable, sample: Sample) -> None:
        size = _size(sample)
        if size > self.limit:
            return
        for pixels in _pixels(sample):
            pixels.setflags(write=False)
        self._samples[key] = sample
        self.held += size
        while self.held > self.limit:
            _, dropped = self._samples.popitem(last=False)
            self.held -= _size(dropped)


def _pixels(sample: Sample) -> list[np.ndarray]:
    return [*sample.images, *(clip.frames for clip in sample.videos)]


def _size(sample: Sample) -> int:
    return sum(pixels.nbytes for pixels in _pixels(sample))
