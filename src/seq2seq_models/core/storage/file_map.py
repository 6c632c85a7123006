"""A file as memory: tensors of a checkpoint are views of it where the file allows that."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .stored import NUMPY_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FileMap:
    """A file (not an empty one) mapped copy-on-write: writing to an array changes this process only."""

    def __init__(self, file: Path) -> None:
        import numpy as np

        with file.open("rb") as stream:
            self.buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = np.frombuffer(self.buffer, np.uint8)

    def reader(self, first: int, last: int, dtype: str, shape: tuple[int, ...]) -> Callable[[], NDArray[Any]]:
        """Gives the values between two offsets: a view, or a copy if they are not aligned as frameworks expect."""
        release = self.releaser(first, last)

        def read() -> NDArray[Any]:
            values: NDArray[Any] = self._bytes[first:last].view(NUMPY_NAMES[dtype]).reshape(shape)
            if values.flags.aligned:
                return values
            copied = values.copy()
            release()
            return copied

        return read

    def releaser(self, first: int, last: int) -> Callable[[], None]:
        """Takes the whole pages between two offsets out of this process's memory; the file still has them."""
        start, end = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE

        def release() -> None:
            if end > start and hasattr(mmap, "MADV_DONTNEED"):
                self.buffer.madvise(mmap.MADV_DONTNEED, start, end - start)

        return release
