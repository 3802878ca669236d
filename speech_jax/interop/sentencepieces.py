"""sentencepiece model files and our tokenizers, both ways."""

from __future__ import annotations

from speech_jax.core.errors import UserError
from speech_jax.text.tokenizer import BLANK, Tokenizer

_KINDS = {1: "unigram", 2: "bpe"}
UNKNOWN = "<unk>"


def read_sentencepiece(data: bytes, source: str) -> Tokenizer:
    """The tokenizer of a sentencepiece model: the blank, then its pieces in their order.

    Texts are taken as they are: the model's own normalizer (usually NFKC) is not applied.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as proto

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
    """The inverse, with <unk> at the end where the tokenizer has none: sentencepiece needs one."""
    from sentencepiece import sentencepiece_model_pb2 as proto

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
