"""Reading and writing named tensors in safetensors and torch files, without torch and without executing their pickles.

Arrays are views of the memory-mapped file: nothing is read before it is used, and a wrong header allocates nothing.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from speech_jax.core.errors import UserError

Tensors = dict[str, np.ndarray]
_MAX_LINE = 1 << 16  # bytes of a name in a pickle of protocol 2
_MAX_HEADER = 100 << 20  # bytes of names and shapes; the limit of the safetensors library
_SAFETENSORS_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_TORCH_TYPES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
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
            if not all(isinstance(n, int) and n >= 0 for n in (*shape, first, last)):
                raise ValueError(f"shape {shape} at {first}..{last} for {name!r}")
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
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise UserError(f"{path}: found {error}, expected a whole safetensors file") from error


def read_state_dict(path: str | Path) -> Tensors:
    """Read the tensors of a .safetensors file, or of a torch file with any other suffix."""
    path = Path(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


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


class _SpanFile:
    """A Span as a file object that zipfile can read."""

    def __init__(self, file: IO[bytes], span: Span):
        self._file, self._start, self._position = file, span.offset, 0
        self.size = span.path.stat().st_size - span.offset if span.size is None else span.size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if count is None or count < 0 else min(count, left))
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        self._file.seek(self._start + self._position)
        data = self._file.readline(max(0, min(self.size - self._position, _MAX_LINE)))
        self._position += len(data)
        return data


# Operations allowed in the pickle of a torch file: tuples, dicts, strings, numbers, and calls of the names in
# `_unpickle`. Everything else is refused before anything is unpickled.
_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE FRAME EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS BINUNICODE SHORT_BINUNICODE BININT BININT1 "
    "BININT2 LONG1 BINFLOAT NEWTRUE NEWFALSE NONE BINPERSID POP".split()
)
_MAX_MEMO = 1 << 22  # entries; the unpickler allocates up to the highest index


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
    try:
        with open(span.path, "rb") as file:
            stream = _SpanFile(file, span)
            magic = stream.read(4)
            stream.seek(0)
            pickled, find = _open_zip(stream, span) if magic == b"PK\3\4" else _open_stream(stream, span)
            tree = _unpickle(pickled)
            return {name: view.array(find) for name, view in _flatten(tree).items()}
    except OSError as error:
        raise UserError(f"{span.path}: {error.strerror or error}, expected a torch file") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError, OverflowError, RecursionError,
            EOFError, RuntimeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise UserError(f"{span.path}: found {error}, expected a torch state dict") from error


_FindStorage = Callable[[str, np.dtype], np.ndarray]  # (key, dtype) -> the mapped numbers of a storage


class _View(NamedTuple):
    """A tensor as a view of a storage that is not mapped yet."""

    key: str
    dtype: np.dtype
    count: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, find: _FindStorage) -> np.ndarray:
        """Return the tensor as a view of the mapped file."""
        data = find(self.key, self.dtype)
        span = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        last = self.offset + span if math.prod(self.size) else -1
        if last >= len(data) or self.count > len(data):
            raise ValueError(f"a tensor of shape {self.size} in a storage of {len(data)}")
        strides = tuple(s * data.dtype.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides, writeable=False)


def _open_zip(stream: _SpanFile, span: Span) -> tuple[bytes, _FindStorage]:
    """Return the pickle and the storages of a file written by torch 1.6 or later."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError("no whole zip archive (cut off?)") from error
    entries = {info.filename: info for info in archive.infolist()}
    name = next((n for n in entries if n.endswith("/data.pkl") and n.count("/") == 1), None)
    if name is None:
        raise ValueError("a zip archive without data.pkl")
    if entries[name].file_size > _MAX_HEADER:
        raise ValueError(f"{entries[name].file_size} bytes of names and shapes")
    pickled = archive.read(name)
    folder = name.removesuffix("data.pkl")
    order = folder + "byteorder"
    if order in entries and archive.read(order).strip() != b"little":
        raise ValueError("tensors that are not little-endian")

    @functools.cache
    def find(key: str, dtype: np.dtype) -> np.ndarray:
        info = entries[f"{folder}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed tensors")
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


