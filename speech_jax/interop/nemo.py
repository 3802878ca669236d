"""NeMo .nemo archives of Conformer-CTC (4x) and FastConformer-CTC (4x, 8x), read and written.

A .nemo is a tar with model_config.yaml, model_weights.ckpt (a torch state dict) and the tokenizer's files. Names
and arithmetic are those of NeMo 3.0 (nemo/collections/asr/modules/conformer_encoder.py).
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.mel import mel_matrix, window_values
from speech_jax.audio.presets import nemo as nemo_audio
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.interop.conformer_names import params_from_nemo, params_to_nemo
from speech_jax.interop.imported import Imported
from speech_jax.interop.nemo_archive import CONFIG, open_archive, read_config, read_member
from speech_jax.interop.sentencepieces import UNKNOWN, make_tokenizer, read_sentencepiece, write_sentencepiece
from speech_jax.interop.settings import MAX_FEATURES, MAX_LAYERS, Settings
from speech_jax.interop.tensors import Span, Tensors, read_torch, write_torch
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import Tokenizer

WEIGHTS = "model_weights.ckpt"
_NORMS: dict[str, Any] = {"batch_norm": "batch", "layer_norm": "layer"}
_FRONT_END_CHANGED = (2, 4)  # the NeMo version that changed the featurizer
_GUARDS = {"tiny": float(np.finfo(np.float32).tiny), "eps": float(np.finfo(np.float32).eps)}
_WINDOWS = {"hann_symmetric": "hann", "hamming_symmetric": "hamming"}
_LEFT_OUT = "training: {} is left out"


# ---- Import


def read_nemo(path: str | Path, front_end: int | None = None) -> Imported:
    """Read a Conformer-CTC from a .nemo file.

    Args:
        path: the file.
        front_end: 1 or 2, the generation of NeMo's featurizer (`audio.presets.nemo`) that the model was trained with.
            The file does not contain it; None takes 1 if NeMo before 2.4 wrote the file, else 2.

    Raises:
        UserError: the file is damaged or unsafe, or the network is not one that we compute exactly.
    """
    path = Path(path)
    with open_archive(path) as members:
        config = read_config(path, members)
        decoder, hybrid = _ctc_section(config, path)
        encoder, audio, notes = _settings(config, path, front_end)
        tokenizer = _tokenizer(config, decoder, path, members)
        if WEIGHTS not in members:
            raise UserError(f"{path}: found no {WEIGHTS}, expected it in a .nemo file")
        tensors, ignored = read_torch(members[WEIGHTS]), {}
        if hybrid:
            tensors, ignored = _without_transducer(tensors)
            notes.append("network: the CTC head of a hybrid model; its transducer is left out")
        params, model_state, unused = params_from_nemo(tensors, encoder, str(path))
        ignored |= {name: _why_ignored(name, tensors[name], audio, path) for name in unused}
    parts = RecognizerParts(CTCTaskConfig(model=encoder, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, notes)


def _section(config: Mapping[str, Any], name: str, path: Path) -> Settings:
    section = config.get(name)
    if not isinstance(section, dict):
        raise UserError(f"{path}: found no section {name!r} in {CONFIG}, expected that of a Conformer-CTC")
    return Settings(section, f"{name}.", path)


def _ctc_section(config: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], bool]:
    """Return the section of the CTC head, and True if the model has a transducer besides."""
    hybrid = isinstance(config.get("aux_ctc"), dict)
    if "joint" in config and not hybrid:
        raise UserError(f"{path}: found a transducer without a CTC head, expected a CTC or a hybrid model")
    section = config["aux_ctc"].get("decoder") if hybrid else config.get("decoder")
    if not isinstance(section, dict):
        name = "aux_ctc.decoder" if hybrid else "decoder"
        raise UserError(f"{path}: found no section {name!r} in {CONFIG}, expected that of a CTC head")
    settings = Settings(section, "aux_ctc.decoder." if hybrid else "decoder.", path)
    target = str(settings.take("_target_", "ConvASRDecoder"))
    if target.rsplit(".", 1)[-1] != "ConvASRDecoder":
        raise UserError(f"{path}: found a decoder of type {target}, expected a ConvASRDecoder")
    settings.expect(add_blank=True)
    settings.drop("feat_in", "num_classes", "vocabulary", "init_mode")
    settings.finish()
    return section, hybrid


def _without_transducer(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """Return a hybrid model's tensors with the CTC head's as "decoder.", and those of the transducer, with a reason."""
    transducer = [name for name in tensors if name.startswith(("decoder.", "joint."))]
    kept = {name.removeprefix("ctc_") if name.startswith("ctc_decoder.") else name: tensor
            for name, tensor in tensors.items() if name not in transducer}  # fmt: skip
    return kept, dict.fromkeys(transducer, "of the transducer")


def _settings(
    config: Mapping[str, Any], path: Path, front_end: int | None
) -> tuple[ConformerConfig, AudioConfig, list[str]]:
    notes = []
    version = str(config.get("nemo_version") or "")
    if front_end is None:
        try:
            numbers = tuple(int(n) for n in version.split(".")[:2])
        except ValueError:
            numbers = ()
        front_end = 1 if numbers and numbers < _FRONT_END_CHANGED else 2
        why = f"the file was written by NeMo {version[:20]}" if version else "the file does not contain NeMo's version"
        notes.append(
            f"features: NeMo's front end {front_end}, because {why}; --front-end {3 - front_end} selects the other"
        )
    else:
        notes.append(f"features: NeMo's front end {front_end}, as given by --front-end")
    audio = _audio(_section(config, "preprocessor", path), front_end, path, notes)
    encoder = _encoder(_section(config, "encoder", path), path, notes)
    if encoder.num_features != audio.num_mels:
        raise UserError(f"{path}: found feat_in {encoder.num_features} and {audio.num_mels} features, expected as many")
    return encoder, audio, notes


def _encoder(section: Settings, path: Path, notes: list[str]) -> ConformerConfig:
    target = str(section.take("_target_", "ConformerEncoder"))
    if target.rsplit(".", 1)[-1] != "ConformerEncoder":
        raise UserError(f"{path}: found an encoder of type {target[:200]}, expected a ConformerEncoder")
    width = section.integer("d_model")
    channels = section.integer("subsampling_conv_channels", -1, least=-1)
    kernel = section.integer("conv_kernel_size", 31)
    if channels == 0:
        section.refuse("subsampling_conv_channels", channels, "-1, or a number above 0")
    try:
        model = ConformerConfig(
            num_features=section.integer("feat_in", most=MAX_FEATURES),
            width=width,
            layers=section.integer("n_layers", most=MAX_LAYERS),
            heads=section.integer("n_heads", 4),
            feed_forward_multiple=section.integer("ff_expansion_factor", 4),
            kernel_size=kernel,
            subsampling=section.choice("subsampling", "striding", "dw_striding"),
            subsampling_factor=section.choice("subsampling_factor", 4, 8),
            subsampling_channels=0 if channels in (-1, width) else channels,
            conv_norm=_NORMS[section.choice("conv_norm_type", *_NORMS)],
            use_bias=section.flag("use_bias", True),
            xscaling=section.flag("xscaling", True),
            dropout=section.number("dropout", 0.1, most=1),
            dropout_pre_encoder=section.number("dropout_pre_encoder", 0.1, most=1),
            dropout_emb=section.number("dropout_emb", 0.1, most=1),
            dropout_att=section.number("dropout_att", 0.0, most=1),
        )
    except UserError as error:
        raise section.located(error, "encoder: ") from error
    half = (kernel - 1) // 2
    section.expect(
        self_attention_model="rel_pos", att_context_size=(None, [], [-1, -1], [[-1, -1]]), att_context_style="regular",
        conv_context_size=(None, [half, half]), causal_downsampling=(False, None), feat_out=(-1, 0, width),
        reduction=(None, False, ""),
    )  # fmt: skip
    if not section.flag("untie_biases", True):
        notes.append("network: the layers share the biases of attention (untie_biases); fine-tuning unties them")
    section.drop(
        "subsampling_conv_chunking_factor", "pos_emb_max_len", "reduction_position", "reduction_factor",
        "att_context_probs", "stochastic_depth_mode", "stochastic_depth_start_layer", "global_tokens",
        "global_tokens_spacing", "global_attn_separate", "use_pytorch_sdpa", "use_pytorch_sdpa_backends",
        "sync_max_audio_length",
    )  # fmt: skip
    notes += map(_LEFT_OUT.format, section.drop_for_training("stochastic_depth_drop_prob"))
    section.finish()
    return model


def _audio(section: Settings, front_end: int, path: Path, notes: list[str]) -> AudioConfig:
    target = str(section.take("_target_", "AudioToMelSpectrogramPreprocessor"))
    if target.rsplit(".", 1)[-1] != "AudioToMelSpectrogramPreprocessor":
        raise UserError(
            f"{path}: found a preprocessor of type {target[:200]}, expected AudioToMelSpectrogramPreprocessor"
        )
    rate = section.integer("sample_rate", 16000)
    window = _samples(section, "window_size", 0.02, "n_window_size", rate)
    hop = _samples(section, "window_stride", 0.01, "n_window_stride", rate)
    normalize = section.take("normalize", "per_feature")
    # In NeMo, every text but these is off, as are false and null; a mapping holds constants.
    if normalize == "all_features" or not isinstance(normalize, str | None) and normalize is not False:
        section.refuse("normalize", normalize, "'per_feature', 'NA' or null")
    try:
        audio = dataclasses.replace(
            nemo_audio(front_end),
            sample_rate=rate,
            window=window,
            hop=hop,
            n_fft=section.integer("n_fft", 0, least=0, most=1 << 16, null=0) or 1 << (window - 1).bit_length(),
            window_shape=section.choice("window", "hann", "hamming") + "_symmetric",
            num_mels=section.integer("features", 64, most=MAX_FEATURES),
            mel_norm=section.choice("mel_norm", "slaney", None) or "none",
            fmin=section.number("lowfreq", 0),
            fmax=section.number("highfreq", 0, null=0),  # 0 or null: up to half the sample rate
            pre_emphasis=section.number("preemph", 0.97, least=-1, most=1, null=0),
            dither=section.number("dither", 1e-5, most=1, null=0),
            floor=section.number("log_zero_guard_value", 2.0**-24, least=1e-45, names=_GUARDS),
            floor_by=section.choice("log_zero_guard_type", "add", "clamp"),
            power=section.choice("mag_power", 2, 1),
            normalize="utterance" if normalize == "per_feature" else "none",
        )
    except UserError as error:
        raise section.located(error, "preprocessor as ") from error
    if not section.flag("log", True):
        section.refuse("log", None, "true, as features without a logarithm are not computed here")
    section.expect(frame_splicing=(1, 0), exact_pad=(False, None), use_torchaudio=(False, None))
    if front_end == 1 and section.take("pad_to", 16) != 0:
        notes.append(
            "features: before NeMo 2.4, pad_to changed the last encoder frame; it is computed as with pad_to = 0"
        )
    section.drop("pad_to", "pad_value", "rng", "nb_max_freq", "stft_conv", "stft_exact_pad")
    notes += map(_LEFT_OUT.format, section.drop_for_training("nb_augmentation_prob"))
    section.finish()
    return audio


def _samples(section: Settings, seconds_name: str, default: float, samples_name: str, rate: int) -> int:
    """Return a length in samples, which NeMo takes in seconds or, where that is null or 0, in samples."""
    seconds = section.number(seconds_name, default, most=10, null=0)
    samples = section.integer(samples_name, None)
    if (samples is None) == (seconds == 0):
        section.refuse(samples_name, samples, f"it or {seconds_name}, and null for the other")
    return samples or int(seconds * rate)


def _tokenizer(
    config: Mapping[str, Any], decoder: Mapping[str, Any], path: Path, members: Mapping[str, Span]
) -> Tokenizer:
    section = config.get("tokenizer")
    if section is not None:
        settings = _section(config, "tokenizer", path)
        kind, name = settings.take("type"), settings.take("model_path")
        if str(kind).lower() != "bpe":
            settings.refuse("type", kind, "'bpe' (sentencepiece)")
        if not isinstance(name, str) or not name:
            settings.refuse("model_path", name, "the name of a sentencepiece model in the file")
        name = name.removeprefix("nemo:")
        return read_sentencepiece(read_member(path, members, name), f"{path}: {name}")
    labels = decoder.get("vocabulary") or config.get("labels")
    if not isinstance(labels, list) or not all(isinstance(c, str) for c in labels):
        raise UserError(f"{path}: found neither a tokenizer nor decoder.vocabulary in {CONFIG}, expected one of them")
    return make_tokenizer(f"{path}: decoder.vocabulary", "char", labels)


def _why_ignored(name: str, tensor: np.ndarray, audio: AudioConfig, path: Path) -> str:
    if name.endswith("num_batches_tracked"):
        return "an unused counter"
    if name == "preprocessor.featurizer.window":
        expected = window_values(audio)
        if tensor.shape != expected.shape or not np.allclose(tensor, expected, atol=3e-3):
            raise UserError(f"{path}: found another window in {name}, expected that of the config")
        return "the window, equal to ours"
    if name == "preprocessor.featurizer.fb":
        expected = mel_matrix(audio).T
        bands = tensor.reshape(tensor.shape[-2:])
        if bands.shape != expected.shape or not np.allclose(bands, expected, atol=1e-4):
            raise UserError(f"{path}: found other mel bands in {name}, expected those of the config")
        return "the mel bands, equal to ours"
    if name.endswith("pos_enc.pe"):
        return "sinusoids, which are computed"
    raise UserError(f"{path}: found tensor {name!r} with shape {tuple(tensor.shape)}, which the network does not have")


# ---- Export


def write_nemo(out: str | Path, task: CTCTaskConfig, tokenizer: Tokenizer, params, model_state) -> None:
    """Write a .nemo file that NeMo's EncDecCTCModelBPE (EncDecCTCModel for characters) restores.

    Args:
        out: the file to write.
        task: network and audio settings.
        tokenizer: the vocabulary.
        params: parameters.
        model_state: batch statistics.

    Raises:
        UserError: NeMo does not have this network or these features.
    """
    if not isinstance(task.model, ConformerConfig) or task.model.conv_norm == "group":
        raise UserError(
            "convert: found a network that NeMo does not have, expected a Conformer with batch or layer norm"
        )
    tensors = params_to_nemo(params, model_state, task.model)
    tensors["preprocessor.featurizer.window"] = window_values(task.audio).astype(np.float32)
    tensors["preprocessor.featurizer.fb"] = np.ascontiguousarray(mel_matrix(task.audio).T[None], np.float32)
    files: dict[str, bytes] = {}
    config = _nemo_config(task)
    if tokenizer.kind == "char":
        labels = list(tokenizer.pieces[1:])
        config |= {"labels": labels, "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel"}
    else:
        pieces = list(tokenizer.pieces[1:])
        if UNKNOWN not in pieces:
            pieces.append(UNKNOWN)
            _add_unknown(tensors)
        labels = pieces
        files["speech_jax_tokenizer.model"] = write_sentencepiece(tokenizer)
        files["speech_jax_vocab.txt"] = "".join(f"{p}\n" for p in pieces).encode()
        files["speech_jax_tokenizer.vocab"] = "".join(f"{p}\t0\n" for p in pieces).encode()
        config["tokenizer"] = {
            "dir": "", "type": "bpe", "model_path": "nemo:speech_jax_tokenizer.model",
            "vocab_path": "nemo:speech_jax_vocab.txt", "spe_tokenizer_vocab": "nemo:speech_jax_tokenizer.vocab",
        }  # fmt: skip
        config["target"] = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": task.model.width,
        "num_classes": len(labels), "vocabulary": labels,
    }  # fmt: skip
    with open_atomic(out, "wb") as file, tempfile.TemporaryFile() as weights:
        write_torch(weights, tensors)
        size = weights.tell()
        weights.seek(0)
        with tarfile.open(fileobj=file, mode="w:") as tar:
            files[CONFIG] = yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode()
            for name, data in files.items():
                _add(tar, name, io.BytesIO(data), len(data))
            _add(tar, WEIGHTS, weights, size)


def _add(tar: tarfile.TarFile, name: str, data: Any, size: int) -> None:
    info = tarfile.TarInfo(f"./{name}")
    info.size = size
    tar.addfile(info, data)


def _add_unknown(tensors: Tensors) -> None:
    """Insert a class before the blank for sentencepiece's <unk>, which the network never emits."""
    weight, bias = tensors["decoder.decoder_layers.0.weight"], tensors["decoder.decoder_layers.0.bias"]
    row = np.zeros_like(weight[:1])
    tensors["decoder.decoder_layers.0.weight"] = np.concatenate([weight[:-1], row, weight[-1:]])
    tensors["decoder.decoder_layers.0.bias"] = np.concatenate([bias[:-1], [np.float32(-1e4)], bias[-1:]])


