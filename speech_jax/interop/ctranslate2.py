"""Reading of CTranslate2's model.bin, the file of faster-whisper's models, without its library.

Layout (OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py, version 6), little endian: version, name of the
model's kind, revision, then tensors (name, shape, type, bytes) and aliases (name, name of the tensor).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError
from speech_jax.interop.tensors import Tensors

_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)  # in the order of their numbers
_VERSION = 6
_MAX_TENSORS, _MAX_RANK, _MAX_NAME = 100_000, 8, 1_000


def read_ctranslate2(path: str | Path) -> tuple[str, Tensors]:
    """Read the tensors of a model.bin.

    Weights in 8 bits are returned as float32, multiplied by the scales of their rows. Arrays of other types are views
    of the memory-mapped file.

    Args:
        path: the file.

    Returns:
        The kind of the model, such as "WhisperSpec", and its tensors, also under their other names.

    Raises:
        UserError: the file is of another format or version, or cut off.
    """
    path = Path(path)
    check_file(path, "a model.bin of CTranslate2")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (version,) = _numbers(file, "<I")
            if version != _VERSION:
                raise ValueError(f"version {version}, and only {_VERSION} is read")
            kind = _text(file)
            _revision, count = _numbers(file, "<II")
            if count > _MAX_TENSORS:
                raise ValueError(f"{count} tensors")
            tensors: Tensors = {}
            for _ in range(count):
                name = _text(file)
                if name in tensors:
                    raise ValueError(f"{name!r} twice")
                tensors[name] = _tensor(file, path, size, name)
            for _ in range(_numbers(file, "<I")[0]):
                alias, target = _text(file), _text(file)
                if alias in tensors or target not in tensors:
                    raise ValueError(f"{alias!r} as another name of {target!r}")
                tensors[alias] = tensors[target]
            if file.tell() != size:
                raise ValueError(f"{size - file.tell()} bytes after the last tensor")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a model.bin of CTranslate2") from error
    except (ValueError, struct.error) as error:
        raise UserError(f"{path}: found {error}, expected a whole model.bin of CTranslate2") from error
    return kind, _with_scales(tensors, path)


def _numbers(file: IO[bytes], layout: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise ValueError(f"its end after {file.tell()} bytes")
    return struct.unpack(layout, data)


def _text(file: IO[bytes]) -> str:
    (length,) = _numbers(file, "<H")
    data = file.read(length)
    if not 0 < length <= _MAX_NAME or len(data) < length or data[-1:] != b"\0":
        raise ValueError(f"a name of {length} bytes that does not end before byte {file.tell()}")
    return data[:-1].decode("ascii")


def _tensor(file: IO[bytes], path: Path, size: int, name: str) -> np.ndarray:
    (rank,) = _numbers(file, "<B")
    if rank > _MAX_RANK:
        raise ValueError(f"{rank} dimensions for {name!r}")
    shape = _numbers(file, f"<{rank}I")
    number, length = _numbers(file, "<BI")
    if number >= len(_TYPES):
        raise ValueError(f"type {number} for {name!r}")
    dtype, start = np.dtype(_TYPES[number]), file.tell()
    if math.prod(shape) * dtype.itemsize != length:
        raise ValueError(f"{length} bytes for {name!r} of shape {shape}, {dtype}")
    if start + length > size:
        raise ValueError(f"{name!r} up to byte {start + length} in a file of {size}")
    file.seek(start + length)
    if not length:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape or (1,)).reshape(shape)


def _with_scales(tensors: Tensors, path: Path) -> Tensors:
    """Return the tensors with those of 8 bits multiplied by their rows' scales."""
    scales = {name: tensors[name] for name in tensors if name.endswith("_scale")}
    floats: Tensors = {}
    for name, tensor in tensors.items():
        scale = scales.get(f"{name}_scale")
        if name in scales:
            continue
        if scale is None and tensor.dtype == np.int8 and tensor.ndim > 1:
            raise UserError(f"{path}: found {name!r} in 8 bits without {name}_scale, expected the scale of each row")
        if scale is not None:
            if tensor.ndim < 2 or scale.shape != tensor.shape[:1] or not (np.asarray(scale, np.float32) > 0).all():
                raise UserError(
                    f"{path}: found scales of shape {scale.shape} for {name!r} of shape {tensor.shape}, expected a "
                    f"positive one per row"
                )
            column = np.asarray(scale, np.float32).reshape(-1, *(1,) * (tensor.ndim - 1))
            tensor = np.asarray(tensor, np.float32) / column
        floats[name] = tensor
    return floats
