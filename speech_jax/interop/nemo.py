"""NeMo .nemo archives of Conformer-CTC (4x) and FastConformer-CTC (4x, 8x), read and written.

A .nemo is a tar with model_config.yaml, model_weights.ckpt (a torch state dict) and the tokenizer's files. Names
and arithmetic are those of NeMo 3.0 (nemo/collections/asr/modules/conformer_encoder.py).
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from speech_jax.artifacts.recognizer import RecognizerParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.mel import mel_matrix
from speech_jax.audio.presets import nemo as nemo_audio
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.interop.conformer_names import params_from_nemo, params_to_nemo
from speech_jax.interop.imported import Imported
from speech_jax.interop.sentencepieces import UNKNOWN, read_sentencepiece, write_sentencepiece
from speech_jax.interop.settings import Settings
from speech_jax.interop.tensors import Span, Tensors, read_torch, write_torch
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.tokenizer import BLANK, Tokenizer

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_MAX_SMALL = 64 << 20  # bytes of a config or tokenizer file
_MAX_UNPACKED = 32 << 30  # bytes of a decompressed archive
_NORMS: dict[str, Any] = {"batch_norm": "batch", "layer_norm": "layer"}
_FRONT_END_CHANGED = (2, 4)  # the NeMo version that changed the featurizer


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
    with _members(path) as members:
        config = _read_yaml(path, members)
        encoder, audio, notes = _settings(config, path, front_end)
        tokenizer = _tokenizer(config, path, members)
        if WEIGHTS not in members:
            raise UserError(f"{path}: found no {WEIGHTS}, expected it in a .nemo file")
        tensors = read_torch(members[WEIGHTS])
        params, model_state, unused = params_from_nemo(tensors, encoder, str(path))
        ignored = {name: _why_ignored(name, tensors[name], audio, path) for name in unused}
    parts = RecognizerParts(CTCTaskConfig(model=encoder, audio=audio), tokenizer, params, model_state)
    return Imported(parts, ignored, notes)


@contextmanager
def _members(path: Path) -> Iterator[dict[str, Span]]:
    """Map member names to spans of an uncompressed tar; a compressed one is first decompressed to a temporary file."""
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a .nemo file") from error
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.tar" if compressed else path
        try:
            if compressed:
                _decompress(path, archive)
            with tarfile.open(archive, "r:") as tar:
                members = {}
                for member in tar:
                    tarfile.data_filter(member, folder)  # refuses paths outside the folder; nothing is extracted
                    if member.isfile():
                        members[member.name.removeprefix("./")] = Span(archive, member.offset_data, member.size)
            size = archive.stat().st_size
            for name, span in members.items():
                if span.offset + span.size > size:
                    raise UserError(f"{path}: found {name} cut off, expected a whole .nemo file")
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise UserError(f"{path}: found {error}, expected a .nemo file (a tar)") from error
        yield members


def _decompress(path: Path, out: Path) -> None:
    with gzip.open(path) as packed, open(out, "wb") as file:
        while block := packed.read(1 << 22):
            if file.tell() + len(block) > _MAX_UNPACKED:
                raise UserError(f"{path}: found more than {_MAX_UNPACKED >> 30} GB inside, expected a .nemo file")
            file.write(block)


def _read(path: Path, members: Mapping[str, Span], name: str) -> bytes:
    span = members.get(name)
    if span is None:
        raise UserError(f"{path}: found no {name}, expected it in a .nemo file")
    if span.size is None or span.size > _MAX_SMALL:
        raise UserError(f"{path}: found {span.size} bytes of {name}, expected at most {_MAX_SMALL}")
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        return file.read(span.size)


def _read_yaml(path: Path, members: Mapping[str, Span]) -> dict[str, Any]:
    try:
        config = yaml.safe_load(_read(path, members, CONFIG))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: found no YAML in {CONFIG}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: found {type(config).__name__} in {CONFIG}, expected a mapping")
    return config


def _section(config: Mapping[str, Any], name: str, path: Path) -> Settings:
    section = config.get(name)
    if not isinstance(section, dict):
        raise UserError(f"{path}: found no section {name!r} in {CONFIG}, expected that of a Conformer-CTC")
    return Settings(section, f"{name}.", path)


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
        why = f"the file was written by NeMo {version}" if version else "the file does not contain NeMo's version"
        notes.append(
            f"features: NeMo's front end {front_end}, because {why}; --front-end {3 - front_end} selects the other"
        )
    else:
        notes.append(f"features: NeMo's front end {front_end}, as given by --front-end")
    audio = _audio(_section(config, "preprocessor", path), front_end, path)
    encoder = _encoder(_section(config, "encoder", path), path)
    if encoder.num_features != audio.num_mels:
        raise UserError(f"{path}: found feat_in {encoder.num_features} and {audio.num_mels} features, expected as many")
    return encoder, audio, notes


def _encoder(section: Settings, path: Path) -> ConformerConfig:
    target = str(section.take("_target_", "ConformerEncoder"))
    if target.rsplit(".", 1)[-1] != "ConformerEncoder":
        raise UserError(f"{path}: found an encoder of type {target}, expected a ConformerEncoder")
    norm = section.take("conv_norm_type", "batch_norm")
    if norm not in _NORMS:
        raise UserError(f"{path}: found encoder.conv_norm_type = {norm!r}, expected {' or '.join(_NORMS)}")
    width = section.take("d_model", 0)
    channels = section.take("subsampling_conv_channels", -1)
    try:
        model = ConformerConfig(
            num_features=section.take("feat_in", 80),
            width=width,
            layers=section.take("n_layers", 0),
            heads=section.take("n_heads", 4),
            feed_forward_multiple=section.take("ff_expansion_factor", 4),
            kernel_size=section.take("conv_kernel_size", 31),
            subsampling=section.take("subsampling", "striding"),
            subsampling_factor=section.take("subsampling_factor", 4),
            subsampling_channels=0 if channels in (-1, width) else channels,
            conv_norm=_NORMS[norm],
            use_bias=section.take("use_bias", True),
            xscaling=section.take("xscaling", True),
            dropout=section.take("dropout", 0.1),
            dropout_pre_encoder=section.take("dropout_pre_encoder", 0.1),
            dropout_emb=section.take("dropout_emb", 0.1),
            dropout_att=section.take("dropout_att", 0.0),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: found encoder settings that do not make a Conformer: {error}") from error
    if model.subsampling not in ("striding", "dw_striding") or model.subsampling_factor not in (4, 8):
        raise UserError(
            f"{path}: found {model.subsampling} subsampling by {model.subsampling_factor}, "
            f"expected striding or dw_striding by 4 or 8"
        )
    section.expect(
        self_attention_model="rel_pos", untie_biases=True, att_context_size=([-1, -1], -1), att_context_style="regular",
        conv_context_style="regular", causal_downsampling=False, feat_out=(-1, 0), reduction_factor=1,
        stochastic_depth_drop_prob=0.0,
    )  # fmt: skip
    section.drop(
        "subsampling_conv_chunking_factor", "pos_emb_max_len", "reduction_position", "att_context_probs",
        "stochastic_depth_mode", "stochastic_depth_start_layer", "global_tokens_spacing", "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends", "sync_max_audio_length",
    )  # fmt: skip
    section.finish()
    return model


def _audio(section: Settings, front_end: int, path: Path) -> AudioConfig:
    target = str(section.take("_target_", "AudioToMelSpectrogramPreprocessor"))
    if target.rsplit(".", 1)[-1] != "AudioToMelSpectrogramPreprocessor":
        raise UserError(f"{path}: found a preprocessor of type {target}, expected AudioToMelSpectrogramPreprocessor")
    rate = section.take("sample_rate", 16000)
    window = int(section.take("window_size", 0.02) * rate)
    normalize = section.take("normalize", "per_feature")
    if normalize not in ("per_feature", "NA"):
        raise UserError(f"{path}: found preprocessor.normalize = {normalize!r}, expected 'per_feature' or 'NA'")
    audio = dataclasses.replace(
        nemo_audio(front_end),
        sample_rate=rate,
        window=window,
        hop=int(section.take("window_stride", 0.01) * rate),
        n_fft=section.take("n_fft", 1 << (window - 1).bit_length()),
        num_mels=section.take("features", 64),
        fmin=float(section.take("lowfreq", 0)),
        fmax=float(section.take("highfreq", 0)),  # 0 or none: up to half the sample rate
        pre_emphasis=section.take("preemph", 0.97),
        dither=section.take("dither", 1e-5),
        floor=section.take("log_zero_guard_value", 2.0**-24),
        floor_by=section.take("log_zero_guard_type", "add"),
        power=int(section.take("mag_power", 2)),
        normalize="utterance" if normalize == "per_feature" else "none",
    )
    section.expect(
        window="hann", log=True, frame_splicing=1, mel_norm="slaney", exact_pad=False, n_window_size=window,
        n_window_stride=audio.hop, nb_augmentation_prob=0.0,
    )  # fmt: skip
    section.drop("pad_to", "pad_value", "rng", "nb_max_freq", "use_torchaudio", "stft_conv", "stft_exact_pad",
                 "use_grads", "max_duration")  # fmt: skip
    section.finish()
    return audio


def _tokenizer(config: Mapping[str, Any], path: Path, members: Mapping[str, Span]) -> Tokenizer:
    section = config.get("tokenizer")
    if isinstance(section, dict):
        kind = section.get("type")
        if kind != "bpe":
            raise UserError(f"{path}: found a tokenizer of type {kind!r}, expected 'bpe' (sentencepiece)")
        name = str(section.get("model_path") or "").removeprefix("nemo:")
        return read_sentencepiece(_read(path, members, name), f"{path}: {name}")
    labels = (config.get("decoder") or {}).get("vocabulary") or config.get("labels")
    if not isinstance(labels, list) or not all(isinstance(c, str) for c in labels):
        raise UserError(f"{path}: found neither a tokenizer nor decoder.vocabulary in {CONFIG}, expected one of them")
    return Tokenizer("char", (BLANK, *labels))


def _why_ignored(name: str, tensor: np.ndarray, audio: AudioConfig, path: Path) -> str:
    if name.endswith("num_batches_tracked"):
        return "an unused counter"
    if name == "preprocessor.featurizer.window":
        return "the window, which is computed from its name"
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
    window = np.hanning(task.audio.window).astype(np.float32)
    tensors["preprocessor.featurizer.window"] = window
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
            "floor_by", "power", "normalize")  # fmt: skip
    same = front_end and dataclasses.replace(audio, **{n: getattr(nemo_audio(front_end), n) for n in free})
    if not front_end or same != nemo_audio(front_end) or audio.normalize == "global":
        raise UserError("convert: found features that NeMo's front end does not compute, expected audio.presets.nemo's")
    preprocessor = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": audio.sample_rate,
        "normalize": "per_feature" if audio.normalize == "utterance" else "NA",
        "window_size": audio.window / audio.sample_rate, "window_stride": audio.hop / audio.sample_rate,
        "window": "hann", "features": audio.num_mels, "n_fft": audio.n_fft, "lowfreq": audio.fmin,
        "highfreq": audio.fmax if audio.fmax > 0 else None,
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
    }  # fmt: skip
