"""A small interpreter of the pickles in torch files: they may build dicts, lists and views of tensors, nothing else.

The standard library's reader would run what the file says, and some pickles of a few kilobytes keep it busy for hours
(a key of nested tuples) or fill the memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_RANK = 32  # dimensions of a tensor
_MAX_OPERATIONS = 1 << 21  # of a pickle; a tensor takes about 30
TORCH_TYPES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


class View(NamedTuple):
    """A tensor as a view of a storage that is not mapped yet.

    Attributes:
        key: name of the storage.
        dtype: type of its values.
        count: their number.
        offset: first value of the tensor.
        size: shape.
        stride: values between neighbors, per dimension.
    """

    key: str
    dtype: np.dtype
    count: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Storage(NamedTuple):
    """A storage as the pickle names it: its key and the type and number of its values."""

    key: str
    dtype: np.dtype
    count: int


def operations(pickled: bytes | IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) of the operations of a pickle. Raises ValueError for too many."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if number == _MAX_OPERATIONS:
            raise ValueError(f"a pickle of more than {_MAX_OPERATIONS} operations")
        yield opcode.name, argument


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_ignored: Any) -> View:
    """Stand for torch's function that makes a tensor."""
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(numbers) > 2 * MAX_RANK
        or len(size) != len(stride)
        or not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers)
    ):
        raise ValueError("an invalid tensor")
    return View(storage.key, storage.dtype, storage.count, offset, tuple(size), tuple(stride))


def _ordered(pairs: Any = ()) -> dict:
    """Stand for OrderedDict, empty or, as Python 2 writes it, of pairs."""
    entries: dict = {}
    for key, value in pairs:
        _set(entries, key, value)
    return entries


def _set(entries: Any, key: Any, value: Any) -> None:
    if not isinstance(entries, dict) or not isinstance(key, str | int | float | None):  # a tuple's hash can take hours
        raise ValueError(f"an entry of type {type(key).__name__} in a {type(entries).__name__}")
    entries[key] = value


_CALLS: dict[str, Callable] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _rebuild,  # before torch 0.4
    "torch._utils _rebuild_tensor_v2": _rebuild,
    "torch._utils _rebuild_parameter": lambda tensor, *_ignored: tensor,
}
_GLOBALS = _CALLS | {f"torch {name}": np.dtype(kind) for name, kind in TORCH_TYPES.items()}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SCALARS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = frozenset("BINUNICODE SHORT_BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT".split())


def unpickle(pickled: bytes, on_storage: Callable[[str, np.dtype], Any] = lambda key, dtype: None) -> Any:
    """Return the contents of a pickle with tensors as `View`s; calls `on_storage` for every storage.

    This interprets the operations of which the pickles of state dicts consist: dicts, lists, tuples, strings, numbers,
    and calls of `_CALLS`. Each other one is an error.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("a pickle that takes more than it has put")
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    def pop_marked() -> list[Any]:
        return pop(max(len(stack) - marks.pop(), 0))

    for name, argument in operations(pickled):
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack.append(tuple(pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(pop_marked()))
        elif name in _SCALARS:
            stack.append(_SCALARS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("SETITEM", "SETITEMS"):
            items = pop(2) if name == "SETITEM" else pop_marked()
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        elif name in ("APPEND", "APPENDS"):
            items = pop(1) if name == "APPEND" else pop_marked()
            if not isinstance(stack[-1], list):
                raise ValueError("an item without a list")
            stack[-1].extend(items)
        elif name == "GLOBAL":
            if argument not in _GLOBALS:
                raise ValueError(f"a call of {argument.replace(' ', '.')[:200]!r}, which is not run")
            stack.append(_GLOBALS[argument])
        elif name == "REDUCE":
            function, arguments = pop(2)
            if not any(function is call for call in _CALLS.values()) or not isinstance(arguments, tuple):
                raise ValueError("a call of something else than a function")
            stack.append(function(*arguments))
        elif name == "BUILD":  # attributes of an OrderedDict: torch's _metadata
            pop(1)
        elif name == "BINPERSID":
            (entry,) = pop(1)
            kind, dtype, key, _location, count, *view = entry
            if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str | int):
                raise ValueError("an invalid storage")
            if not isinstance(count, int) or (view and view[0] is not None):
                raise ValueError("a storage that is a part of another")
            on_storage(str(key), dtype)
            stack.append(_Storage(str(key), dtype, count))
        elif name == "POP":
            pop(1)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the pickle operation {name}, which no state dict needs")
    raise ValueError("a pickle without an end")
