"""Hugging Face Parakeet-CTC folders (transformers 5), read and written: NeMo's FastConformer-CTC with other names.

A folder has config.json, weights (`read_weights`), preprocessor_config.json or, since transformers 5,
processor_config.json, and tokenizer.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nemo as nemo_audio
from speech_jax.core.documents import read_json
from speech_jax.core.errors import UserError
from speech_jax.interop.conformer_names import params_from_nemo, params_to_nemo
from speech_jax.interop.imported import Imported
from speech_jax.interop.sentencepieces import make_tokenizer
from speech_jax.interop.settings import MAX_FEATURES, MAX_LAYERS, Settings
from speech_jax.interop.tensors import Tensors, read_safetensors, read_torch, write_safetensors
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import WORD_START, Tokenizer

_NO_INFLUENCE = (  # losses, initialization, and bookkeeping of frameworks
    "architectures", "model_type", "ctc_loss_reduction", "ctc_zero_infinity", "initializer_range", "dtype",
    "torch_dtype", "transformers_version", "bos_token_id", "eos_token_id", "is_encoder_decoder", "tie_word_embeddings",
    "return_dict", "output_attentions", "output_hidden_states", "use_cache", "problem_type", "id2label", "label2id",
    "chunk_size_feed_forward", "_name_or_path", "_attn_implementation", "_commit_hash",
)  # fmt: skip
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
    path, notes = folder / "config.json", ["features: NeMo's front end 2, as transformers computes them"]
    settings = Settings(config, "", path)
    classes = settings.integer("vocab_size", 1025)
    blank = settings.integer("pad_token_id", 1024, least=0)
    settings.drop(*_NO_INFLUENCE)
    encoder = settings.take("encoder_config")
    settings.finish()
    if not isinstance(encoder, dict):
        raise UserError(f"{path}: found no encoder_config, expected that of a Parakeet")
    model = _model(Settings(encoder, "encoder_config.", path), notes)
    audio = _audio(feature_settings(folder), model)
    tokenizer = read_tokenizer_json(folder / "tokenizer.json", classes, blank)
    tensors = {_nemo_name(name): a for name, a in read_weights(folder).items()}
    params, model_state, unused = params_from_nemo(tensors, model, str(folder))
    ignored = {}
    for name in unused:
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensors[name].shape)
            raise UserError(f"{folder}: found tensor {name!r} with shape {shape}, which the network does not have")
        ignored[name] = "an unused counter"
    parts = RecognizerParts(CTCTaskConfig(model=model, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, notes)


def read_weights(folder: Path) -> Tensors:
    """Read model.safetensors or pytorch_model.bin, or the parts that such a file's index lists.

    The first that is there is read, in transformers' order: safetensors before torch, whole files before parts.
    """
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch)):
        if (folder / name).is_file():
            return read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_parts(folder / f"{name}.index.json", read)
    return read_safetensors(folder / "model.safetensors")  # which reports that there is none


def _read_parts(index: Path, read: Callable[[Path], Tensors]) -> Tensors:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(part, str) for part in names.values()):
        raise UserError(f"{index}: found no weight_map, expected the file of each tensor")
    tensors: Tensors = {}
    for part in sorted(set(names.values())):
        if Path(part).name != part:
            raise UserError(f"{index}: found {part!r}, expected the name of a file in the folder")
        for name, tensor in read(index.parent / part).items():
            if name in tensors:
                raise UserError(f"{index.parent / part}: found tensor {name!r} again, expected it once")
            tensors[name] = tensor
    missing = next((name for name in names if name not in tensors), None)
    if missing is not None:
        raise UserError(f"{index}: found no tensor {missing!r} in the files that it lists, expected it there")
    return tensors


def feature_settings(folder: Path) -> Settings:
    """Return the settings of the features, which transformers 5 writes into processor_config.json.

    Args:
        folder: the model's. Where it has preprocessor_config.json too, transformers before 5 reads that.

    Raises:
        UserError: both files have settings, and one differs.
    """
    old, new = folder / "preprocessor_config.json", folder / "processor_config.json"
    content = read_json(new) if new.is_file() else {}
    section = content.get("feature_extractor", content.get("audio_processor"))  # the first, or its later name
    if section is None:
        return Settings(read_json(old), "", old)
    if not isinstance(section, dict):
        raise UserError(f"{new}: found feature_extractor of type {type(section).__name__}, expected an object")
    for name, value in (read_json(old) if old.is_file() else {}).items():
        if name != "processor_class" and section.get(name) != value:
            Settings({}, "", old).refuse(name, value, f"{section.get(name)!r}, as in {new.name}")
    return Settings(section, "feature_extractor.", new)


def _model(settings: Settings, notes: list[str]) -> ConformerConfig:
    integer = settings.integer
    width, heads = integer("hidden_size", 1024), integer("num_attention_heads", 8)
    hidden, channels = integer("intermediate_size", 4096), integer("subsampling_conv_channels", 256)
    if hidden % width:
        settings.refuse("intermediate_size", hidden, f"a multiple of hidden_size {width}")
    use_bias = settings.flag("attention_bias", True)
    dropout = settings.number("dropout", 0.1, most=1)
    settings.expect(
        convolution_bias=use_bias, subsampling_conv_kernel_size=3, subsampling_conv_stride=2,
        hidden_act=("silu", "swish"), num_key_value_heads=(heads, None), head_dim=(None, width // heads),
    )  # fmt: skip
    try:
        model = ConformerConfig(
            num_features=integer("num_mel_bins", 80, most=MAX_FEATURES),
            width=width,
            layers=integer("num_hidden_layers", 24, most=MAX_LAYERS),
            heads=heads,
            feed_forward_multiple=hidden // width,
            kernel_size=integer("conv_kernel_size", 9),
            subsampling="dw_striding",
            subsampling_factor=settings.choice("subsampling_factor", 8, 4),
            subsampling_channels=0 if channels == width else channels,
            use_bias=use_bias,
            xscaling=settings.flag("scale_input", True),
            dropout=dropout,
            dropout_pre_encoder=dropout,
            dropout_emb=settings.number("dropout_positions", 0.0, most=1),
            dropout_att=settings.number("attention_dropout", 0.1, most=1),
        )
    except UserError as error:
        raise settings.located(error, "") from error
    settings.number("activation_dropout", 0.1, most=1)
    notes += [f"training: {setting} is left out" for setting in settings.drop_for_training("layerdrop")]
    settings.drop("max_position_embeddings", *_NO_INFLUENCE)
    settings.finish()
    return model


def _audio(settings: Settings, model: ConformerConfig) -> AudioConfig:
    settings.expect(feature_extractor_type=("ParakeetFeatureExtractor", None))
    try:
        audio = dataclasses.replace(
            nemo_audio(2),
            sample_rate=settings.integer("sampling_rate", 16000),
            window=settings.integer("win_length", 400),
            hop=settings.integer("hop_length", 160),
            n_fft=settings.integer("n_fft", 512, most=1 << 16),
            num_mels=settings.integer("feature_size", 80, most=MAX_FEATURES),
            pre_emphasis=settings.number("preemphasis", 0.97, least=-1, most=1, null=0),
        )
    except UserError as error:
        raise settings.located(error, "as ") from error
    if audio.num_mels != model.num_features:
        settings.refuse("feature_size", audio.num_mels, f"num_mel_bins {model.num_features}")
    settings.drop("padding_value", "padding_side", "return_attention_mask", "processor_class")
    settings.finish()
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
    content = read_json(path)
    model, decoder = content.get("model"), content.get("decoder")
    if not isinstance(model, dict):
        raise UserError(f"{path}: found no model, expected that of a tokenizer")
    if isinstance(decoder, dict) and decoder.get("type") not in ("Metaspace", "Sequence"):
        raise UserError(f"{path}: found a decoder of type {decoder.get('type')!r}, expected 'Metaspace'")
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
    if len(by_id) != blank or sorted(by_id) != list(range(blank)):
        raise UserError(f"{path}: found {len(by_id)} pieces, expected the ids 0 to {blank - 1}")
    ordered = [by_id[i] for i in range(blank)]
    return make_tokenizer(path, "bpe" if kind == "BPE" else "unigram", *map(list, zip(*ordered, strict=True)))


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
