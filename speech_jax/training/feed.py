"""Training batches for the loop: an endless iterator whose position is plain JSON and can be restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from speech_jax.core.types import PyTree


class Feed(Protocol):
    """An endless stream of host batches whose position can be saved and restored."""

    @property
    def buckets(self) -> Sequence[Any]:
        """Every batch shape that can occur, for compilation: buckets, or {"pre": bucket, "task": bucket} for a mix."""
        ...

    @property
    def state(self) -> Any:
        """Position of the next batch, as plain JSON."""

    def restore(self, state: Any) -> None:
        """Move to a position that `state` returned earlier."""

    def __next__(self) -> PyTree:
        """Return the next batch, a tree of NumPy arrays."""

    def close(self) -> None:
        """Stop the workers."""


class ResumableBatches:
    """One stream of batches; its state is the index of the next batch.

    Args:
        make: (start) -> iterator over the batches from index `start` on.
        buckets: every batch shape that can occur.
    """

    def __init__(self, make: Callable[[int], Iterator[PyTree]], buckets: Sequence[Any]):
        self._make = make
        self._iterator: Iterator[PyTree] | None = None
        self._next = 0
        self.buckets = tuple(buckets)

    @property
    def state(self) -> int:
        """Index of the next batch."""
        return self._next

    def restore(self, state: Any) -> None:
        """Continue at batch `state`; of a mix's position, at that of its task."""
        self.close()
        self._next = int(state["task"] if isinstance(state, Mapping) else state)

    def __next__(self) -> PyTree:
        if self._iterator is None:
            self._iterator = self._make(self._next)
        batch = next(self._iterator)
        self._next += 1
        return batch

    def close(self) -> None:
        """Stop the workers; the next batch starts them again."""
        if (close := getattr(self._iterator, "close", None)) is not None:
            close()
        self._iterator = None


class PairedBatches:
    """The two streams of a mix as batches {"pre": …, "task": …}, each with its own state and its own epochs."""

    def __init__(self, pre: Feed, task: Feed):
        self._feeds = {"pre": pre, "task": task}
        self.buckets = tuple({"pre": p, "task": t} for p in pre.buckets for t in task.buckets)

    @property
    def state(self) -> dict[str, Any]:
        """Position of each stream."""
        return {name: feed.state for name, feed in self._feeds.items()}

    def restore(self, state: Any) -> None:
        """Move each stream to its position; "pre" begins where a run had the task's stream alone so far."""
        positions = state if isinstance(state, Mapping) else {"pre": 0, "task": state}
        for name, feed in self._feeds.items():
            feed.restore(positions[name])

    def __next__(self) -> dict[str, PyTree]:
        return {name: next(feed) for name, feed in self._feeds.items()}

    def close(self) -> None:
        """Stop the workers of both streams."""
        for feed in self._feeds.values():
            feed.close()
