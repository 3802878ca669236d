"""Import of state dicts with a torchaudio.models.Conformer, an optional linear input layer and a linear CTC head.

Such a file (torch.save or safetensors) contains neither the input features nor the vocabulary nor the number of
attention heads; `TorchaudioConfig` holds them.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio import presets
from speech_jax.audio.config import AudioConfig
from speech_jax.core.config_dict import from_dict
from speech_jax.core.documents import read_document
from speech_jax.core.errors import UserError
from speech_jax.interop.config import TorchaudioConfig
from speech_jax.interop.conformer_names import DEPTHWISE, LINEAR, POINTWISE, SAME, TensorMapping, import_tensors
from speech_jax.interop.imported import Imported
from speech_jax.interop.parakeet import read_json
from speech_jax.interop.sentencepieces import make_tokenizer, read_sentencepiece
from speech_jax.interop.tensors import Tensors, read_state_dict
from speech_jax.models.config import PlainConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import SPECIAL, Tokenizer

PRESETS = {"nemo": presets.nemo, "kaldi": presets.kaldi, "librosa": presets.librosa, "torch": presets.torch_like,
           "whisper": presets.whisper_like}  # fmt: skip
_FIRST = re.compile(r"^(.*)conformer_layers\.0\.ffn1\.sequential\.1\.weight$")


def is_state_dict(path: str | Path) -> bool:
    """Return True for a .safetensors file or a file that starts as torch's do (zip archive, or pickle before 1.6)."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return False  # the reader that is tried next reports the error


