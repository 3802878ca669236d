"""Audio settings that match other toolkits' front ends, and common augmentations.

Use `dataclasses.replace` to change single fields.
"""

from __future__ import annotations

import dataclasses

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.core.errors import UserError


def nemo(version: int = 2, num_mels: int = 80) -> AudioConfig:
    """NeMo's AudioToMelSpectrogramPreprocessor with the settings of its Conformer recipes.

    Version 1 mirrored at the end of the padded batch; here each utterance is treated as NeMo treated one alone in its
    batch.

    Args:
        version: 2 for NeMo 2.4 and later (zeros beyond the ends, L//160 frames for L samples), 1 for earlier releases
            (mirrored ends, L//160 + 1 frames). A NeMo checkpoint does not record which one it was trained with.
        num_mels: number of mel bands.
    """
    if version not in (1, 2):
        raise UserError(f"nemo: found version {version}, expected 1 or 2")
    if version == 2:
        return AudioConfig(num_mels=num_mels)
    return AudioConfig(num_mels=num_mels, framing="center", padding="reflect")


def kaldi(num_mels: int = 80) -> AudioConfig:
    """Kaldi's compute-fbank-feats (also kaldi-native-fbank, torchaudio.compliance.kaldi), not normalized.

    Lhotse and icefall keep the waveform in [-1, 1]: `dataclasses.replace(kaldi(), scale=1.0, framing="kaldi")`.
    """
    return AudioConfig(
        scale=32768.0,
        window_shape="povey",
        framing="snip_edges",
        padding="symmetric",
        remove_dc=True,
        pre_emphasis_by="frame",
        dither=1.0,
        num_mels=num_mels,
        mel_scale="kaldi",
        mel_norm="none",
        fmin=20.0,
        floor=2.0**-23,
        floor_by="clamp",
        normalize="none",
    )


def kaldi_mfcc() -> AudioConfig:
    """Kaldi's compute-mfcc-feats with its defaults: 23 bands, 13 coefficients, the zeroth of them the log energy."""
    return dataclasses.replace(kaldi(23), features="mfcc", lifter=22.0, log_energy=True)


def librosa(sample_rate: int = 22050) -> AudioConfig:
    """Librosa's melspectrogram and power_to_db with their defaults (with features="mfcc": librosa.feature.mfcc)."""
    return AudioConfig(
        sample_rate=sample_rate,
        window=2048,
        hop=512,
        n_fft=2048,
        window_shape="hann",
        framing="center",
        pre_emphasis=0.0,
        dither=0.0,
        num_mels=128,
        log="decibel",
        floor=1e-10,
        floor_by="clamp",
        top_range=80.0,
        num_cepstra=20,
        lifter_offset=1,
        normalize="none",
    )


def torch_like(sample_rate: int = 16000) -> AudioConfig:
    """Torchaudio's MelSpectrogram with its defaults (n_fft 400, hop 200, 128 HTK bands), then ln(x + 1e-6)."""
    return AudioConfig(
        sample_rate=sample_rate,
        window=400,
        hop=200,
        n_fft=400,
        window_shape="hann",
        framing="center",
        padding="reflect",
        pre_emphasis=0.0,
        dither=0.0,
        num_mels=128,
        mel_scale="htk",
        mel_norm="none",
        floor=1e-6,
        normalize="none",
    )


def nvidia_tacotron2() -> AudioConfig:
    """Mel spectrogram of NVIDIA's Tacotron 2 and WaveGlow: 22.05 kHz, magnitudes, ln(max(x, 1e-5)), 0 to 8 kHz.

    Torchaudio's bundles TACOTRON2_GRIFFINLIM_* use the same.
    """
    return AudioConfig(
        sample_rate=22050,
        window=1024,
        hop=256,
        n_fft=1024,
        window_shape="hann",
        framing="center",
        padding="reflect",
        pre_emphasis=0.0,
        dither=0.0,
        power=1,
        fmax=8000.0,
        floor=1e-5,
        floor_by="clamp",
        normalize="none",
    )


