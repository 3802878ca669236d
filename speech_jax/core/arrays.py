"""Checks of what model functions are called with: types and shapes of arrays, at trace time, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

KINDS = {"float": np.floating, "int": np.integer, "bool": np.bool_}


def check_array(name: str, array: Any, kind: Literal["float", "int", "bool"], *shape: int | str) -> None:
    """Raise ValueError for an array of another type or shape, which broadcasting or a cast could let pass.

    Args:
        name: Name in the message.
        array: A JAX or NumPy array, or a traced value.
        kind: Kind of its numbers.
        *shape: Size of each dimension; a name where any size is right.

    Example:
        >>> import numpy as np
        >>> from speech_jax.core.arrays import check_array
        >>> try:
        ...     check_array("audio", np.zeros(16000, np.int16), "float", "batch", "samples")
        ... except ValueError as error:
        ...     print(error)
        audio: found int16 [16000], expected float [batch, samples]
    """
    what = type(array).__name__
    if hasattr(array, "shape"):
        if len(array.shape) == len(shape) and _is_kind(array.dtype, kind):
            if all(isinstance(size, str) or size == n for size, n in zip(shape, array.shape, strict=True)):
                return
        what = f"{array.dtype} [{', '.join(map(str, array.shape))}]"
    raise ValueError(f"{name}: found {what}, expected {kind} [{', '.join(map(str, shape))}]")


def check_batch(batch: Mapping[str, Any], **arrays: tuple[Any, ...]) -> None:
    """Raise ValueError for a batch that lacks an array, or has one of another type or shape or without elements.

    Args:
        batch: Name -> array.
        **arrays: The kind and the sizes of each, as for `check_array`; a name that stands for several sizes stands for
            the same size in all.

    Example:
        >>> import numpy as np
        >>> from speech_jax.core.arrays import check_batch
        >>> batch = {"mel": np.zeros((2, 12, 4), np.float32), "speaker": np.zeros(3, int)}
        >>> try:
        ...     check_batch(batch, mel=("float", "batch", "frames", 4), speaker=("int", "batch"))
        ... except ValueError as error:
        ...     print(error)
        speaker: found int64 [3], expected int [2]
    """
    if not arrays.keys() <= batch.keys():
        raise ValueError(f"batch: found {', '.join(sorted(batch)) or 'nothing'}, expected {', '.join(arrays)}")
    sizes: dict[Any, Any] = {}
    for name, (kind, *shape) in arrays.items():
        check_array(name, batch[name], kind, *(sizes.get(size, size) for size in shape))
        if 0 in batch[name].shape:
            raise ValueError(f"{name}: found {list(batch[name].shape)}, expected no size of 0")
        sizes |= zip(shape, batch[name].shape, strict=True)


def check_count(name: str, value: Any) -> None:
    """Raise ValueError for a number of classes or symbols that is no integer, or less than 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: found {value!r}, expected an integer of at least 1")


def check_class(name: str, value: Any, classes: int) -> None:
    """Raise ValueError for a number that is none of so many classes: indexing would take another one or none."""
    if value not in range(classes):
        raise ValueError(f"{name}: found {value!r}, expected 0 to {classes - 1}, one of {classes} classes")


def _is_kind(dtype: Any, kind: str) -> bool:
    if np.issubdtype(dtype, KINDS[kind]):
        return True
    return kind == "float" and np.dtype(dtype).name.startswith(("bfloat", "float"))  # those that NumPy does not know
