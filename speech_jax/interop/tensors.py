"""Named tensors out of safetensors and torch files, and into them, without torch and without running what is in them.

Arrays are views of the mapped file: nothing is read before it is used, and a lying header allocates nothing.
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
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from speech_jax.core.errors import UserError

Tensors = dict[str, np.ndarray]
_MAX_LINE = 1 << 16  # bytes of a name in a pickle of protocol 2
_MAX_HEADER = 100 << 20  # bytes of names and shapes; what the safetensors library allows
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
    """name -> array. Raises UserError for a file that is cut off, overlaps itself or names a tensor twice."""
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
    """The tensors of a file, by its name: safetensors, else torch's."""
    path = Path(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a safetensors file that transformers can load."""
    save_file({name: np.asarray(a, order="C") for name, a in tensors.items()}, str(path), metadata={"format": "pt"})


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, n in collections.Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r} twice")
    return found


def _map(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    raw = np.memmap(path, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
    return raw.view(dtype).reshape(shape)


# ---- torch


class Span(NamedTuple):
    """A file, or a piece of one: a member of an uncompressed tar."""

    path: Path
    offset: int = 0
    size: int | None = None


class _Piece:
    """A Span as a file that zipfile can read."""

    def __init__(self, file: IO[bytes], span: Span):
        self._file, self._start, self._place = file, span.offset, 0
        self.size = span.path.stat().st_size - span.offset if span.size is None else span.size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, self.size)[whence])
        return self._place

    def tell(self) -> int:
        return self._place

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self._place)
        self._file.seek(self._start + self._place)
        data = self._file.read(left if count is None or count < 0 else min(count, left))
        self._place += len(data)
        return data

    def readline(self) -> bytes:
        self._file.seek(self._start + self._place)
        data = self._file.readline(max(0, min(self.size - self._place, _MAX_LINE)))
        self._place += len(data)
        return data


# What the pickle inside a torch file may consist of: tuples, dicts, strings, numbers, and calls of the names in
# `_names`. Everything else is refused before anything is unpickled.
_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE FRAME EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS BINUNICODE SHORT_BINUNICODE BININT BININT1 "
    "BININT2 LONG1 BINFLOAT NEWTRUE NEWFALSE NONE BINPERSID POP".split()
)
_MAX_MEMO = 1 << 22  # entries; the unpickler allocates as many as the highest number asks for


def read_torch(source: str | Path | Span) -> Tensors:
    """name -> array of a state dict that torch.save wrote: a zip archive or, before torch 1.6, pickles and numbers one
    after the other. Nested dicts are joined by dots; what is no tensor is left out.

    Nothing in the file is run: the pickle may only build dicts and call torch's function for tensors, which here makes
    views. Raises UserError for a file that is cut off or asks for anything else.
    """
    span = source if isinstance(source, Span) else Span(Path(source))
    try:
        with open(span.path, "rb") as file:
            piece = _Piece(file, span)
            magic = piece.read(4)
            piece.seek(0)
            pickled, find = _open_zip(piece, span) if magic == b"PK\3\4" else _open_stream(piece, span)
            tree = _unpickle(pickled)
            return {name: view.of(find) for name, view in _flatten(tree).items()}
    except OSError as error:
        raise UserError(f"{span.path}: {error.strerror or error}, expected a torch file") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError, OverflowError, RecursionError,
            EOFError, RuntimeError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise UserError(f"{span.path}: found {error}, expected a torch state dict") from error


class _View(NamedTuple):
    """A tensor before its numbers are looked for: a piece of a storage."""

    key: str
    dtype: np.dtype
    count: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, find: Callable[[str, np.dtype], np.ndarray]) -> np.ndarray:
        """The tensor as a view of the mapped file."""
        data = find(self.key, self.dtype)
        steps = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        last = self.offset + steps if math.prod(self.size) else -1
        if last >= len(data) or self.count > len(data):
            raise ValueError(f"a tensor of shape {self.size} in a storage of {len(data)}")
        strides = tuple(s * data.dtype.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides, writeable=False)


Find = Callable[[str, np.dtype], np.ndarray]  # the numbers of a storage, mapped where they lie


def _open_zip(piece: _Piece, span: Span) -> tuple[bytes, Find]:
    """(the pickle, where storages are) of a file since torch 1.6."""
    try:
        archive = zipfile.ZipFile(piece)
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
        piece.seek(info.header_offset)
        header = piece.read(30)
        if header[:4] != b"PK\3\4":
            raise ValueError("a damaged archive")
        name, extra = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name + extra
        data = _map_piece(piece, span, start, info.file_size, dtype, key)
        if info.CRC and zlib.crc32(data.view(np.uint8)) != info.CRC:  # 0 where torch was told not to compute it
            raise ValueError(f"storage {key!r} damaged (its checksum differs)")
        return data

    return pickled, find


_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _open_stream(piece: _Piece, span: Span) -> tuple[bytes, Find]:
    """(the pickle, where storages are) of a file before torch 1.6: a magic number, a version, facts on the machine, the
    pickle, the names of the storages, and for each its length and its numbers."""
    pickles = []
    for number in range(5):
        start = piece.tell()
        try:
            for opcode, _, _ in pickletools.genops(piece):
                if piece.tell() - start > _MAX_HEADER:
                    raise ValueError("more than a header's bytes of names and shapes")
                del opcode
        except (ValueError, AttributeError, UnicodeError) as error:
            kind = "no torch file (neither a zip archive nor pickles)" if number < 2 else "a torch file that is cut off"
            raise ValueError(kind) from error
        end = piece.tell()
        piece.seek(start)
        pickles.append(piece.read(end - start))
        if number == 0 and _unpickle(pickles[0]) != _MAGIC:
            raise ValueError("no torch file (another magic number)")
    version, machine = _unpickle(pickles[1]), _unpickle(pickles[2])
    if version != _VERSION or not machine.get("little_endian"):
        raise ValueError(f"version {version} or tensors that are not little-endian")
    kinds: dict[str, np.dtype] = {}
    _unpickle(pickles[3], lambda key, dtype: kinds.setdefault(key, dtype))
    places: dict[str, tuple[int, int]] = {}
    for key in _unpickle(pickles[4]):
        (count,) = struct.unpack("<q", piece.read(8))
        start, size = piece.tell(), count * kinds[key].itemsize
        if count < 0 or start + size > piece.size:
            raise ValueError(f"storage {key!r} beyond the end of the file")
        places[key] = start, size
        piece.seek(start + size)

    @functools.cache
    def find(key: str, dtype: np.dtype) -> np.ndarray:
        return _map_piece(piece, span, *places[key], dtype, key)

    return pickles[3], find


def _map_piece(piece: _Piece, span: Span, start: int, size: int, dtype: np.dtype, key: str) -> np.ndarray:
    if start + size > piece.size:
        raise ValueError(f"storage {key!r} beyond the end of the file")
    return _map(span.path, span.offset + start, (size // dtype.itemsize,), dtype)


def _unpickle(pickled: bytes, seen: Callable[[str, np.dtype], Any] = lambda key, dtype: None) -> Any:
    """What the pickle holds, tensors as `_View`s. seen: is told of every storage that is named."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in _OPCODES:
            raise ValueError(f"the pickle operation {opcode.name}, which no state dict needs")
        if opcode.name == "LONG_BINPUT" and argument > _MAX_MEMO:
            raise ValueError(f"pickle memo entry {argument}")

    def rebuild(storage, offset, size, stride, *_ignored):
        kind, dtype, key, count = storage
        if kind != "storage" or not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
            raise ValueError("a tensor that is none")
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
            kind, storage_type, key, _place, count, *view = pid
            if view and view[0] is not None:
                raise ValueError("a storage that is a part of another")
            dtype = np.dtype(_TORCH_TYPES[storage_type])
            seen(str(key), dtype)
            return kind, dtype, str(key), int(count)

    return Unpickler(io.BytesIO(pickled)).load()


def _flatten(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, _View]:
    if not isinstance(tree, dict) or depth > 8:
        raise ValueError(f"a {type(tree).__name__}")
    found: dict[str, _View] = {}
    for name, value in tree.items():
        if isinstance(value, _View):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            found |= _flatten(value, f"{prefix}{name}.", depth + 1)
    return found


def write_torch(file: str | Path | IO[bytes], tensors: Mapping[str, np.ndarray], under: str = "") -> None:
    """Writes float32, int64 and other arrays as the state dict that torch.load(weights_only=True) reads; with `under`,
    as the entry of that name in a dict."""
    kinds = {np.dtype(dtype): name for name, dtype in _TORCH_TYPES.items()}
    arrays = {name: np.asarray(a, order="C") for name, a in tensors.items()}
    out = [b"\x80\x02", b"}" + _text(under) if under else b""]
    out.append(b"ccollections\nOrderedDict\n)R(")  # OrderedDict(), then pairs up to the mark
    for number, (name, a) in enumerate(arrays.items()):
        strides = tuple(s // a.dtype.itemsize for s in a.strides)
        out += [
            _text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", _text("storage"),
            f"ctorch\n{kinds[a.dtype]}\n".encode(), _text(str(number)), _text("cpu"), _int(a.size), b"tQ",
            _int(0), _ints(a.shape), _ints(strides), b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    out.append(b"us." if under else b"u.")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"".join(out))
        archive.writestr("archive/byteorder", b"little")
        for number, a in enumerate(arrays.values()):
            with archive.open(f"archive/data/{number}", "w", force_zip64=a.nbytes >= 1 << 31) as entry:
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
