"""Training batches as the loop wants them: `next()`, a state that is plain JSON, and a way back to that state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from speech_jax.core.types import PyTree


class Feed(Protocol):
    """An endless stream of host batches that can be put back to any point."""

    buckets: Sequence[Any]
    """Every shape that can come, for compiling: buckets, or {"pre": bucket, "task": bucket} for a mix."""

    @property
    def state(self) -> Any:
        """Plain JSON: where the next batch comes from."""

    def restore(self, state: Any) -> None:
        """Goes to a state that `state` returned earlier."""

    def __next__(self) -> PyTree:
        """The next batch: a tree of NumPy arrays."""

    def close(self) -> None:
        """Stops workers."""


class ResumableBatches:
    """One stream. Its state is one integer: the index of the next batch.

    make: (start) -> iterator over batches from index `start` on.
    """

    def __init__(self, make: Callable[[int], Iterator[PyTree]], buckets: Sequence[Any]):
        self._make = make
        self._iterator: Iterator[PyTree] | None = None
        self._next = 0
        self.buckets = tuple(buckets)

    @property
    def state(self) -> int:
        return self._next

    def restore(self, state: int) -> None:
        self.close()
        self._next = int(state)

    def __next__(self) -> PyTree:
        if self._iterator is None:
            self._iterator = self._make(self._next)
        batch = next(self._iterator)
        self._next += 1
        return batch

    def close(self) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None


class PairedBatches:
    """The two streams of a mix: {"pre": …, "task": …}, each with its own state and its own epochs."""

    def __init__(self, pre: Feed, task: Feed):
        self._feeds = {"pre": pre, "task": task}
        self.buckets = tuple({"pre": p, "task": t} for p in pre.buckets for t in task.buckets)

    @property
    def state(self) -> dict[str, Any]:
        return {name: feed.state for name, feed in self._feeds.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, feed in self._feeds.items():
            feed.restore(state[name])

    def __next__(self) -> dict[str, PyTree]:
        return {name: next(feed) for name, feed in self._feeds.items()}

    def close(self) -> None:
        for feed in self._feeds.values():
            feed.close()