def read_torchaudio(path: str | Path, config: TorchaudioConfig, tensors: Tensors | None = None) -> Imported:
    """Read a CTC recognizer from a state dict, without executing anything in the file.

    Args:
        path: the file.
        config: settings that the file does not contain.
        tensors: of the file, if they were read already.

    Raises:
        UserError: the file is damaged, tensors are missing or left over, or settings are missing.
    """
    path = Path(path)
    tensors = read_state_dict(path) if tensors is None else tensors
    prefix = _prefix(tensors, path)
    _check_config(config, tensors, prefix, path)
    tensors = _split_attention(tensors, path)
    model = _model(tensors, prefix, config, path)
    blank, classes = _blank(tensors, config, path)
    audio, note = _audio(config.features, model.num_features)
    tokenizer = _tokenizer(Path(config.tokens), classes, blank)
    mappings = torchaudio_mappings(model, prefix, config, blank, classes)
    params, model_state, unused = import_tensors(tensors, mappings, str(path), "a torchaudio Conformer")
    ignored = {}
    for name in unused:
        if not name.endswith(".num_batches_tracked"):
            raise UserError(
                f"{path}: found tensor {name!r} with shape {tuple(tensors[name].shape)}, which belongs to "
                f"neither the Conformer nor --head nor --projection"
            )
        ignored[name] = "an unused counter"
    order = "before" if config.convolution_first else "after"
    settings = f"as given by the flags: {model.heads} heads, convolution {order} attention, blank {blank}"
    parts = RecognizerParts(CTCTaskConfig(model=model, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, [note, settings])


def _prefix(tensors: Tensors, path: Path) -> str:
    """Return the prefix of "conformer_layers"."""
    prefixes = [match.group(1) for name in tensors if (match := _FIRST.match(name))]
    if not prefixes:
        folder = ", or the folder of a Hugging Face model" if (path.parent / "config.json").is_file() else ""
        raise UserError(
            f"{path}: found {len(tensors)} tensors of an unknown network, the first {next(iter(tensors), '')[:80]!r}, "
            f"expected a Tacotron 2, a WaveNet or torchaudio's Conformer{folder}"
        )
    if len(prefixes) != 1:
        raise UserError(
            f"{path}: found {len(prefixes)} tensors …conformer_layers.0.ffn1.sequential.1.weight, expected one "
            f"torchaudio.models.Conformer"
        )
    return prefixes[0]


def _check_config(config: TorchaudioConfig, tensors: Tensors, prefix: str, path: Path) -> None:
    """Raise one error that names all missing flags."""
    missing = [f"--{name}" for name in ("heads", "head", "tokens", "features") if not getattr(config, name)]
    if not missing:
        return
    linear = [n.removesuffix(".weight") for n, a in tensors.items()
              if a.ndim == 2 and n.endswith(".weight") and not n.startswith(f"{prefix}conformer_layers.")]  # fmt: skip
    raise UserError(
        f"{path}: found a state dict of torchaudio's Conformer, expected {', '.join(missing)} too, which it does not "
        f"contain (its other linear layers: {', '.join(linear) or 'none'})"
    )


def _split_attention(tensors: Tensors, path: Path) -> Tensors:
    """Split in_proj_weight and in_proj_bias into queries, keys and values."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        kind = name.rpartition("self_attn.in_proj_")[2]
        if kind not in ("weight", "bias") or kind == name:
            split[name] = tensor
            continue
        if tensor.ndim == 0 or len(tensor) % 3:
            raise UserError(f"{path}: found {name!r} with shape {tensor.shape}, expected queries, keys and values")
        for letter, part in zip("qkv", np.split(np.asarray(tensor), 3), strict=True):
            split[f"{name.removesuffix(f'in_proj_{kind}')}{letter}.{kind}"] = part
    return split


def _shape(tensors: Tensors, name: str, dims: int, path: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"{path}: found no tensor {name!r}, expected it in a torchaudio Conformer with its head")
    if tensors[name].ndim != dims:
        raise UserError(f"{path}: found {name!r} with shape {tensors[name].shape}, expected {dims} dimensions")
    return tensors[name].shape


def _model(tensors: Tensors, prefix: str, config: TorchaudioConfig, path: Path) -> PlainConformerConfig:
    layer = f"{prefix}conformer_layers.0."
    hidden, width = _shape(tensors, f"{layer}ffn1.sequential.1.weight", 2, path)
    if config.heads < 1 or width % config.heads:
        raise UserError(f"--heads: found {config.heads}, expected a divisor of the network's width {width}")
    number = re.compile(re.escape(prefix) + r"conformer_layers\.(\d{1,6})\.")
    numbers = {int(match.group(1)) for name in tensors if (match := number.match(name))}
    if numbers != set(range(len(numbers))):
        raise UserError(f"{path}: found layers {sorted(numbers)}, expected 0 to {len(numbers) - 1}")
    inputs = _shape(tensors, f"{config.projection}.weight", 2, path)[1] if config.projection else width
    return PlainConformerConfig(
        num_features=inputs,
        width=width,
        layers=len(numbers),
        heads=config.heads,
        hidden=hidden,
        kernel_size=_shape(tensors, f"{layer}conv_module.sequential.2.weight", 3, path)[2],
        conv_norm="batch" if f"{layer}conv_module.sequential.3.running_mean" in tensors else "group",
        convolution_first=config.convolution_first,
        projection=bool(config.projection),
    )


def _blank(tensors: Tensors, config: TorchaudioConfig, path: Path) -> tuple[int, int]:
    classes = _shape(tensors, f"{config.head}.weight", 2, path)[0]
    blank = classes - 1 if config.blank == -1 else config.blank
    if not 0 <= blank < classes:
        raise UserError(f"--blank: found {config.blank}, expected a class of 0 to {classes - 1}, or -1 for the last")
    return blank, classes


def _audio(features: str, inputs: int) -> tuple[AudioConfig, str]:
    if features in PRESETS:
        audio = dataclasses.replace(PRESETS[features](), num_mels=inputs)
    elif features.endswith(".json"):
        audio = from_dict(AudioConfig, read_json(Path(features)), features)
    else:
        raise UserError(f"--features: found {features!r}, expected one of {', '.join(PRESETS)}, or a .json file")
    if audio.width != inputs:
        raise UserError(f"--features: found {audio.width} features, expected the network's {inputs} inputs")
    note = f"features: {features}, {audio.width} per frame at {audio.sample_rate} Hz, as given by --features"
    return audio, note


def _tokenizer(path: Path, classes: int, blank: int) -> Tokenizer:
    """Read the classes of the head as tokens, the blank first."""
    data = read_document(path, "a token file")
    if path.suffix == ".model":
        tokenizer = read_sentencepiece(data, str(path))
        if tokenizer.vocab_size != classes:
            raise UserError(
                f"{path}: found {tokenizer.vocab_size - 1} pieces, expected {classes - 1} without the blank"
            )
        return tokenizer
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found {error}, expected text in UTF-8, or a sentencepiece .model") from error
    if len(lines) == classes:
        del lines[blank]
    if len(lines) != classes - 1:
        raise UserError(f"{path}: found {len(lines)} tokens, expected {classes}, or {classes - 1} without the blank")
    pieces = [" " if line in ("|", "<space>") else line for line in (line.rstrip("\r") for line in lines)]
    for number, piece in enumerate(pieces, 1):
        if len(piece) != 1 and piece not in SPECIAL:
            raise UserError(f"{path}: found token {piece!r} ({number}), expected single characters")
    return make_tokenizer(path, "char", pieces)


def torchaudio_mappings(
    model: PlainConformerConfig, prefix: str, config: TorchaudioConfig, blank: int, classes: int
) -> list[TensorMapping]:
    """Return the mappings of all tensors, with the attention's projections split.

    Args:
        model: the network.
        prefix: prefix of "conformer_layers" in tensor names.
        config: names of the linear layers.
        blank: class of the blank in the file; it becomes class 0.
        classes: number of classes.
    """
    mappings: list[TensorMapping] = []

    def add(theirs: str, ours: tuple[str, ...], layout=SAME, *, root: str = "params") -> None:
        mappings.append(TensorMapping(theirs, (root, *ours), *layout))

    def linear(theirs: str, ours: tuple[str, ...], layout=LINEAR) -> None:
        add(f"{theirs}.weight", (*ours, "kernel"), layout)
        add(f"{theirs}.bias", (*ours, "bias"))

    def norm(theirs: str, ours: tuple[str, ...]) -> None:
        add(f"{theirs}.weight", (*ours, "scale"))
        add(f"{theirs}.bias", (*ours, "bias"))

    if config.projection:
        linear(config.projection, ("encoder", "projection"))
    for i in range(model.layers):
        theirs, ours = f"{prefix}conformer_layers.{i}", ("encoder", f"layers_{i}")
        for n in (1, 2):
            norm(f"{theirs}.ffn{n}.sequential.0", (*ours, f"norm_feed_forward{n}"))
            linear(f"{theirs}.ffn{n}.sequential.1", (*ours, f"feed_forward{n}", "linear1"))
            linear(f"{theirs}.ffn{n}.sequential.4", (*ours, f"feed_forward{n}", "linear2"))
        norm(f"{theirs}.self_attn_layer_norm", (*ours, "norm_self_att"))
        for letter in "qkv":
            linear(f"{theirs}.self_attn.{letter}", (*ours, "self_attn", f"linear_{letter}"))
        linear(f"{theirs}.self_attn.out_proj", (*ours, "self_attn", "linear_out"))
        conv = f"{theirs}.conv_module"
        norm(f"{conv}.layer_norm", (*ours, "norm_conv"))
        linear(f"{conv}.sequential.0", (*ours, "conv", "pointwise_conv1"), POINTWISE)
        linear(f"{conv}.sequential.2", (*ours, "conv", "depthwise_conv"), DEPTHWISE)
        norm(f"{conv}.sequential.3", (*ours, "conv", "norm"))
        if model.conv_norm == "batch":
            for their_name, name in (("running_mean", "mean"), ("running_var", "var")):
                add(f"{conv}.sequential.3.{their_name}", (*ours, "conv", "norm", name), root="batch_stats")
        linear(f"{conv}.sequential.5", (*ours, "conv", "pointwise_conv2"), POINTWISE)
        norm(f"{theirs}.final_layer_norm", (*ours, "norm_out"))

    order = [blank, *(i for i in range(classes) if i != blank)]
    inverse = np.argsort(order)
    add(f"{config.head}.weight", ("head", "kernel"), (lambda a: a[order].T, lambda a: a.T[inverse]))
    add(f"{config.head}.bias", ("head", "bias"), (lambda a: a[order], lambda a: a[inverse]))
    return mappings