def _open_stream(stream: _SpanFile, span: Span) -> tuple[bytes, _FindStorage]:
    """Return the pickle and the storages of a file written before torch 1.6.

    Such a file holds a magic number, a version, properties of the machine, the pickle, the keys of the storages, and
    for each its length and its numbers.
    """
    pickles = []
    for index in range(5):
        start = stream.tell()
        try:
            for opcode, _, _ in pickletools.genops(cast(IO[bytes], stream)):
                if stream.tell() - start > _MAX_HEADER:
                    raise ValueError("more than a header's bytes of names and shapes")
                del opcode
        except (ValueError, AttributeError, UnicodeError) as error:
            kind = "no torch file (neither a zip archive nor pickles)" if index < 2 else "a torch file that is cut off"
            raise ValueError(kind) from error
        end = stream.tell()
        stream.seek(start)
        pickles.append(stream.read(end - start))
        if index == 0 and _unpickle(pickles[0]) != _MAGIC:
            raise ValueError("no torch file (another magic number)")
    version, machine = _unpickle(pickles[1]), _unpickle(pickles[2])
    if version != _VERSION or not machine.get("little_endian"):
        raise ValueError(f"version {version} or tensors that are not little-endian")
    dtypes: dict[str, np.dtype] = {}
    _unpickle(pickles[3], lambda key, dtype: dtypes.setdefault(key, dtype))
    extents: dict[str, tuple[int, int]] = {}  # start, size in bytes
    for key in _unpickle(pickles[4]):
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


def _map_span(stream: _SpanFile, span: Span, start: int, size: int, dtype: np.dtype, key: str) -> np.ndarray:
    if start + size > stream.size:
        raise ValueError(f"storage {key!r} beyond the end of the file")
    return _map(span.path, span.offset + start, (size // dtype.itemsize,), dtype)


def _unpickle(pickled: bytes, on_storage: Callable[[str, np.dtype], Any] = lambda key, dtype: None) -> Any:
    """Return the contents of the pickle with tensors as `_View`s; calls `on_storage` for every storage."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in _OPCODES:
            raise ValueError(f"the pickle operation {opcode.name}, which no state dict needs")
        if opcode.name == "LONG_BINPUT" and (argument is None or argument > _MAX_MEMO):
            raise ValueError(f"pickle memo entry {argument}")

    def rebuild(storage, offset, size, stride, *_ignored):
        kind, dtype, key, count = storage
        if kind != "storage" or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
            raise ValueError("an invalid tensor")
        return _View(key, dtype, count, offset, tuple(size), tuple(stride))

    names = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_ignored: tensor,
        **{("torch", name): name for name in _TORCH_TYPES},
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) not in names:
                raise ValueError(f"a call of {module}.{name}, which is not run")
            return names[module, name]

        def persistent_load(self, pid):
            kind, storage_type, key, _location, count, *view = pid
            if view and view[0] is not None:
                raise ValueError("a storage that is a part of another")
            dtype = np.dtype(_TORCH_TYPES[storage_type])
            on_storage(str(key), dtype)
            return kind, dtype, str(key), int(count)

    return Unpickler(io.BytesIO(pickled)).load()


def _flatten(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, _View]:
    if not isinstance(tree, dict) or depth > 8:
        raise ValueError(f"a {type(tree).__name__}")
    views: dict[str, _View] = {}
    for name, value in tree.items():
        if isinstance(value, _View):
            views[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            views |= _flatten(value, f"{prefix}{name}.", depth + 1)
    return views


def write_torch(file: str | Path | IO[bytes], tensors: Mapping[str, np.ndarray], under: str = "") -> None:
    """Write arrays as a state dict that torch.load(weights_only=True) reads.

    Args:
        file: path or file object.
        tensors: arrays of the types that torch has too.
        under: write the state dict as the entry of this name in a dict; empty for a bare state dict.
    """
    storage_types = {np.dtype(dtype): name for name, dtype in _TORCH_TYPES.items()}
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
