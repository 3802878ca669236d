"""Conversion between sentencepiece model files and tokenizers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.text.tokenizer import BLANK, Tokenizer

_KINDS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
UNKNOWN = "<unk>"
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def read_sentencepiece(data: bytes, source: str) -> Tokenizer:
    """Return the tokenizer of a sentencepiece model: the blank, then the pieces in their order.

    The model's normalizer (usually NFKC) is not applied to texts.

    Args:
        data: contents of the .model file.
        source: path of the file, for messages.

    Raises:
        UserError: this is not a sentencepiece model of type unigram or BPE.
    """
    from google.protobuf.message import DecodeError

    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")  # its classes are created at run time

    model = proto.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise UserError(f"{source}: found {error}, expected a sentencepiece model") from error
    kind = _KINDS.get(model.trainer_spec.model_type)
    if kind is None or not model.pieces:
        raise UserError(
            f"{source}: found a sentencepiece model of type {model.trainer_spec.model_type} with {len(model.pieces)} "
            f"pieces, expected unigram (1) or bpe (2)"
        )
    return make_tokenizer(source, kind, [p.piece for p in model.pieces], [float(p.score) for p in model.pieces])


def make_tokenizer(
    source: str | Path, kind: Literal["char", "bpe", "unigram"], pieces: Sequence[str], scores: Sequence[float] = ()
) -> Tokenizer:
    """Return the tokenizer of another toolkit's pieces, with the blank before them.

    Args:
        source: path of the file, for messages.
        kind: kind of the tokenizer.
        pieces: pieces by their class, without the blank.
        scores: one per piece; none for characters.

    Raises:
        UserError: a piece is empty or repeated, or a score is not finite.
    """
    wrong = next((score for score in scores if not math.isfinite(score)), None)
    if wrong is not None:
        raise UserError(f"{source}: found a piece with score {wrong}, expected finite scores")
    try:
        return Tokenizer(kind, (BLANK, *pieces), (0.0, *scores) if scores else ())
    except UserError as error:
        raise UserError(f"{source}: {str(error).removeprefix('tokenizer: ')}") from error


def write_sentencepiece(tokenizer: Tokenizer) -> bytes:
    """Return a tokenizer as the contents of a sentencepiece .model file.

    sentencepiece requires <unk>: it is appended if the tokenizer has none.

    Args:
        tokenizer: of kind bpe or unigram.

    Raises:
        UserError: the tokenizer is of kind char.
    """
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")  # its classes are created at run time

    if tokenizer.kind == "char":
        raise UserError("tokenizer: found kind char, expected bpe or unigram for a sentencepiece model")
    model = proto.ModelProto()
    piece_type = proto.ModelProto.SentencePiece
    types = {UNKNOWN: piece_type.UNKNOWN}
    if _BYTES.issubset(tokenizer.pieces):
        types |= dict.fromkeys(_BYTES, piece_type.BYTE)
        model.trainer_spec.byte_fallback = True
    for text, score in zip(tokenizer.pieces[1:], tokenizer.scores[1:], strict=True):
        piece = model.pieces.add(piece=text, score=score)
        piece.type = types.get(text, piece_type.NORMAL)
    if UNKNOWN not in tokenizer.pieces:
        model.pieces.add(piece=UNKNOWN, score=0.0).type = piece_type.UNKNOWN
    model.trainer_spec.model_type = next(number for number, kind in _KINDS.items() if kind == tokenizer.kind)
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id = next(i for i, p in enumerate(model.pieces) if p.piece == UNKNOWN)
    model.trainer_spec.bos_id = model.trainer_spec.eos_id = model.trainer_spec.pad_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    return model.SerializeToString()
