"""The settings of the features and of the augmentation. Ready-made ones are in `presets`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from speech_jax.core.config_dict import from_dict, new_field, to_dict
from speech_jax.core.errors import UserError


@dataclass(frozen=True)
class AudioConfig:
    """How a waveform becomes features. The default is NeMo's front end since version 2.4 (`presets.nemo`).

    Lengths are in samples. A field that a kind of feature does not use is ignored.
    """

    sample_rate: int = 16000
    """Samples a second that the waveform must have."""
    features: Literal["log_mel", "mfcc", "waveform"] = "log_mel"
    """What is computed: log-mel energies, or their cosine transform. "waveform": nothing, for a network that hears
    samples (wav2vec 2.0). A frame is then a sample, with one feature, hop must be 1, and of the settings below only
    `scale`, `dither`, `pre_emphasis` over the utterance and `normalize` count."""
    scale: float = 1.0
    """The waveform in [-1, 1] is multiplied by this first; 32768 gives Kaldi's integer range."""
    window: int = 400
    """Length of the analysis window."""
    hop: int = 160
    """Distance between frames."""
    n_fft: int = 512
    """Length of the Fourier transform, at least `window`; the window is centered in it and zero-padded."""
    window_shape: Literal["hann", "hann_symmetric", "hamming", "hamming_symmetric", "povey", "sine", "rectangular"] = (
        "hann_symmetric"
    )
    """"hann" and "hamming" are periodic (librosa, torch's default); Kaldi's povey is the symmetric hann to the 0.85;
    "sine" is sin(π·(n + ½)/window), the root of a hann (lws)."""
    framing: Literal["center", "center_even", "kaldi", "snip_edges", "full"] = "center_even"
    """Where frame t lies, and how many there are for L samples: "center": around sample t·hop, L//hop + 1 frames;
    "center_even": the same without the last, L//hop; "kaldi": around (t + ½)·hop, (L + hop//2)//hop frames;
    "snip_edges": from sample t·hop, only the frames that fit; "full": every frame that holds a sample, the first only
    the first hop, ceil(L/hop) + ceil(window/hop) - 1 (lws); its padding is "zero"."""
    padding: Literal["zero", "reflect", "symmetric"] = "zero"
    """What lies beyond both ends of the utterance: zeros, its mirror image without the edge sample (torch.stft), or
    with it (Kaldi). An utterance shorter than half a window has zeros beyond its image."""
    remove_dc: bool = False
    """Whether each frame's mean is taken off (Kaldi)."""
    high_pass: float = new_field(0.0)
    """Cut-off in hertz of a filter that runs over the utterance first (`mel.high_pass_taps`: 255 taps, it delays by
    127 samples); 0 turns it off."""
    pre_emphasis: float = 0.97
    """Coefficient c of y[n] = x[n] - c·x[n-1]; 0 turns it off."""
    pre_emphasis_by: Literal["utterance", "frame"] = "utterance"
    """Whether the filter runs over the utterance (NeMo) or inside each frame, where y[0] = (1 - c)·x[0] (Kaldi)."""
    dither: float = 1e-5
    """Standard deviation of the white noise added in training, in units of the scaled waveform."""
    power: Literal[1, 2] = 2
    """Exponent of the magnitude spectrum: 1 magnitude (Tacotron), 2 power."""
    num_mels: int = 80
    """Number of mel bands."""
    mel_scale: Literal["slaney", "htk", "kaldi"] = "slaney"
    """Slaney's; HTK's formula with bands that are triangles over hertz (librosa, torch), or over mel (Kaldi)."""
    mel_norm: Literal["none", "slaney"] = "slaney"
    """Peak 1, or an area of 1 a band."""
    fmin: float = 0.0
    """Lower edge of the lowest band, in hertz."""
    fmax: float = 0.0
    """Upper edge of the highest band, in hertz; 0 or less counts from half the sample rate."""
    log: Literal["natural", "log10", "decibel"] = "natural"
    """ln, log10, or 10·log10 (20·log10 of magnitudes)."""
    floor: float = 2.0**-24
    """The least energy that the logarithm sees; above zero."""
    floor_by: Literal["add", "clamp"] = "add"
    """Whether the floor is added to every energy (NeMo) or lifts those below it."""
    ceiling: float = new_field(0.0)
    """The greatest energy that the logarithm sees; 0 is no limit."""
    top_range: float = 0.0
    """Features further than this below the utterance's greatest are lifted to it (librosa: 80 dB); 0 turns it off."""
    num_cepstra: int = 13
    """Number of MFCCs kept, from the zeroth."""
    lifter: float = 0.0
    """Q in the weight 1 + Q/2·sin(π·(i + lifter_offset)/Q) of MFCC i; 0 turns it off."""
    lifter_offset: int = 0
    """Where the lifter's count begins: 0 in Kaldi and HTK, 1 in librosa."""
    log_energy: bool = False
    """Whether MFCC 0 is the frame's log energy, before pre-emphasis and window (Kaldi's use_energy, raw_energy)."""
    deltas: int = 0
    """How many orders of time derivatives are appended (Kaldi's add-deltas)."""
    delta_window: int = 2
    """Frames on each side that a derivative looks at."""
    normalize: Literal["none", "utterance", "global", "unit_variance"] = "utterance"
    """Nothing; each feature to mean 0 and deviation 1 over the utterance's frames (unbiased, 1e-5 added, as NeMo); with
    the constants `mean` and `std`, which `estimate_statistics` computes; or over the utterance with the biased
    variance, to which 1e-7 is added (transformers' do_normalize for wav2vec 2.0)."""
    mean: tuple[float, ...] = ()
    """Mean of each feature, for normalize = "global"."""
    std: tuple[float, ...] = ()
    """Standard deviation of each feature, for normalize = "global"."""

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
            checks += [(len(v) == width, name, f"{len(v)} values", f"{width}, one a feature")
                       for name, v in (("mean", self.mean), ("std", self.std))]  # fmt: skip
            checks += [(all(s > 0 for s in self.std), "std", min(self.std, default=0), "numbers above 0")]
        _check("AudioConfig", checks)

    @property
    def width(self) -> int:
        """Features a frame, derivatives included."""
        own = {"log_mel": self.num_mels, "mfcc": self.num_cepstra, "waveform": 1}
        return own[self.features] * (1 + self.deltas)

    @property
    def highest(self) -> float:
        """The upper edge of the highest band, in hertz."""
        return self.fmax if self.fmax > 0 else self.sample_rate / 2 + self.fmax


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to the waveform and the features. Every effect is off by default; see `presets`.

    A probability is drawn for each utterance on its own.
    """

    speed: tuple[float, ...] = ()
    """Factors of speed and pitch, e.g. (0.9, 1.0, 1.1), drawn with equal chances; empty is off."""
    reverb: float = 0.0
    """Probability of reverberation."""
    reverb_seconds: tuple[float, float] = (0.1, 0.6)
    """Least and greatest time in which a simulated room's echo decays by 60 dB."""
    reverb_direct: tuple[float, float] = (-3.0, 12.0)
    """Least and greatest ratio of a simulated room's direct sound to its echo, in dB."""
    reverb_length: float = 0.4
    """Seconds that a simulated response lasts; what rings longer is cut."""
    noise: float = 0.0
    """Probability of added noise."""
    noise_snr: tuple[float, float] = (5.0, 30.0)
    """Least and greatest ratio of the utterance's power to the noise's, in dB, both over the utterance."""
    noise_colors: tuple[Literal["white", "pink"], ...] = ("white", "pink")
    """Kinds of synthetic noise, drawn with equal chances, where no recordings are given."""
    gain: float = 0.0
    """Probability of a change of level."""
    gain_db: tuple[float, float] = (-12.0, 6.0)
    """Least and greatest change of level, in dB."""
    freq_masks: int = 0
    """SpecAugment: number of bands of features that are masked."""
    freq_width: int = 27
    """SpecAugment: greatest width of such a band; 0 to this many features are drawn."""
    time_masks: int = 0
    """SpecAugment: number of spans of time that are masked."""
    time_width: float = 0.05
    """SpecAugment: greatest length of such a span, as a share of the utterance's frames (at least one frame)."""
    time_width_max: int = 0
    """SpecAugment: greatest length of such a span in frames, whatever the utterance's; 0 is no limit."""
    mask_value: float = 0.0
    """SpecAugment: what masked features become; 0 is the mean of normalized features."""

    def __post_init__(self):
        shares = ("reverb", "noise", "gain", "time_width")
        ranges = ("reverb_seconds", "reverb_direct", "noise_snr", "gain_db")
        checks = [(0 <= getattr(self, n) <= 1, n, getattr(self, n), "0 to 1") for n in shares]
        checks += [(getattr(self, n)[0] <= getattr(self, n)[1], n, getattr(self, n), "least, greatest") for n in ranges]
        checks += [
            (all(0.5 <= f <= 2 for f in self.speed), "speed", self.speed, "factors from 0.5 to 2"),
            (self.reverb_seconds[0] > 0, "reverb_seconds", self.reverb_seconds, "times above 0"),
            (self.reverb_length > 0, "reverb_length", self.reverb_length, "a time above 0"),
            (len(self.noise_colors) > 0, "noise_colors", self.noise_colors, "at least one"),
        ]
        counts = ("freq_masks", "freq_width", "time_masks", "time_width_max")
        checks += [(getattr(self, n) >= 0, n, getattr(self, n), "0 or more") for n in counts]
        _check("AugmentConfig", checks)


