"""Settings of features and augmentation. Ready-made ones are in `speech_jax.audio.presets`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from speech_jax.core.claims import not_used_by
from speech_jax.core.command_line import Range
from speech_jax.core.config_dict import describe_value, differences, from_dict, new_field, to_dict
from speech_jax.core.errors import UserError

MASKS = ("freq_masks", "freq_width", "time_masks", "time_width", "time_width_max", "mask_value")  # SpecAugment's fields
_CEPSTRAL = ("num_cepstra", "lifter", "lifter_offset", "log_energy")  # used by MFCC only
_SPECTRAL = (
    "window", "n_fft", "window_shape", "padding", "remove_dc", "pre_emphasis_by", "power", "num_mels", "mel_scale",
    "mel_norm", "fmin", "fmax", "log", "floor", "floor_by", "ceiling", "top_range", "delta_window",
)  # fmt: skip


@dataclass(frozen=True)
class AudioConfig:
    """Settings of the features of a waveform. The default is NeMo's front end since version 2.4 (`presets.nemo`).

    Lengths are in samples. A run refuses fields that the chosen kind of features does not use.

    Example:
        >>> from speech_jax.audio.config import AudioConfig
        >>> config = AudioConfig(sample_rate=22050, window=1024, hop=256, n_fft=1024, num_mels=80)
        >>> config.width, config.highest
        (80, 11025.0)
    """

    sample_rate: int = 16000
    """Sample rate of the waveform, in samples per second."""
    features: Literal["log_mel", "mfcc", "waveform"] = "log_mel"
    """Kind of features. log_mel: log-mel energies. mfcc: their cosine transform. waveform: the samples, for networks
    that take raw audio (wav2vec 2.0); a frame is then one sample, `hop` must be 1, and of the settings below only
    `scale`, `dither`, `high_pass`, `pre_emphasis` over the utterance and `normalize` apply."""
    scale: Annotated[float, Range(1e-6, 1e9)] = 1.0
    """Factor applied to the waveform in [-1, 1] first; 32768 gives Kaldi's integer range."""
    window: int = 400
    """Length of the analysis window, in samples."""
    hop: int = 160
    """Distance between frames, in samples."""
    n_fft: int = 512
    """Length of the Fourier transform, in samples, at least `window`; the window is centered in it and zero-padded."""
    window_shape: Literal["hann", "hann_symmetric", "hamming", "hamming_symmetric", "povey", "sine", "rectangular"] = (
        "hann_symmetric"
    )
    """Shape of the window. hann, hamming: periodic (librosa, torch's default). povey: symmetric hann to the power 0.85
    (Kaldi). sine: sin(π·(n + ½)/window), the square root of a hann (lws)."""
    framing: Literal["center", "center_even", "kaldi", "snip_edges", "full"] = "center_even"
    """Position of frame t, and number of frames for L samples. center: around sample t·hop, L//hop + 1 frames.
    center_even: the same without the last, L//hop frames. kaldi: around (t + ½)·hop, (L + hop//2)//hop frames.
    snip_edges: from sample t·hop, only frames that fit. full: every frame that overlaps the utterance,
    ceil(L/hop) + ceil(window/hop) - 1 frames (lws); requires padding zero."""
    padding: Literal["zero", "reflect", "symmetric"] = "zero"
    """Samples beyond both ends of the utterance. zero: zeros. reflect: mirrored without the edge sample (torch.stft).
    symmetric: mirrored with it (Kaldi). Utterances shorter than half a window continue with zeros after the mirror
    image."""
    remove_dc: bool = False
    """Subtract each frame's mean (Kaldi)."""
    high_pass: float = new_field(0.0)
    """Cutoff, in hertz, of a high-pass filter over the utterance (`mel.high_pass_taps`: 255 taps, a delay of 127
    samples); 0 turns it off."""
    pre_emphasis: Annotated[float, Range(0, 1)] = 0.97
    """Pre-emphasis coefficient c of y[n] = x[n] - c·x[n-1]; 0 turns it off."""
    pre_emphasis_by: Literal["utterance", "frame"] = "utterance"
    """Scope of the pre-emphasis: over the utterance (NeMo), or inside each frame with y[0] = (1 - c)·x[0] (Kaldi)."""
    dither: float = 1e-5
    """Standard deviation of white noise added in training, in units of the scaled waveform; 0 turns it off."""
    power: Literal[1, 2] = 2
    """Exponent of the magnitude spectrum: 1 magnitude (Tacotron), 2 power."""
    num_mels: int = 80
    """Number of mel bands."""
    mel_scale: Literal["slaney", "htk", "kaldi"] = "slaney"
    """Mel scale. slaney: Slaney's. htk: HTK's formula, bands triangular over hertz (librosa, torch). kaldi: HTK's
    formula, bands triangular over mel (Kaldi)."""
    mel_norm: Literal["none", "slaney"] = "slaney"
    """Scale of each band. none: peak of 1. slaney: area of 1."""
    fmin: float = 0.0
    """Lower edge of the lowest band, in hertz."""
    fmax: float = 0.0
    """Upper edge of the highest band, in hertz; 0 is half the sample rate, a negative value counts down from it."""
    log: Literal["natural", "log10", "decibel"] = "natural"
    """Logarithm: natural (ln), log10, or decibel (10·log10 of powers, 20·log10 of magnitudes)."""
    floor: float = 2.0**-24
    """Smallest energy passed to the logarithm; above 0."""
    floor_by: Literal["add", "clamp"] = "add"
    """Use of `floor`. add: added to every energy (NeMo). clamp: smaller energies are raised to it."""
    ceiling: float = new_field(0.0)
    """Largest energy passed to the logarithm; 0 is no limit."""
    top_range: Annotated[float, Range(0, 1000)] = 0.0
    """Dynamic range: features more than this below the utterance's maximum are raised to that limit (librosa: 80 dB);
    0 turns it off."""
    num_cepstra: int = 13
    """Number of MFCCs kept, counting from the zeroth."""
    lifter: float = 0.0
    """Liftering coefficient Q: MFCC i is weighted by 1 + Q/2·sin(π·(i + lifter_offset)/Q); 0 turns it off."""
    lifter_offset: int = 0
    """First index of the lifter: 0 in Kaldi and HTK, 1 in librosa."""
    log_energy: bool = False
    """Replace MFCC 0 by the frame's log energy before pre-emphasis and window (Kaldi's use_energy, raw_energy)."""
    deltas: int = 0
    """Number of orders of time derivatives to append (Kaldi's add-deltas); 0 turns them off."""
    delta_window: int = 2
    """Context of each derivative, in frames per side."""
    normalize: Literal["none", "utterance", "global", "unit_variance"] = "utterance"
    """Normalization of each feature. none: off. utterance: to mean 0 and standard deviation 1 over the utterance
    (unbiased, plus 1e-5, as in NeMo). global: with the constants `mean` and `std` from `estimate_statistics`.
    unit_variance: over the utterance with the biased variance plus 1e-7 (transformers' do_normalize, wav2vec 2.0)."""
    mean: tuple[float, ...] = ()
    """Mean of each feature, for normalize global."""
    std: tuple[float, ...] = ()
    """Standard deviation of each feature, for normalize global."""

    def __post_init__(self):
        nyquist = self.sample_rate / 2
        width = self.width
        checks = [
            (self.sample_rate > 0, "sample_rate", self.sample_rate, "a positive number"),
            (self.hop > 0, "hop", self.hop, "a positive number"),
            (2 <= self.window <= self.n_fft, "window", self.window, f"2 to n_fft = {self.n_fft}"),
            (self.hop <= self.window, "hop", self.hop, f"at most the window, {self.window}"),
            (self.n_fft % 2 == 0, "n_fft", self.n_fft, "an even number"),
            (self.num_mels > 0, "num_mels", self.num_mels, "a positive number"),
            (0 <= self.fmin < self.highest, "fmin", self.fmin, f"0 up to fmax = {self.highest:g}"),
            (self.highest <= nyquist, "fmax", self.fmax, f"at most half the sample rate, {nyquist:g}"),
            (self.floor > 0, "floor", self.floor, "a number above 0"),
            (self.ceiling == 0 or self.ceiling > self.floor, "ceiling", self.ceiling, "0, or more than the floor"),
            (0 <= self.high_pass < nyquist, "high_pass", self.high_pass, f"0 up to half the sample rate, {nyquist:g}"),
            (self.framing != "full" or self.padding == "zero", "padding", self.padding, "zero where framing is full"),
            (self.deltas >= 0, "deltas", self.deltas, "0 or more"),
            (self.delta_window > 0, "delta_window", self.delta_window, "1 or more"),
            (self.dither >= 0, "dither", self.dither, "0 or more"),
        ]
        if self.features == "mfcc":
            bands = f"1 to the number of bands, {self.num_mels}"
            checks += [(0 < self.num_cepstra <= self.num_mels, "num_cepstra", self.num_cepstra, bands)]
        if self.features == "waveform":
            checks += [
                (self.hop == 1, "hop", self.hop, "1 with features = waveform"),
                (self.framing == "center_even", "framing", self.framing, "center_even with features = waveform"),
                (self.deltas == 0, "deltas", self.deltas, "0 with features = waveform"),
            ]
        if self.normalize == "global":
            checks += [(len(v) == width, name, f"{len(v)} values", f"{width}, one per feature")
                       for name, v in (("mean", self.mean), ("std", self.std))]  # fmt: skip
            checks += [(all(s > 0 for s in self.std), "std", min(self.std, default=0), "numbers above 0")]
        _check("AudioConfig", checks)

    @property
    def width(self) -> int:
        """Number of features per frame, derivatives included."""
        base = {"log_mel": self.num_mels, "mfcc": self.num_cepstra, "waveform": 1}
        return base[self.features] * (1 + self.deltas)

    @property
    def highest(self) -> float:
        """Upper edge of the highest band, in hertz."""
        return self.fmax if self.fmax > 0 else self.sample_rate / 2 + self.fmax

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = not_used_by("features", self.features, dict.fromkeys(_SPECTRAL, "log_mel mfcc"))
        idle |= not_used_by("features", self.features, dict.fromkeys(_CEPSTRAL, "mfcc"))
        if (self.num_cepstra, self.lifter_offset) == (20, 1):  # of presets.librosa, which serves for both kinds
            idle.pop("num_cepstra", None)
            idle.pop("lifter_offset", None)
        elif self.lifter == 0:
            idle["lifter_offset"] = "with {lifter}"
        if self.pre_emphasis == 0:
            idle["pre_emphasis_by"] = "with {pre_emphasis}"
        if self.features == "waveform" and self.pre_emphasis_by == "frame":
            idle["pre_emphasis"] = "with {features} and {pre_emphasis_by}"
        if self.framing == "snip_edges" and self.padding != "symmetric":  # that of presets.kaldi serves both
            idle["padding"] = "with {framing}"
        if self.deltas == 0:
            idle["delta_window"] = "with {deltas}"
        return idle | not_used_by("normalize", self.normalize, {"mean": "global", "std": "global"})


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of waveforms and features in training. Every effect is off by default; see `presets`.

    Probabilities apply to each utterance independently.

    Example:
        >>> from speech_jax.audio.config import AugmentConfig
        >>> AugmentConfig(speed=(0.9, 1.0, 1.1), noise=0.5, freq_masks=2, time_masks=5).noise_snr
        (5.0, 30.0)
    """

    speed: tuple[float, ...] = ()
    """Factors of speed and pitch, e.g. (0.9, 1.0, 1.1), as a flag: 0.9 1.0 1.1, drawn with equal probability; empty is
    off."""
    reverb: float = 0.0
    """Probability of reverberation."""
    reverb_seconds: tuple[float, float] = (0.1, 0.6)
    """Range of a simulated room's reverberation time (decay by 60 dB), in seconds."""
    reverb_direct: tuple[float, float] = (-3.0, 12.0)
    """Range of a simulated room's direct-to-reverberant ratio, in dB."""
    reverb_length: float = 0.4
    """Length of a simulated impulse response, in seconds; longer reverberation is cut off."""
    noise: float = 0.0
    """Probability of additive noise."""
    noise_snr: tuple[float, float] = (5.0, 30.0)
    """Range of the signal-to-noise ratio, in dB, of powers over the whole utterance."""
    noise_colors: tuple[Literal["white", "pink"], ...] = ("white", "pink")
    """Kinds of synthetic noise, drawn with equal probability, if no recordings are given."""
    gain: float = 0.0
    """Probability of a random gain."""
    gain_db: tuple[float, float] = (-12.0, 6.0)
    """Range of the gain, in dB."""
    freq_masks: int = 0
    """SpecAugment: number of frequency masks; 0 turns them off."""
    freq_width: int = 27
    """SpecAugment: maximum width of a frequency mask, in features; drawn uniformly from 0 to this."""
    time_masks: int = 0
    """SpecAugment: number of time masks; 0 turns them off."""
    time_width: float = 0.05
    """SpecAugment: maximum length of a time mask, as a share of the utterance's frames (at least one frame)."""
    time_width_max: int = 0
    """SpecAugment: maximum length of a time mask in frames, for any utterance; 0 is no limit."""
    mask_value: float = 0.0
    """SpecAugment: value of masked features; 0 is the mean of normalized features."""

    def __post_init__(self):
        shares = ("reverb", "noise", "gain", "time_width")
        ranges = ("reverb_seconds", "reverb_direct", "noise_snr", "gain_db")
        checks = [(0 <= getattr(self, n) <= 1, n, getattr(self, n), "0 to 1") for n in shares]
        for name in ranges:
            low, high = getattr(self, name)
            checks.append((low <= high, name, (low, high), "(lowest, highest)"))
        checks += [
            (all(0.5 <= f <= 2 for f in self.speed), "speed", self.speed, "factors from 0.5 to 2"),
            (self.reverb_seconds[0] > 0, "reverb_seconds", self.reverb_seconds, "times above 0"),
            (self.reverb_length > 0, "reverb_length", self.reverb_length, "a time above 0"),
            (len(self.noise_colors) > 0, "noise_colors", self.noise_colors, "at least one"),
        ]
        counts = ("freq_masks", "freq_width", "time_masks", "time_width_max")
        checks += [(getattr(self, n) >= 0, n, getattr(self, n), "0 or more") for n in counts]
        _check("AugmentConfig", checks)

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = {}
        for effect, names in (
            ("reverb", ("reverb_seconds", "reverb_direct", "reverb_length")),
            ("noise", ("noise_snr", "noise_colors")),
            ("gain", ("gain_db",)),
            ("freq_masks", ("freq_width",)),
            ("time_masks", ("time_width", "time_width_max")),
        ):
            if not getattr(self, effect):
                idle |= dict.fromkeys(names, f"with {{{effect}}}")
        masked = self.freq_masks or self.time_masks
        return idle if masked else idle | {"mask_value": "with {freq_masks} and {time_masks}"}


