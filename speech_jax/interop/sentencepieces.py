"""Conversion between sentencepiece model files and tokenizers."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.text.tokenizer import BLANK, Tokenizer

_KINDS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
UNKNOWN = "<unk>"


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
    pieces = (BLANK, *(p.piece for p in model.pieces))
    return Tokenizer(kind, pieces, (0.0, *(float(p.score) for p in model.pieces)))


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
    for text, score in zip(tokenizer.pieces[1:], tokenizer.scores[1:], strict=True):
        piece = model.pieces.add(piece=text, score=score)
        piece.type = piece_type.UNKNOWN if text == UNKNOWN else piece_type.NORMAL
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
