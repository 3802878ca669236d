"""Import of Hugging Face folders of wav2vec 2.0 and Wav2Vec2-Conformer with a CTC head.

These are the classes Wav2Vec2ForCTC and Wav2Vec2ConformerForCTC.

A folder has config.json, weights (`parakeet.read_weights`), preprocessor_config.json or, since transformers 5,
processor_config.json, and vocab.json. It may have tokenizer_config.json, special_tokens_map.json and added_tokens.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import waveform
from speech_jax.core.errors import UserError
from speech_jax.interop.conformer_names import DEPTHWISE, LINEAR, POINTWISE, SAME, TensorMapping, import_tensors
from speech_jax.interop.imported import Imported
from speech_jax.interop.parakeet import feature_settings, read_json, read_weights
from speech_jax.interop.settings import MAX_LAYERS, REQUIRED, Settings
from speech_jax.interop.tensors import Tensors
from speech_jax.models.config import Activation, Wav2Vec2Config
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import BLANK, Tokenizer

PREFIXES = {
    "wav2vec2": "wav2vec2.",
    "wav2vec2-conformer": "wav2vec2_conformer.",
}  # model_type -> prefix of tensor names
_PRETRAINING = ("quantizer.", "project_q.", "project_hid.")
_POSITION_CONV = "encoder.pos_conv_embed.conv."
_CONV1D = (lambda a: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))
_NO_INFLUENCE = (
    # pre-training loss, other heads, reduction of losses, initialization, and bookkeeping of frameworks
    "num_codevectors_per_group", "num_codevector_groups", "contrastive_logits_temperature", "num_negatives",
    "codevector_dim", "proj_codevector_dim", "diversity_loss_weight", "feat_quantizer_dropout", "ctc_loss_reduction",
    "ctc_zero_infinity", "use_weighted_layer_sum", "classifier_proj_size", "tdnn_dim", "tdnn_kernel", "tdnn_dilation",
    "xvector_output_dim", "adapter_kernel_size", "adapter_stride", "num_adapter_layers", "initializer_range",
    "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "architectures", "transformers_version",
    "torch_dtype", "dtype", "gradient_checkpointing", "tokenizer_class", "processor_class", "feature_extractor_type",
    "id2label", "label2id", "problem_type", "finetuning_task", "max_source_positions", "tie_word_embeddings",
    "return_dict", "output_attentions", "output_hidden_states", "use_cache", "_name_or_path", "_attn_implementation",
    "_commit_hash", "mask_time_min_masks", "mask_feature_min_masks", "mask_channel_length", "mask_channel_prob",
    "mask_channel_min_space", "mask_channel_other", "mask_channel_selection", "mask_time_min_space", "mask_time_other",
    "mask_time_selection", "feat_extract_dropout", "hidden_dropout_prob", "output_hidden_size", "auto_map",
    "language_model", "model_type",
)  # fmt: skip


def read_wav2vec2(folder: str | Path, lower_case: bool = False) -> Imported:
    """Read a CTC recognizer from its folder.

    Args:
        folder: as transformers saves it.
        lower_case: convert the vocabulary to lower case.

    Raises:
        UserError: a file is damaged, or the network is not one that we compute exactly.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in PREFIXES:
        raise UserError(f"{folder / 'config.json'}: found model_type {kind!r}, expected {' or '.join(PREFIXES)}")
    settings = Settings(config, "", folder / "config.json")
    classes = settings.integer("vocab_size", REQUIRED if kind == "wav2vec2-conformer" else 32)
    blank = settings.integer("pad_token_id", 0, least=0, most=classes - 1)
    model = _model(settings, kind)
    audio = _audio(folder)
    tokenizer, notes = read_vocabulary(folder, classes, blank, lower_case)

    tensors = {_parametrization_name(name): a for name, a in read_weights(folder).items()}
    if "lm_head.weight" not in tensors:
        architectures = config.get("architectures")
        raise UserError(
            f"{folder}: found no CTC head (lm_head.weight) in a model of {architectures}, expected one …ForCTC"
        )
    if model.layers > len(tensors):
        raise UserError(f"{folder}: found {len(tensors)} tensors for {model.layers} layers, expected more")
    prefix = PREFIXES[kind]
    ignored = _remove_unused(tensors, prefix, model, config, folder)
    _fold_weight_norm(tensors, prefix + _POSITION_CONV, folder)
    if prefix + "masked_spec_embed" not in tensors:
        like = tensors.get(prefix + "encoder.layer_norm.bias", np.zeros(0))
        tensors[prefix + "masked_spec_embed"] = np.zeros(like.shape, np.float32)
        notes.append("the file has no masked_spec_embed: the mask vector of latent frames in training starts at 0")
    mappings = wav2vec2_mappings(model, prefix, blank, classes)
    params, model_state, unused = import_tensors(tensors, mappings, str(folder), f"a {kind}")
    for name in unused:
        raise UserError(
            f"{folder}: found tensor {name!r} with shape {tuple(tensors[name].shape)}, which the network does not have"
        )
    parts = RecognizerParts(CTCTaskConfig(model=model, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, notes)


# ---- Tensors


def _parametrization_name(name: str) -> str:
    """Return the names of weight norm since torch 2.1 for those of earlier versions."""
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        if name.endswith(_POSITION_CONV + old):
            return name.removesuffix(old) + new
    return name


def _fold_weight_norm(tensors: Tensors, prefix: str, folder: Path) -> None:
    """Replace g and v by weight = g · v / |v|, with the norm of each tap over all channels (weight_norm, dim=2).

    Fine-tuning then updates the weight itself, while transformers updates its length and direction.
    """
    names = [f"{prefix}parametrizations.weight.original{i}" for i in (0, 1)]
    if not all(name in tensors for name in names):
        return
    g, v = (np.asarray(tensors.pop(name), np.float64) for name in names)
    if v.ndim != 3 or g.shape != (1, 1, v.shape[2]):
        raise UserError(f"{folder}: found {names[0]} with shape {g.shape} for {v.shape}, expected (1, 1, taps)")
    tensors[f"{prefix}weight"] = (g * v / np.sqrt(np.square(v).sum(axis=(0, 1), keepdims=True))).astype(np.float32)


def _remove_unused(tensors: Tensors, prefix: str, model: Wav2Vec2Config, config: dict, folder: Path) -> dict[str, str]:
    """Remove unused tensors in place; return their names with the reasons."""
    ignored = {}
    for name in list(tensors):
        if name.removeprefix(prefix).startswith(_PRETRAINING):
            ignored[name] = "used by the pre-training loss only"
        elif name.endswith(".num_batches_tracked"):
            ignored[name] = "an unused counter"
        elif model.block == "conformer" and name.startswith(prefix + _POSITION_CONV):
            ignored[name] = "a convolution that Wav2Vec2-Conformer never calls"
        elif name == prefix + "encoder.embed_positions.inv_freq":
            half = model.width // model.heads // 2
            same = tensors[name].shape == (half,)  # first, so that a wrong config allocates nothing
            if not same or not np.allclose(tensors[name], model.rotary_base ** -(np.arange(half) / half), rtol=1e-5):
                raise UserError(
                    f"{folder}: found other rotary positions in {name!r}, expected those of rotary_embedding_base"
                )
            ignored[name] = "computed from rotary_embedding_base"
    for name in ignored:
        del tensors[name]
    return ignored


def wav2vec2_mappings(config: Wav2Vec2Config, prefix: str, blank: int, classes: int) -> list[TensorMapping]:
    """Return the mappings of all tensors, with weight norm folded.

    Args:
        config: the network.
        prefix: prefix of tensor names.
        blank: class of the blank in the file; it becomes class 0.
        classes: number of classes.
    """
    mappings: list[TensorMapping] = []
    order = [blank, *(i for i in range(classes) if i != blank)]

    def add(theirs: str, ours: tuple[str, ...], layout=SAME, *, root: str = "params") -> None:
        mappings.append(TensorMapping(theirs, (root, *ours), *layout))

    def linear(theirs: str, ours: tuple[str, ...], layout=LINEAR, *, bias: bool = True) -> None:
        add(f"{theirs}.weight", (*ours, "kernel"), layout)
        if bias:
            add(f"{theirs}.bias", (*ours, "bias"))

    def norm(theirs: str, ours: tuple[str, ...]) -> None:
        add(f"{theirs}.weight", (*ours, "scale"))
        add(f"{theirs}.bias", (*ours, "bias"))

    top = ("encoder",)
    for i in range(len(config.conv_width)):
        theirs = f"{prefix}feature_extractor.conv_layers.{i}"
        linear(f"{theirs}.conv", (*top, "features", f"conv{i}"), _CONV1D, bias=config.conv_bias)
        if i == 0 or config.conv_norm == "layer":
            norm(f"{theirs}.layer_norm", (*top, "features", f"norm{i}"))
    norm(f"{prefix}feature_projection.layer_norm", (*top, "projection_norm"))
    linear(f"{prefix}feature_projection.projection", (*top, "projection"))
    add(f"{prefix}masked_spec_embed", (*top, "mask_vector"))
    norm(f"{prefix}encoder.layer_norm", (*top, "norm"))
    if config.block == "transformer":
        linear(f"{prefix}{_POSITION_CONV[:-1]}", (*top, "position_conv"), _CONV1D)

    for i in range(config.layers):
        theirs, ours = f"{prefix}encoder.layers.{i}", (*top, f"layers_{i}")
        if config.block == "transformer":
            for name in "q", "k", "v", "out":
                linear(f"{theirs}.attention.{name}_proj", (*ours, "self_attn", f"linear_{name}"))
            forwards = {"feed_forward": "feed_forward"}
            norms = {"layer_norm": "norm_self_att", "final_layer_norm": "norm_feed_forward"}
        else:
            for name in "q", "k", "v", "out":
                linear(f"{theirs}.self_attn.linear_{name}", (*ours, "self_attn", f"linear_{name}"))
            if config.positions == "relative":
                linear(f"{theirs}.self_attn.linear_pos", (*ours, "self_attn", "linear_pos"), bias=False)
                for name in ("pos_bias_u", "pos_bias_v"):
                    add(f"{theirs}.self_attn.{name}", (*ours, "self_attn", name))
            conv = f"{theirs}.conv_module"
            for name in ("pointwise_conv1", "pointwise_conv2"):
                linear(f"{conv}.{name}", (*ours, "conv", name), POINTWISE, bias=False)
            linear(f"{conv}.depthwise_conv", (*ours, "conv", "depthwise_conv"), DEPTHWISE, bias=False)
            norm(f"{conv}.batch_norm", (*ours, "conv", "norm"))
            for their_name, name in (("running_mean", "mean"), ("running_var", "var")):
                add(f"{conv}.batch_norm.{their_name}", (*ours, "conv", "norm", name), root="batch_stats")
            forwards = {"ffn1": "feed_forward1", "ffn2": "feed_forward2"}
            norms = {"ffn1_layer_norm": "norm_feed_forward1", "self_attn_layer_norm": "norm_self_att",
                     "conv_module.layer_norm": "norm_conv", "ffn2_layer_norm": "norm_feed_forward2",
                     "final_layer_norm": "norm_out"}  # fmt: skip
        for their_name, name in forwards.items():
            linear(f"{theirs}.{their_name}.intermediate_dense", (*ours, name, "linear1"))
            linear(f"{theirs}.{their_name}.output_dense", (*ours, name, "linear2"))
        for their_name, name in norms.items():
            norm(f"{theirs}.{their_name}", (*ours, name))

    inverse = np.argsort(order)
    add("lm_head.weight", ("head", "kernel"), (lambda a: a[order].T, lambda a: a.T[inverse]))
    add("lm_head.bias", ("head", "bias"), (lambda a: a[order], lambda a: a[inverse]))
    return mappings


# ---- Settings


def _model(settings: Settings, kind: str) -> Wav2Vec2Config:
    integer, number, conformer = settings.integer, settings.number, kind == "wav2vec2-conformer"
    masks = settings.flag("apply_spec_augment", True)
    mask_time, mask_channels = number("mask_time_prob", 0.05, most=1), number("mask_feature_prob", 0.0, most=1)
    values = {
        "block": "conformer" if conformer else "transformer",
        "width": integer("hidden_size", 768),
        "layers": integer("num_hidden_layers", 12, most=MAX_LAYERS),
        "heads": integer("num_attention_heads", 12),
        "hidden": integer("intermediate_size", 3072),
        "conv_width": settings.integers("conv_dim", Wav2Vec2Config.conv_width),
        "conv_kernel": settings.integers("conv_kernel", Wav2Vec2Config.conv_kernel),
        "conv_stride": settings.integers("conv_stride", Wav2Vec2Config.conv_stride),
        "conv_bias": settings.flag("conv_bias", False),
        "conv_norm": settings.choice("feat_extract_norm", "group", "layer"),
        "conv_activation": _activation(settings, "feat_extract_activation"),
        "activation": _activation(settings, "hidden_act"),
        "eps": number("layer_norm_eps", 1e-5, least=1e-12, most=1),
        "dropout": number("hidden_dropout", 0.1, most=1),
        "dropout_hidden": number("activation_dropout", 0.1, most=1),
        "dropout_att": number("attention_dropout", 0.1, most=1),
        "dropout_projection": number("feat_proj_dropout", 0.0, most=1),
        "dropout_final": number("final_dropout", 0.1, most=1),
        "layer_drop": number("layerdrop", 0.1, most=1),
        "mask_time": mask_time if masks else 0.0,
        "mask_time_span": integer("mask_time_length", 10),
        "mask_channels": mask_channels if masks else 0.0,
        "mask_channels_span": integer("mask_feature_length", 10),
    }
    if conformer:
        positions = settings.choice("position_embeddings_type", "relative", "rotary", None)
        values |= {
            "positions": positions or "none",
            "rotary_base": float(integer("rotary_embedding_base", 10000)),
            "kernel_size": integer("conv_depthwise_kernel_size", 31),
            "dropout_conv": number("conformer_conv_dropout", 0.1, most=1),
        }
        settings.drop("num_conv_pos_embeddings", "num_conv_pos_embedding_groups")
    else:
        values |= {
            "norm_first": settings.flag("do_stable_layer_norm", False),
            "position_kernel": integer("num_conv_pos_embeddings", 128),
            "position_groups": integer("num_conv_pos_embedding_groups", 16),
        }
    try:
        model = Wav2Vec2Config(**values)
    except UserError as error:
        raise settings.located(error, "") from error
    convolutions = len(model.conv_width)
    settings.expect(
        add_adapter=(False, None), adapter_attn_dim=None, pruned_heads=(None, {}),
        num_feat_extract_layers=(convolutions, None), is_encoder_decoder=(False, None), is_decoder=(False, None),
        add_cross_attention=(False, None),
    )  # fmt: skip
    settings.drop(*_NO_INFLUENCE)
    settings.finish()
    return model


def _activation(settings: Settings, name: str) -> str:
    value = settings.choice(name, "gelu", "silu", *get_args(Activation))
    return "swish" if value == "silu" else value


def _audio(folder: Path) -> AudioConfig:
    settings = feature_settings(folder)
    normalize, rate = settings.flag("do_normalize", True), settings.integer("sampling_rate", 16000)
    settings.expect(feature_size=1, feature_extractor_type=("Wav2Vec2FeatureExtractor", None))
    settings.drop("padding_value", "padding_side", "return_attention_mask", "processor_class")
    settings.finish()
    return dataclasses.replace(waveform(normalize), sample_rate=rate)


# ---- Vocabulary


def read_vocabulary(folder: Path, classes: int, blank: int, lower_case: bool) -> tuple[Tokenizer, list[str]]:
    """Read the characters of vocab.json.

    The word delimiter becomes a space; <unk>, <s> and </s> keep their classes and decode to no text.

    Args:
        folder: holds vocab.json and the tokenizer's other files.
        classes: number of classes of the head.
        blank: class of the blank.
        lower_case: convert letters to lower case.

    Returns:
        The tokenizer, with the blank moved to 0, and notes for the user.

    Raises:
        UserError: the files are damaged or do not match the head.
    """
    path = folder / "vocab.json"
    options = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            options |= read_json(folder / name)
    special = {ours: _token(folder, options, name, default) for ours, name, default in (
        (BLANK, "pad_token", "<pad>"), ("<unk>", "unk_token", "<unk>"), ("<s>", "bos_token", "<s>"),
        ("</s>", "eos_token", "</s>"), (" ", "word_delimiter_token", "|"))}  # fmt: skip
    supported = {
        "tokenizer_class": ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer"),
        "replace_word_delimiter_char": (" ",),
    }
    for name, allowed in supported.items():
        if options.get(name, allowed[0]) not in (*allowed, None):
            where = folder / "tokenizer_config.json"
            raise UserError(f"{where}: found {name} = {options[name]!r}, expected {allowed[0]!r}")
    by_id = _tokens_by_id(folder, path, options)
    absent = next((i for i in range(classes) if i not in by_id), None)
    if absent is not None:
        raise UserError(f"{path}: found no token for class {absent} of {classes}, expected one for each")
    if by_id[blank] != special[BLANK]:
        raise UserError(f"{path}: found {by_id[blank]!r} at the blank's id {blank}, expected {special[BLANK]!r}")
    lower_case = bool(options.get("do_lower_case")) or lower_case
    names = {token: ours for ours, token in special.items()}
    pieces = [BLANK]
    for i in range(classes):
        token = by_id[i]
        piece = names.get(token, token.lower() if lower_case else token)
        if i == blank:
            continue
        if len(piece) != 1 and piece not in ("<unk>", "<s>", "</s>"):
            raise UserError(f"{path}: found token {token!r}, expected single characters")
        if piece in pieces:
            raise UserError(f"{path}: found two tokens for {piece!r}, one of them {token!r}, expected one")
        pieces.append(piece)
    letters = "".join(sorted(p for p in pieces if len(p) == 1))
    notes = [f"text: the vocabulary is {letters!r}"]
    if any(c.isupper() for c in letters) and not any(c.islower() for c in letters):
        notes[0] += "; texts to fine-tune on must be upper-case too, or give --lower-case"
    extra = sorted(token for i, token in by_id.items() if i >= classes)
    if extra:
        notes.append(f"tokens without a class of the head, left out: {', '.join(map(repr, extra))}")
    return Tokenizer("char", tuple(pieces)), notes


def _token(folder: Path, options: dict[str, Any], name: str, default: str) -> str | None:
    """Return a special token, which is a string or an object with "content"."""
    token = options.get(name, default)
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str | None):
        raise UserError(f"{folder / 'tokenizer_config.json'}: found {name} = {token!r}, expected a text")
    return token


def _tokens_by_id(folder: Path, path: Path, options: dict[str, Any]) -> dict[int, str]:
    ids = read_json(path)
    if (folder / "added_tokens.json").is_file():
        ids = read_json(folder / "added_tokens.json") | ids
    by_id: dict[int, str] = {}
    try:
        for i, entry in dict(options.get("added_tokens_decoder") or {}).items():
            ids.setdefault(entry["content"], int(i))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: found added tokens that cannot be read ({error})"
        ) from error
    for token, i in ids.items():
        if not isinstance(i, int) or i < 0:
            raise UserError(f"{path}: found {token!r}: {str(i)[:40]}, expected a token and its id")
        if i in by_id:
            raise UserError(f"{path}: found {by_id[i]!r} and {token!r} at {i}, expected one token per id")
        by_id[i] = token
    return by_id