def _check(where: str, checks: list[tuple]) -> None:
    for passed, name, value, expected in checks:
        if not passed:
            raise UserError(f"{where}.{name}: found {value}, expected {expected}")


def fingerprint(config: AudioConfig) -> str:
    """Return the SHA-256 (hexadecimal) of the settings that affect the features of a recording.

    Models that are used together must have equal fingerprints. Dither is excluded, because only training uses it.
    Fields added to AudioConfig later count only if they are not at their default, so that the fingerprints of earlier
    checkpoints stay valid. Integers in float fields are converted first, as they are when read from a checkpoint.
    """
    settings = to_dict(from_dict(AudioConfig, to_dict(dataclasses.replace(config, dither=0.0))))
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_same_audio(first: AudioConfig, second: AudioConfig, first_name: str, second_name: str) -> None:
    """Raise UserError unless both configs give the same features of a recording.

    For an acoustic model and its vocoder, or a checkpoint and the config that resumes it. The error names each setting
    that differs, with both values.

    Args:
        first: settings to check.
        second: settings that they must agree with.
        first_name: name of the model or file with the first settings, for the message.
        second_name: name of the model or file with the second settings.
    """
    if fingerprint(first) == fingerprint(second):
        return
    differing = differences(first, dataclasses.replace(second, dither=first.dither), "audio")
    first_values = ", ".join(f"{name} = {describe_value(value)}" for name, value, _ in differing)
    second_values = ", ".join(f"{name} = {describe_value(value)}" for name, _, value in differing)
    raise UserError(f"{first_name}: found {first_values}; expected the features of {second_name}: {second_values}")


@dataclass(frozen=True)
class TrimConfig:
    """Detection of the silence at both ends of an utterance."""

    by: Literal["none", "energy", "vad"] = "none"
    """Detector. none: no trimming. energy: level of short frames. vad: Silero's voice activity detector (extra
    `vad`)."""
    below_peak: float = 40.0
    """For energy: frames more than this many dB below the loudest frame are silent. Clean recordings allow 60 (r9y9,
    librosa); noise or breath at the ends requires 30. Too low a value cuts off weak consonants."""
    threshold: float = 0.5
    """For vad: minimum speech probability of a chunk of 32 ms."""
    margin: float = 0.1
    """Seconds kept before the first sound and after the last. The vad detects weak consonants late: 0.2 is safer
    with it."""

    def __post_init__(self):
        checks = [
            (self.below_peak > 0, "below_peak", self.below_peak, "decibels above 0"),
            (0 < self.threshold < 1, "threshold", self.threshold, "a probability between 0 and 1"),
            (self.margin >= 0, "margin", self.margin, "0 or more seconds"),
        ]
        for passed, name, value, expected in checks:
            if not passed:
                raise UserError(f"TrimConfig.{name}: found {value}, expected {expected}")
