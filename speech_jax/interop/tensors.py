"""Reading and writing named tensors in safetensors and torch files, without torch and without executing their pickles.

Arrays are views of the memory-mapped file: nothing is read before it is used, and a wrong header allocates nothing.
A file is not trusted: names, shapes and the operations of a pickle are limited in number, and tensors in size, to what
the file can hold.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError
from speech_jax.interop.torch_pickle import MAX_RANK, TORCH_TYPES, View, operations, unpickle

Tensors = dict[str, np.ndarray]
_MAX_LINE = 1 << 16  # bytes of a name in a pickle of protocol 2
_MAX_HEADER = 16 << 20  # bytes of names and shapes, of which thousands of tensors take less than 1 MB
_SAFETENSORS_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


# ---- safetensors


def read_safetensors(path: str | Path) -> Tensors:
    """Read the tensors of a safetensors file by name.

    Args:
        path: the file.

    Raises:
        UserError: the file is cut off, or its tensors overlap or have a name twice.
    """
    path = Path(path)
    check_file(path, "a safetensors file")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
        header.pop("__metadata__", None)
        start, tensors, end = 8 + length, {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype = np.dtype(_SAFETENSORS_TYPES[entry["dtype"]])
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            numbers = (*shape, first, last)
            if len(shape) > MAX_RANK or not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers):
                raise ValueError(f"shape {shape[:MAX_RANK]} at {first}..{last} for {name!r}")
            if first != end or last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{last - first} bytes at {first} for {name!r} of shape {shape}, {dtype}")
            end = last
            if start + end > size:
                raise ValueError(f"{name!r} up to byte {start + end} in a file of {size}")
            tensors[name] = _map(path, start + first, shape, dtype)
        if start + end != size:
            raise ValueError(f"{size - start - end} bytes after the last tensor")
        return tensors
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a safetensors file") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: found {error}, expected a whole safetensors file") from error


def read_state_dict(path: str | Path) -> Tensors:
    """Read the tensors of a .safetensors file, or of a torch file with any other suffix."""
    path = Path(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


_TRAINING_STATE = frozenset(
    "optimizer scheduler lr_scheduler scaler amp iteration epoch step learning_rate global_step global_epoch "
    "global_test_step cuda_rng_state_all cuda_rng_states_all random_rng_state random_rng_states_all config".split()
)


def network_tensors(tensors: Tensors, marks: Iterable[str], source: str) -> tuple[Tensors, dict[str, str]]:
    """Separate the tensors of a network from the state of its training.

    Args:
        tensors: of a checkpoint, in which the state dict may be an entry and may have prefixes.
        marks: names of tensors that tell the network; what stands before one is the prefix.
        source: path of the file, for messages.

    Returns:
        The network's tensors without the prefix, and the names of the others with the reason why they are not used.

    Raises:
        UserError: there are two networks.
    """
    prefixes = sorted({name.removesuffix(mark) for mark in marks for name in tensors if _ends_with(name, mark)})
    if len(prefixes) > 1:
        raise UserError(f"{source}: found networks under {prefixes[0]!r} and {prefixes[1]!r}, expected one")
    prefix = prefixes[0] if prefixes else ""
    entry = prefix.split(".")[0]
    network, ignored = {}, {}
    for name, tensor in tensors.items():
        first = name.split(".")[0]
        outside = entry in ("state_dict", "model_state_dict") and first != entry
        if name.startswith(prefix) and first not in _TRAINING_STATE:
            network[name.removeprefix(prefix)] = tensor
        elif outside or first in _TRAINING_STATE:
            ignored[name] = "training state, not part of the network"
        else:
            network[name] = tensor
    return network, ignored


def _ends_with(name: str, mark: str) -> bool:
    return name == mark or name.endswith(f".{mark}")


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file that transformers can load."""
    save_file({name: np.asarray(a, order="C") for name, a in tensors.items()}, str(path), metadata={"format": "pt"})


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        duplicate = next(name for name, n in collections.Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{duplicate!r} twice")
    return entries


def _map(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    raw = np.memmap(path, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
    return raw.view(dtype).reshape(shape)


# ---- torch


class Span(NamedTuple):
    """A file, or a part of one, such as a member of an uncompressed tar.

    Attributes:
        path: the file.
        offset: first byte.
        size: number of bytes; None for the rest of the file.
    """

    path: Path
    offset: int = 0
    size: int | None = None


class SpanFile:
    """A Span as a file object that zipfile and tarfile can read; a longer read at once than `limit` is an error."""

    def __init__(self, file: IO[bytes], span: Span, limit: int = _MAX_HEADER):
        self._file, self._start, self._position, self._limit = file, span.offset, 0, limit
        self.size = span.path.stat().st_size - span.offset if span.size is None else span.size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, as a file's method does."""
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seekable(self) -> bool:
        """Return True."""
        return True

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes. Raises ValueError for more than the limit."""
        left = max(0, self.size - self._position)
        count = left if count is None or count < 0 else min(count, left)
        if count > self._limit:
            raise ValueError(f"{count} bytes of names and shapes, more than {self._limit}")
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        """Return the next bytes up to a line end, at most those of a name."""
        self._file.seek(self._start + self._position)
        data = self._file.readline(max(0, min(self.size - self._position, _MAX_LINE)))
        self._position += len(data)
        return data


_MAX_ENTRIES = 1 << 18  # of all dicts, of which one may be the entry of many
_MAX_NAME = 1 << 10  # characters
_SHARED = 4  # times the size of the file: tensors may share numbers, as tied weights do


def read_torch(source: str | Path | Span) -> Tensors:
    """Read the tensors of a state dict that torch.save wrote.

    The file is a zip archive or, before torch 1.6, a sequence of pickles and raw numbers. Nothing in it is executed:
    its pickle may only build dicts and call torch's function for tensors, which here returns views.

    Args:
        source: the file, or a part of one.

    Returns:
        Tensors by name; names of nested dicts are joined by dots, and values that are not tensors are left out.

    Raises:
        UserError: the file is cut off, or its pickle contains anything else.
    """
    span = source if isinstance(source, Span) else Span(Path(source))
    check_file(span.path, "a torch file")
    try:
        with open(span.path, "rb") as file:
            stream = SpanFile(file, span)
            magic = stream.read(4)
            stream.seek(0)
            pickled, find = _open_zip(stream, span) if magic == b"PK\3\4" else _open_stream(stream, span)
            views = _flatten(unpickle(pickled))
            if not views:
                raise ValueError("no tensors")
            total = sum(math.prod(view.size) * view.dtype.itemsize for view in views.values())
            if total > _SHARED * stream.size + (1 << 20):
                raise ValueError(f"tensors of {total} bytes in a file of {stream.size}")
            return {name: _array(view, find) for name, view in views.items()}
    except OSError as error:
        raise UserError(f"{span.path}: {error.strerror or error}, expected a torch file") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError, OverflowError, RecursionError,
            EOFError, RuntimeError, NotImplementedError, struct.error, zlib.error,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise UserError(f"{span.path}: found {error}, expected a torch state dict") from error


_FindStorage = Callable[[str, np.dtype], np.ndarray]  # (key, dtype) -> the mapped numbers of a storage


def _array(view: View, find: _FindStorage) -> np.ndarray:
    """Return a tensor as a view of the mapped file."""
    data = find(view.key, view.dtype)
    span = sum((n - 1) * s for n, s in zip(view.size, view.stride, strict=True))
    last = view.offset + span if math.prod(view.size) else -1
    if last >= len(data) or view.count > len(data):
        raise ValueError(f"a tensor of shape {view.size} in a storage of {len(data)}")
    strides = tuple(s * data.dtype.itemsize for s in view.stride)
    return np.lib.stride_tricks.as_strided(data[view.offset :], view.size, strides, writeable=False)


def _open_zip(stream: SpanFile, span: Span) -> tuple[bytes, _FindStorage]:
    """Return the pickle and the storages of a file written by torch 1.6 or later."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError("no whole zip archive (cut off?)") from error
    entries = {info.filename: info for info in archive.infolist()}
    name = next((n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1), None)
    if name is None:
        raise ValueError("a zip archive without data.pkl")

    def read(name: str, limit: int) -> bytes:
        info = entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
            raise ValueError(f"{name!r} compressed, or of {info.file_size} bytes")
        return archive.read(name)

    pickled = read(name, _MAX_HEADER)
    folder = name.removesuffix("data.pkl")
    order = folder + "byteorder"
    if order in entries and read(order, 64).strip() != b"little":
        raise ValueError("tensors that are not little-endian")
    left = stream.size

    @functools.cache
    def find(key: str, dtype: np.dtype) -> np.ndarray:
        nonlocal left
        info = entries.get(f"{folder}data/{key}")
        if info is None:
            raise ValueError(f"no storage {key!r}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed tensors")
        left -= info.file_size
        if left < 0:
            raise ValueError("storages that overlap")
        stream.seek(info.header_offset)
        header = stream.read(30)
        if header[:4] != b"PK\3\4":
            raise ValueError("a damaged archive")
        name, extra = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name + extra
        data = _map_span(stream, span, start, info.file_size, dtype, key)
        # torch writes a CRC of 0 if it does not compute one.
        if info.CRC and zlib.crc32(data.view(np.uint8).data) != info.CRC:
            raise ValueError(f"storage {key!r} damaged (its checksum differs)")
        return data

    return pickled, find


_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _open_stream(stream: SpanFile, span: Span) -> tuple[bytes, _FindStorage]:
    """Return the pickle and the storages of a file written before torch 1.6.

    Such a file holds a magic number, a version, properties of the machine, the pickle, the keys of the storages, and
    for each its length and its numbers.
    """
    pickles = []
    for index in range(5):
        start = stream.tell()
        try:
            for _ in operations(cast(IO[bytes], stream)):
                if stream.tell() - start > _MAX_HEADER:
                    raise ValueError("more than a header's bytes of names and shapes")
        except (ValueError, AttributeError, UnicodeError) as error:
            kind = "no torch file (neither a zip archive nor pickles)" if index < 2 else "a torch file that is cut off"
            raise ValueError(kind) from error
        end = stream.tell()
        stream.seek(start)
        pickles.append(stream.read(end - start))
        if index == 0 and unpickle(pickles[0]) != _MAGIC:
            raise ValueError("no torch file (another magic number)")
    version, machine = unpickle(pickles[1]), unpickle(pickles[2])
    if version != _VERSION or not machine.get("little_endian"):
        raise ValueError(f"another version than {_VERSION}, or tensors that are not little-endian")
    dtypes: dict[str, np.dtype] = {}
    unpickle(pickles[3], lambda key, dtype: dtypes.setdefault(key, dtype))
    extents: dict[str, tuple[int, int]] = {}  # start, size in bytes
    for key in unpickle(pickles[4]):
        (count,) = struct.unpack("<q", stream.read(8))
        start, size = stream.tell(), count * dtypes[key].itemsize
        if count < 0 or start + size > stream.size:
            raise ValueError(f"storage {key!r} beyond the end of the file")
        extents[key] = start, size
        stream.seek(start + size)

    @functools.cache
    def find(key: str, dtype: np.dtype) -> np.ndarray:
        return _map_span(stream, span, *extents[key], dtype, key)

    return pickles[3], find


def _map_span(stream: SpanFile, span: Span, start: int, size: int, dtype: np.dtype, key: str) -> np.ndarray:
    if start + size > stream.size:
        raise ValueError(f"storage {key!r} beyond the end of the file")
    return _map(span.path, span.offset + start, (size // dtype.itemsize,), dtype)


def _flatten(tree: Any) -> dict[str, View]:
    """Return the tensors of nested dicts, their names joined by dots."""
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__}")
    views: dict[str, View] = {}
    entries = itertools.count(1)

    def add(tree: dict, prefix: str) -> None:
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if next(entries) > _MAX_ENTRIES or len(name) > _MAX_NAME:
                raise ValueError(f"more than {_MAX_ENTRIES} entries, or a name of more than {_MAX_NAME} characters")
            if isinstance(value, View):
                if name in views:
                    raise ValueError(f"{name!r} twice")
                views[name] = value
            elif isinstance(value, dict):
                add(value, f"{name}.")

    add(tree, "")
    return views


def write_torch(file: str | Path | IO[bytes], tensors: Mapping[str, np.ndarray], under: str = "") -> None:
    """Write arrays as a state dict that torch.load(weights_only=True) reads.

    Args:
        file: path or file object.
        tensors: arrays of the types that torch has too.
        under: write the state dict as the entry of this name in a dict; empty for a bare state dict.
    """
    storage_types = {np.dtype(dtype): name for name, dtype in TORCH_TYPES.items()}
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
    out = [b"\x80\x02", b"}" + _text(under) if under else b""]
    out.append(b"ccollections\nOrderedDict\n)R(")  # OrderedDict(), then pairs up to the mark
    for index, (name, a) in enumerate(arrays.items()):
        strides = tuple(s // a.dtype.itemsize for s in a.strides)
        out += [
            _text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", _text("storage"),
            f"ctorch\n{storage_types[a.dtype]}\n".encode(), _text(str(index)), _text("cpu"), _int(a.size), b"tQ",
            _int(0), _ints(a.shape), _ints(strides), b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    out.append(b"us." if under else b"u.")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"".join(out))
        archive.writestr("archive/byteorder", b"little")
        for index, a in enumerate(arrays.values()):
            with archive.open(f"archive/data/{index}", "w", force_zip64=a.nbytes >= 1 << 31) as entry:
                entry.write(a.reshape(-1).view(np.uint8).data)
        archive.writestr("archive/version", b"3\n")


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
