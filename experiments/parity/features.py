"""Make tests/audio/golden/*.npz: what librosa, kaldi-native-fbank and NeMo 3.0 compute for a few short signals.

    python experiments/parity/features.py    # a package of the extra `parity` that is missing is skipped

signals.npz has the waveforms (int16, 16 kHz); each other file has, for convention and signal, an array `NAME.SIGNAL` of
the features at the frames `frames.NAME.SIGNAL` and the number of all frames `count.NAME.SIGNAL`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "audio" / "golden"
RATE = 16000


def speech_like(samples: int, seed: int) -> np.ndarray:
    """Pulses at a gliding pitch through three resonances, a burst of noise, a pause of exact zeros, a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    phase = np.cumsum(110 + 60 * np.sin(2 * np.pi * 3 * time)) / RATE
    source = (np.diff(np.floor(phase), prepend=0) > 0).astype(float) + 0.02 * random.standard_normal(samples)
    wave = np.zeros(samples)
    for hertz, width in ((600, 80), (1400, 120), (2700, 200)):
        length = np.arange(400) / RATE
        response = np.exp(-np.pi * width * length) * np.sin(2 * np.pi * hertz * length)
        wave += np.convolve(source, response)[:samples]
    burst = slice(samples // 2, samples // 2 + samples // 8)
    wave[burst] = 0.5 * random.standard_normal(samples)[burst]
    wave *= 0.3 / np.abs(wave).max()
    wave += 0.001 * random.standard_normal(samples) + 0.005  # 0.005: an offset for remove_dc to take off
    wave[samples // 3 : samples // 3 + samples // 10] = 0
    return wave


def signals() -> dict[str, np.ndarray]:
    """name -> int16 [samples]."""
    random = np.random.default_rng(7)
    waves = {
        "speech": speech_like(16000, 1),
        "noise": 0.2 * random.standard_normal(5321),
        "short": speech_like(2500, 2),
    }
    return {name: np.clip(np.round(w * 32768), -32768, 32767).astype(np.int16) for name, w in waves.items()}


def selected(count: int) -> np.ndarray:
    """The frames that are kept: both ends, where padding shows, and some between."""
    keep = set(range(8)) | set(range(count - 8, count)) | set(range(0, count, 9))
    return np.array(sorted(k for k in keep if 0 <= k < count))


def write(name: str, conventions: dict) -> None:
    """conventions: name -> function from a float32 waveform to [frames, features]."""
    arrays = {}
    for convention, compute in conventions.items():
        for signal, wave in signals().items():
            features = np.asarray(compute(wave.astype(np.float32) / 32768), np.float32)
            frames = selected(len(features))
            arrays[f"{convention}.{signal}"] = features[frames]
            arrays[f"frames.{convention}.{signal}"] = frames
            arrays[f"count.{convention}.{signal}"] = np.array(len(features))
    np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    print(f"{name}.npz: {', '.join(conventions)}; {(GOLDEN / f'{name}.npz').stat().st_size / 1024:.0f} KiB")


def librosa_conventions() -> dict:
    import librosa

    def mel(wave, **options):
        return librosa.feature.melspectrogram(y=wave, **options)

    frame = dict(n_fft=512, win_length=400, hop_length=160, sr=RATE)
    return {
        "defaults": lambda w: librosa.power_to_db(mel(w, sr=22050)).T,
        "slaney": lambda w: np.log(mel(w, n_mels=80, **frame) + 1e-6).T,
        "htk": lambda w: np.log(mel(w, n_mels=40, htk=True, norm=None, pad_mode="reflect", **frame) + 1e-6).T,
        "magnitude": lambda w: np.log(np.maximum(mel(w, sr=22050, n_fft=1024, hop_length=256, n_mels=80, fmax=8000,
                                                     power=1.0, pad_mode="reflect"), 1e-5)).T,
        "mfcc": lambda w: librosa.feature.mfcc(y=w, sr=22050, lifter=22).T,
    }  # fmt: skip


def kaldi_conventions() -> dict:
    import kaldi_native_fbank as knf

    def run(wave, options, online, scale, snip_edges):
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = snip_edges
        computer = online(options)
        computer.accept_waveform(RATE, (wave * scale).tolist())
        computer.input_finished()
        return np.stack([np.array(computer.get_frame(i)) for i in range(computer.num_frames_ready)])

    def fbank(wave, scale, snip_edges):
        options = knf.FbankOptions()
        options.mel_opts.num_bins = 80
        return run(wave, options, knf.OnlineFbank, scale, snip_edges)

    def mfcc(wave):
        return run(wave, knf.MfccOptions(), knf.OnlineMfcc, 32768.0, True)

    deltas = knf.DeltaOptions()
    deltas.order, deltas.window = 2, 2
    return {
        "fbank": lambda w: fbank(w, 32768.0, True),
        "fbank_unscaled_all_frames": lambda w: fbank(w, 1.0, False),
        "mfcc_deltas": lambda w: knf.compute_deltas(deltas, mfcc(w).astype(np.float32)),
    }


def nemo_conventions() -> dict:
    import torch
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures

    class Before(FilterbankFeatures):
        """The arithmetic of the releases before 2.4: ends mirrored by torch.stft, and a frame more."""

        def stft(self, x):
            return torch.stft(x, self.n_fft, self.hop_length, self.win_length, self.window, True, return_complex=True)

        def get_seq_len(self, samples):
            return samples // self.hop_length + 1

    options = dict(n_window_size=400, n_window_stride=160, n_fft=512, nfilt=80, dither=0.0, pad_to=0)

    def run(kind, wave, **more):
        featurizer = kind(**options, **more).eval()
        features, length = featurizer(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
        return features[0, :, : int(length[0])].T.numpy()

    return {
        "version2": lambda w: run(FilterbankFeatures, w),
        "version2_not_normalized": lambda w: run(FilterbankFeatures, w, normalize=None),
        "version1": lambda w: run(Before, w),
    }


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / "signals.npz", **signals())
    for name, make in (("librosa", librosa_conventions), ("kaldi", kaldi_conventions), ("nemo", nemo_conventions)):
        try:
            conventions = make()
        except ImportError as error:
            print(f"{name}: skipped, {error}")
            continue
        write(name, conventions)