def _nemo_config(task: CTCTaskConfig) -> dict[str, Any]:
    audio, model = task.audio, task.model
    assert isinstance(model, ConformerConfig)  # `write_nemo` refuses the others
    front_end = next((n for n in (1, 2) if (audio.framing, audio.padding) ==
                      (nemo_audio(n).framing, nemo_audio(n).padding)), None)  # fmt: skip
    free = ("sample_rate", "window", "hop", "n_fft", "num_mels", "fmin", "fmax", "pre_emphasis", "dither", "floor",
            "floor_by", "power", "normalize", "window_shape", "mel_norm")  # fmt: skip
    same = front_end and dataclasses.replace(audio, **{n: getattr(nemo_audio(front_end), n) for n in free})
    window = _WINDOWS.get(audio.window_shape)
    normalized = audio.normalize in ("none", "utterance")
    if not front_end or same != nemo_audio(front_end) or not normalized or window is None:
        raise UserError("convert: found features that NeMo's front end does not compute, expected audio.presets.nemo's")
    preprocessor = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": audio.sample_rate,
        "normalize": "per_feature" if audio.normalize == "utterance" else "NA",
        "window_size": _seconds(audio.window, audio.sample_rate),
        "window_stride": _seconds(audio.hop, audio.sample_rate),
        "window": window, "features": audio.num_mels, "n_fft": audio.n_fft, "lowfreq": audio.fmin,
        "highfreq": audio.fmax if audio.fmax > 0 else None,
        "mel_norm": None if audio.mel_norm == "none" else audio.mel_norm,
        "preemph": audio.pre_emphasis, "log": True, "log_zero_guard_type": audio.floor_by,
        "log_zero_guard_value": audio.floor, "mag_power": float(audio.power), "frame_splicing": 1,
        "dither": audio.dither, "pad_to": 0, "pad_value": 0.0,
    }  # fmt: skip
    norms = {ours: theirs for theirs, ours in _NORMS.items()}
    encoder = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": model.num_features, "feat_out": -1, "n_layers": model.layers, "d_model": model.width,
        "subsampling": model.subsampling, "subsampling_factor": model.subsampling_factor,
        "subsampling_conv_channels": model.subsampling_channels or -1,
        "ff_expansion_factor": model.feed_forward_multiple,
        "self_attention_model": "rel_pos", "n_heads": model.heads, "att_context_size": [-1, -1],
        "xscaling": model.xscaling, "untie_biases": True, "pos_emb_max_len": 5000,
        "conv_kernel_size": model.kernel_size, "conv_norm_type": norms[model.conv_norm], "use_bias": model.use_bias,
        "dropout": model.dropout, "dropout_pre_encoder": model.dropout_pre_encoder, "dropout_emb": model.dropout_emb,
        "dropout_att": model.dropout_att,
    }  # fmt: skip
    return {
        "sample_rate": audio.sample_rate, "log_prediction": False, "ctc_reduction": "mean_batch",
        "skip_nan_grad": False, "preprocessor": preprocessor, "encoder": encoder,
        "nemo_version": "3.0.0" if front_end == 2 else "2.3.0",
        "validation_ds": {"use_start_end_token": False},  # NeMo reads this when it transcribes
    }  # fmt: skip


def _seconds(samples: int, rate: int) -> float:
    """Return the duration that NeMo, which rounds down, converts to so many samples."""
    seconds = samples / rate
    return seconds if int(seconds * rate) == samples else float(np.nextafter(seconds, np.inf))
