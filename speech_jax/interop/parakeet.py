"""Hugging Face Parakeet-CTC folders (transformers 5), read and written: NeMo's FastConformer-CTC with other names.

A folder has config.json, model.safetensors (or parts with an index), preprocessor_config.json and tokenizer.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nemo as nemo_audio
from speech_jax.core.errors import UserError
from speech_jax.interop.conformer_names import params_from_nemo, params_to_nemo
from speech_jax.interop.imported import Imported
from speech_jax.interop.tensors import Tensors, read_safetensors, write_safetensors
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import BLANK, WORD_START, Tokenizer

_MAX_JSON = 64 << 20
_NAMES = (  # substrings of names: (Parakeet, NeMo)
    ("encoder.subsampling.layers.", "encoder.pre_encode.conv."),
    ("encoder.subsampling.linear.", "encoder.pre_encode.out."),
    *((f".self_attn.{n}_proj.", f".self_attn.linear_{n}.") for n in "qkv"),
    (".self_attn.o_proj.", ".self_attn.linear_out."),
    (".self_attn.relative_k_proj.", ".self_attn.linear_pos."),
    *((f".self_attn.bias_{n}", f".self_attn.pos_bias_{n}") for n in "uv"),
    (".conv.norm.", ".conv.batch_norm."),
    ("ctc_head.", "decoder.decoder_layers.0."),
)


def _nemo_name(name: str) -> str:
    for parakeet, nemo in _NAMES:
        name = name.replace(parakeet, nemo)
    return name


def _parakeet_name(name: str) -> str:
    for parakeet, nemo in _NAMES:
        name = name.replace(nemo, parakeet)
    return name


# ---- Import


def read_parakeet(folder: str | Path) -> Imported:
    """Read a Parakeet-CTC from its folder.

    Args:
        folder: as transformers saves it.

    Raises:
        UserError: a file is damaged, or the network is not one that we compute exactly.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if config.get("model_type") != "parakeet_ctc":
        kind = config.get("model_type")
        raise UserError(f"{folder / 'config.json'}: found model_type {kind!r}, expected parakeet_ctc")
    tensors = {_nemo_name(name): a for name, a in read_weights(folder).items()}
    model = _model(config, folder)
    audio = _audio(read_json(folder / "preprocessor_config.json"), model, folder)
    blank = config.get("pad_token_id", 1024)
    tokenizer = read_tokenizer_json(folder / "tokenizer.json", config.get("vocab_size", 1025), blank)
    params, model_state, unused = params_from_nemo(tensors, model, str(folder))
    ignored = {}
    for name in unused:
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensors[name].shape)
            raise UserError(f"{folder}: found tensor {name!r} with shape {shape}, which the network does not have")
        ignored[name] = "an unused counter"
    notes = ["features: NeMo's front end 2, as transformers computes them"]
    parts = RecognizerParts(CTCTaskConfig(model=model, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, notes)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError if the file holds none."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise UserError(f"{path}: found {path.stat().st_size} bytes, expected a JSON file of at most {_MAX_JSON}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: found no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: found JSON of type {type(value).__name__}, expected an object")
    return value


def read_weights(folder: Path) -> Tensors:
    """Read model.safetensors, or the parts that model.safetensors.index.json lists."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return read_safetensors(whole)
    parts = sorted(set(map(str, read_json(index).get("weight_map", {}).values())))
    tensors: Tensors = {}
    for part in parts:
        if Path(part).name != part:
            raise UserError(f"{index}: found {part!r}, expected the name of a file in the folder")
        for name, tensor in read_safetensors(folder / part).items():
            if name in tensors:
                raise UserError(f"{folder / part}: found tensor {name!r} again, expected it once")
            tensors[name] = tensor
    return tensors


def _model(config: dict[str, Any], folder: Path) -> ConformerConfig:
    encoder = config.get("encoder_config")
    if not isinstance(encoder, dict):
        raise UserError(f"{folder / 'config.json'}: found no encoder_config, expected that of a Parakeet")
    where = f"{folder / 'config.json'}: encoder_config"

    def expect(name: str, supported: Any) -> None:
        if encoder.get(name, supported) != supported:
            raise UserError(f"{where}.{name}: found {encoder[name]!r}, expected {supported!r}")

    width = encoder.get("hidden_size", 1024)
    use_bias = encoder.get("attention_bias", True)
    for name, supported in (("hidden_act", "silu"), ("convolution_bias", use_bias), ("subsampling_conv_kernel_size", 3),
                         ("subsampling_conv_stride", 2)):  # fmt: skip
        expect(name, supported)
    factor = encoder.get("subsampling_factor", 8)
    if factor not in (4, 8):
        raise UserError(f"{where}.subsampling_factor: found {factor}, expected 4 or 8")
    hidden = encoder.get("intermediate_size", 4096)
    if hidden % width:
        raise UserError(f"{where}.intermediate_size: found {hidden}, expected a multiple of hidden_size {width}")
    channels = encoder.get("subsampling_conv_channels", 256)
    dropout = encoder.get("dropout", 0.1)
    return ConformerConfig(
        num_features=encoder.get("num_mel_bins", 80),
        width=width,
        layers=encoder.get("num_hidden_layers", 24),
        heads=encoder.get("num_attention_heads", 8),
        feed_forward_multiple=hidden // width,
        kernel_size=encoder.get("conv_kernel_size", 9),
        subsampling="dw_striding",
        subsampling_factor=factor,
        subsampling_channels=0 if channels == width else channels,
        use_bias=use_bias,
        xscaling=encoder.get("scale_input", True),
        dropout=dropout,
        dropout_pre_encoder=dropout,
        dropout_emb=encoder.get("dropout_positions", 0.0),
        dropout_att=encoder.get("attention_dropout", 0.1),
    )


def _audio(config: dict[str, Any], model: ConformerConfig, folder: Path) -> AudioConfig:
    audio = dataclasses.replace(
        nemo_audio(2),
        sample_rate=config.get("sampling_rate", 16000),
        window=config.get("win_length", 400),
        hop=config.get("hop_length", 160),
        n_fft=config.get("n_fft", 512),
        num_mels=config.get("feature_size", 80),
        pre_emphasis=config.get("preemphasis", 0.97),
    )
    if audio.num_mels != model.num_features:
        raise UserError(f"{folder}: found {audio.num_mels} features for {model.num_features} inputs, expected as many")
    return audio


def read_tokenizer_json(path: Path, vocab_size: int, blank: int) -> Tokenizer:
    """Read a tokenizer.json of type BPE or Unigram with sentencepiece's pieces (U+2581 for a space).

    Args:
        path: the file.
        vocab_size: classes of the head, the blank included.
        blank: class of the blank; it must be the last.

    Raises:
        UserError: the tokenizer is of another type, or its ids do not match the head.
    """
    model = read_json(path).get("model", {})
    kind = model.get("type")
    if blank != vocab_size - 1:
        raise UserError(f"{path}: found the blank (pad_token_id) at {blank} of {vocab_size}, expected it last")
    try:
        if kind == "Unigram":
            pieces = {str(p): (i, float(s)) for i, (p, s) in enumerate(model["vocab"])}
        elif kind == "BPE":
            ranks: dict[str, int] = {}
            for rank, merge in enumerate(model["merges"]):
                left, right = merge.split(" ") if isinstance(merge, str) else merge
                ranks.setdefault(left + right, rank)
            pieces = {str(p): (int(i), -float(ranks.get(p, len(ranks)))) for p, i in model["vocab"].items()}
        else:
            raise UserError(f"{path}: found a tokenizer of type {kind!r}, expected BPE or Unigram")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: found a vocabulary that cannot be read ({error})") from error
    by_id = {i: (piece, score) for piece, (i, score) in pieces.items() if i != blank}
    if sorted(by_id) != list(range(blank)):
        raise UserError(f"{path}: found {len(by_id)} pieces, expected the ids 0 to {blank - 1}")
    ordered = [by_id[i] for i in range(blank)]
    return Tokenizer(
        "bpe" if kind == "BPE" else "unigram", (BLANK, *(p for p, _ in ordered)), (0.0, *(s for _, s in ordered))
    )  # fmt: skip


# ---- Export


def write_parakeet(out: str | Path, task: CTCTaskConfig, tokenizer: Tokenizer, params, model_state) -> None:
    """Write a folder that transformers' ParakeetForCTC and AutoProcessor load.

    Args:
        out: the folder to write; new or empty.
        task: network and audio settings.
        tokenizer: of kind bpe or unigram.
        params: parameters.
        model_state: batch statistics.

    Raises:
        UserError: Parakeet does not have this network, these features or this kind of tokenizer.
    """
    model, audio, out = task.model, task.audio, Path(out)
    if not isinstance(model, ConformerConfig) or (model.subsampling, model.conv_norm) != ("dw_striding", "batch"):
        raise UserError("convert: found a network that Parakeet does not have, expected dw_striding and batch norm")
    free = ("sample_rate", "window", "hop", "n_fft", "num_mels", "pre_emphasis", "dither")
    if dataclasses.replace(audio, **{n: getattr(nemo_audio(2), n) for n in free}) != nemo_audio(2):
        raise UserError("convert: found features that Parakeet does not compute, expected audio.presets.nemo(2)")
    if tokenizer.kind == "char":
        raise UserError("convert: found a tokenizer of characters, expected bpe or unigram for Parakeet")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: found files, expected an empty or a new folder")
    tensors = {_parakeet_name(name): a for name, a in params_to_nemo(params, model_state, model).items()}
    blank = tokenizer.vocab_size - 1
    encoder = {
        "model_type": "parakeet_encoder", "hidden_size": model.width, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "intermediate_size": model.width * model.feed_forward_multiple,
        "hidden_act": "silu", "attention_bias": model.use_bias, "convolution_bias": model.use_bias,
        "conv_kernel_size": model.kernel_size, "subsampling_factor": model.subsampling_factor,
        "subsampling_conv_channels": model.subsampling_channels or model.width, "num_mel_bins": model.num_features,
        "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2, "dropout": model.dropout,
        "dropout_positions": model.dropout_emb, "layerdrop": 0.0, "activation_dropout": model.dropout,
        "attention_dropout": model.dropout_att, "scale_input": model.xscaling,
    }  # fmt: skip
    config = {
        "architectures": ["ParakeetForCTC"], "model_type": "parakeet_ctc", "vocab_size": tokenizer.vocab_size,
        "pad_token_id": blank, "ctc_zero_infinity": True, "encoder_config": encoder,
    }  # fmt: skip
    features = {
        "feature_extractor_type": "ParakeetFeatureExtractor", "processor_class": "ParakeetProcessor",
        "feature_size": audio.num_mels, "sampling_rate": audio.sample_rate, "hop_length": audio.hop,
        "n_fft": audio.n_fft, "win_length": audio.window, "preemphasis": audio.pre_emphasis, "padding_value": 0.0,
        "padding_side": "right", "return_attention_mask": True,
    }  # fmt: skip
    names = {"tokenizer_class": "ParakeetTokenizer", "processor_class": "ParakeetProcessor", "pad_token": "<pad>",
             "unk_token": "<unk>"}  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    files = {"config": config, "preprocessor_config": features, "tokenizer_config": names}
    for name, content in (files | {"tokenizer": _tokenizer_json(tokenizer)}).items():
        (out / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_safetensors(out / "model.safetensors", tensors)


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    pieces, scores = tokenizer.pieces[1:], tokenizer.scores[1:]
    blank = len(pieces)
    if tokenizer.kind == "unigram":
        unknown = pieces.index("<unk>") if "<unk>" in pieces else None
        vocab = [[p, s] for p, s in zip(pieces, scores, strict=True)] + [["<pad>", -1e4]]
        model = {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": False}
    else:
        vocabulary = set(pieces)
        order = sorted((i for i, p in enumerate(pieces) if len(p) > 1), key=lambda i: -scores[i])
        merges = [[p[:k], p[k:]] for i in order for p in [pieces[i]] for k in range(1, len(p))
                  if p[:k] in vocabulary and p[k:] in vocabulary]  # fmt: skip
        vocab = {p: i for i, p in enumerate(pieces)} | {"<pad>": blank}
        model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": None, "byte_fallback": False}
    metaspace = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True}
    added = {"id": blank, "content": "<pad>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added], "normalizer": None,
            "pre_tokenizer": metaspace, "post_processor": None, "decoder": metaspace, "model": model}  # fmt: skip