def torchaudio_tacotron2(vocoder: str = "wavernn") -> AudioConfig:
    """Mel spectrogram of torchaudio's bundles TACOTRON2_WAVERNN_*, or of TACOTRON2_GRIFFINLIM_* ("griffinlim").

    The bundle's WaveRNN converts it to 20·log10, with -100 dB to 0 dB mapped to 0 to 1.
    """
    if vocoder not in ("wavernn", "griffinlim"):
        raise UserError(f"torchaudio_tacotron2: found {vocoder!r}, expected 'wavernn' or 'griffinlim'")
    config = nvidia_tacotron2()
    if vocoder == "griffinlim":
        return config
    return dataclasses.replace(config, window=1100, hop=275, n_fft=2048, fmin=40.0, fmax=11025.0)


def r9y9_master(mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> AudioConfig:
    """Mel spectrogram of r9y9/wavenet_vocoder's last version, egs/mol/conf/mol_wavenet.json.

    The 70 Hz high-pass precedes the mel spectrogram, so it is part of the features. The gain of 0.55 and the
    pre-emphasis of 0.85 apply to the vocoder's target waveform only, after the high-pass.

    Args:
        mean: mean_ of its meanvar.joblib, 80 numbers; without mean and std the features are not normalized.
        std: scale_ of its meanvar.joblib, 80 numbers.
    """
    return dataclasses.replace(
        nvidia_tacotron2(),
        high_pass=70.0,
        fmin=125.0,
        fmax=7600.0,
        log="log10",
        floor=1e-10,
        normalize="global" if mean or std else "none",
        mean=mean,
        std=std,
    )


def r9y9_released() -> AudioConfig:
    """Mel spectrogram of r9y9/wavenet_vocoder's released LJSpeech model (commit 2092a64, ljspeech_mixture.json).

    Magnitudes of the lws library's transform in decibels, with -80 dB to 20 dB mapped to 0 to 1. Recordings were first
    scaled to a peak of 0.999. Mel frame t corresponds to the samples (t - 3)·256 to (t - 2)·256.
    """
    return dataclasses.replace(
        nvidia_tacotron2(),
        scale=0.5**0.5,  # lws scales its window so that the squares of windows one hop apart sum to 1
        window_shape="sine",
        framing="full",
        padding="zero",
        fmin=125.0,
        fmax=7600.0,
        log="decibel",
        floor=1e-4,
        ceiling=10.0,
        normalize="global",
        mean=(-80.0,) * 80,
        std=(100.0,) * 80,
    )


def whisper_like() -> AudioConfig:
    """Whisper's log-mel without its final affine map: log10, clamped to 8 below the maximum, L//160 frames."""
    return AudioConfig(
        n_fft=400,
        window_shape="hann",
        padding="reflect",
        pre_emphasis=0.0,
        dither=0.0,
        log="log10",
        floor=1e-10,
        floor_by="clamp",
        top_range=8.0,
        normalize="none",
    )


def waveform(normalize: bool = True) -> AudioConfig:
    """Raw samples, the input of wav2vec 2.0: 16 kHz.

    Args:
        normalize: scale each utterance to mean 0 and variance 1 (do_normalize in transformers'
            preprocessor_config.json).
    """
    kind = "unit_variance" if normalize else "none"
    return AudioConfig(features="waveform", hop=1, pre_emphasis=0.0, dither=0.0, normalize=kind)


def spec_augment_only(time_masks: int = 5) -> AugmentConfig:
    """SpecAugment of NeMo's Conformer recipes.

    Two frequency masks of up to 27 features, and `time_masks` time masks (5 for S and M, 10 for L) of up to 5 %.
    """
    return AugmentConfig(freq_masks=2, time_masks=time_masks)


def full_augment(time_masks: int = 5) -> AugmentConfig:
    """All effects together: speed, reverberation, noise, gain, SpecAugment.

    For small corpora and new acoustic conditions.
    """
    return AugmentConfig(
        speed=(0.9, 1.0, 1.1), reverb=0.3, noise=0.5, gain=0.5, freq_masks=2, time_masks=time_masks
    )  # fmt: skip
