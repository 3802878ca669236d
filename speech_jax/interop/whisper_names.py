"""Names and layouts of Whisper's tensors in Hugging Face's WhisperForConditionalGeneration and in CTranslate2's files.

The encoder's positions are computed by the network, and the output layer is the transposed embedding: neither is
imported.
"""

from __future__ import annotations

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.interop.conformer_names import LINEAR, SAME, TensorMapping, Transform
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import WhisperConfig

_CONV1D = (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))


def whisper_mappings(config: WhisperConfig) -> list[TensorMapping]:
    """Return the mappings of all tensors that the network has."""
    mappings: list[TensorMapping] = []

    def add(theirs: str, ours: tuple[str, ...], layout: tuple[Transform, Transform] = SAME) -> None:
        mappings.append(TensorMapping(f"model.{theirs}", ("params", *ours), *layout))

    def linear(theirs: str, ours: tuple[str, ...], layout=LINEAR, *, bias: bool = True) -> None:
        add(f"{theirs}.weight", (*ours, "kernel"), layout)
        if bias:
            add(f"{theirs}.bias", (*ours, "bias"))

    def norm(theirs: str, ours: tuple[str, ...]) -> None:
        add(f"{theirs}.weight", (*ours, "scale"))
        add(f"{theirs}.bias", (*ours, "bias"))

    def attention(theirs: str, ours: tuple[str, ...]) -> None:
        for part in ("q", "k", "v"):
            linear(f"{theirs}.{part}_proj", (*ours, f"linear_{part}"), bias=part != "k")
        linear(f"{theirs}.out_proj", (*ours, "linear_out"))

    for n in (1, 2):
        linear(f"encoder.conv{n}", ("encoder", f"conv{n}"), _CONV1D)
    add("decoder.embed_tokens.weight", ("decoder", "embedding"))
    add("decoder.embed_positions.weight", ("decoder", "positions"))
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        norm(f"{side}.layer_norm", (side, "norm"))
        for i in range(layers):
            theirs, ours = f"{side}.layers.{i}", (side, f"layers_{i}")
            attention(f"{theirs}.self_attn", (*ours, "self_attn"))
            norm(f"{theirs}.self_attn_layer_norm", (*ours, "norm_self_att"))
            if side == "decoder":
                attention(f"{theirs}.encoder_attn", (*ours, "cross_attn"))
                norm(f"{theirs}.encoder_attn_layer_norm", (*ours, "norm_cross_att"))
            linear(f"{theirs}.fc1", (*ours, "feed_forward", "linear1"))
            linear(f"{theirs}.fc2", (*ours, "feed_forward", "linear2"))
            norm(f"{theirs}.final_layer_norm", (*ours, "norm_feed_forward"))
    return mappings


def from_ctranslate2(tensors: Tensors, source: str) -> Tensors:
    """Return a Whisper's tensors in CTranslate2's model.bin under Hugging Face's names.

    Args:
        tensors: of the file, see `ctranslate2.read_ctranslate2`.
        source: path of the file, for messages.

    Raises:
        UserError: a fused projection cannot be split, the bias of keys is not 0, or the output layer is not the
            embedding.
    """
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 0:  # settings, such as the number of heads
            continue
        if name == "decoder/projection/weight":
            if not np.array_equal(tensor, tensors.get("decoder/embeddings/weight", np.zeros(0))):
                raise UserError(f"{source}: found an output layer of its own, expected the transposed embedding")
            continue
        side, *parts, kind = name.split("/")
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
        prefix, place = f"model.{side}", "/".join(parts)
        if place.startswith("layer_") and len(parts) > 2:
            prefix, place = f"{prefix}.layers.{parts[0].removeprefix('layer_')}", "/".join(parts[1:])
        if place in _FUSED:
            attention, letters = _FUSED[place]
            count = len(letters)
            if len(tensor) % count:
                raise UserError(f"{source}: found {name!r} of shape {tensor.shape}, expected {count} equal parts")
            for letter, part in zip(letters, np.split(np.asarray(tensor), count), strict=True):
                if letter == "k" and kind == "bias":
                    if np.any(part):
                        raise UserError(f"{source}: found a bias of keys in {name!r}, expected 0, as in every Whisper")
                    continue
                renamed[f"{prefix}.{attention}.{letter}_proj.{kind}"] = part
        else:
            renamed[f"{prefix}.{_RENAMED.get(place, place)}.{_KINDS.get(kind, kind)}"] = tensor
    return renamed


_FUSED = {
    "self_attention/linear_0": ("self_attn", "qkv"),
    "attention/linear_0": ("encoder_attn", "q"),
    "attention/linear_1": ("encoder_attn", "kv"),
}
_RENAMED = {
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_KINDS = {"encodings": "weight"}
