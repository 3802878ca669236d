"""Settings that match other people's front ends, and the usual augmentations; `dataclasses.replace` changes a field."""

from __future__ import annotations

import dataclasses

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.errors import UserError


def nemo(version: int = 2, num_mels: int = 80) -> AudioConfig:
    """NeMo's AudioToMelSpectrogramPreprocessor, as its Conformer recipes set it.

    version 2, NeMo 2.4 and later: zeros beyond the ends, L//160 frames. version 1, all releases before: mirrored
    ends, L//160 + 1 frames. A NeMo checkpoint does not say which it was trained with. Version 1 mirrored at the end of
    the padded batch; here every utterance is treated as NeMo treated one that came alone.
    """
    if version not in (1, 2):
        raise UserError(f"nemo: found version {version}, expected 1 or 2")
    if version == 2:
        return AudioConfig(num_mels=num_mels)
    return AudioConfig(num_mels=num_mels, framing="center", padding="reflect")


def kaldi(num_mels: int = 80) -> AudioConfig:
    """Kaldi's compute-fbank-feats (also kaldi-native-fbank, torchaudio.compliance.kaldi), not normalised.

    Lhotse and icefall leave the waveform in [-1, 1]: `dataclasses.replace(kaldi(), scale=1.0, framing="kaldi")`.
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
    """Kaldi's compute-mfcc-feats with its defaults: 23 bands, 13 coefficients, the zeroth being the log energy."""
    return dataclasses.replace(kaldi(23), features="mfcc", lifter=22.0, log_energy=True)


def librosa(sample_rate: int = 22050) -> AudioConfig:
    """librosa.feature.melspectrogram and power_to_db with their defaults (features="mfcc": librosa.feature.mfcc)."""
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
    """torchaudio.transforms.MelSpectrogram with its defaults (n_fft 400, hop 200, 128 HTK bands), then ln(x + 1e-6)."""
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


def tacotron2() -> AudioConfig:
    """The mel spectrogram of NVIDIA's Tacotron 2 and WaveGlow: 22.05 kHz, magnitudes, ln(max(x, 1e-5)), 0 to 8 kHz."""
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


def whisper_like() -> AudioConfig:
    """Whisper's log-mel without its final affine map: log10, clamped to 8 below the greatest, L//160 frames."""
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
    """The samples themselves, as wav2vec 2.0 hears them: 16 kHz, with mean 0 and variance 1 over the utterance where
    transformers' preprocessor_config.json says do_normalize."""
    kind = "unit_variance" if normalize else "none"
    return AudioConfig(features="waveform", hop=1, pre_emphasis=0.0, dither=0.0, normalize=kind)


def spec_augment_only(time_masks: int = 5) -> AugmentConfig:
    """SpecAugment of NeMo's Conformer recipes: 2 bands up to 27 wide, `time_masks` (S, M: 5; L: 10) spans up to 5 %."""
    return AugmentConfig(freq_masks=2, time_masks=time_masks)


def full_augment(time_masks: int = 5) -> AugmentConfig:
    """Speed, rooms, noise, level and SpecAugment together: for small corpora and new acoustic conditions."""
    return AugmentConfig(
        speed=(0.9, 1.0, 1.1), reverb=0.3, noise=0.5, gain=0.5, freq_masks=2, time_masks=time_masks
    )  # fmt: skip