def _check(where: str, checks: list[tuple]) -> None:
    for good, name, found, expected in checks:
        if not good:
            raise UserError(f"{where}.{name}: found {found}, expected {expected}")


def fingerprint(config: AudioConfig) -> str:
    """SHA-256 (hexadecimal) of what `config` makes of a recording: two models may meet if theirs are equal.

    The dither counts for nothing: it exists in training alone. A field that was added to AudioConfig counts only where
    it is not at its default, so that the fingerprints of earlier checkpoints stay. 7600 hertz are 7600.0, as which they
    come back from a checkpoint.
    """
    settings = to_dict(from_dict(AudioConfig, to_dict(dataclasses.replace(config, dither=0.0))))
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_same_audio(first: AudioConfig, second: AudioConfig, first_name: str, second_name: str) -> None:
    """UserError unless both make the same features of a recording: an acoustic model and its vocoder, a checkpoint and
    the config that goes on with it. It names each setting in which they differ, with both values."""
    if fingerprint(first) == fingerprint(second):
        return
    pairs = [(f.name, getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(AudioConfig)]
    shown = [_difference(*pair) for pair in pairs if pair[1] != pair[2] and pair[0] != "dither"]
    ours = ", ".join(f"audio.{name} = {value}" for name, value, _ in shown)
    theirs = ", ".join(f"audio.{name} = {value}" for name, _, value in shown)
    raise UserError(f"{first_name}: found {ours}; expected the features of {second_name}: {theirs}")


def _difference(name: str, first, second) -> tuple[str, str, str]:
    """The setting's name and both values; of long statistics the first number that differs."""
    if isinstance(first, tuple) and len(first) == len(second) > 4:
        place = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
        return f"{name}[{place}]", repr(first[place]), repr(second[place])
    return name, *(f"{len(v)} values" if isinstance(v, tuple) and len(v) > 4 else repr(v) for v in (first, second))
