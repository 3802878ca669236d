"""Make tests/audio/golden/{nvidia,torchaudio,r9y9,lws}.npz: the mel spectrograms of public synthesis systems.

    python experiments/parity/mel.py    # a convention whose package is missing is skipped

Each convention is the published arithmetic written down anew in float64, on another path than speech_jax's: a
convolution with Fourier filters (NVIDIA), torch.stft (torchaudio), scipy and librosa (r9y9's last version), the lws
library and librosa (r9y9's released model). lws 1.2.8 is built from its .pyx, since its generated C++ is too old for
Python 3.11: `cython -3 --cplus lws.pyx -o lws.bycython.cpp`, then `pip install --no-build-isolation .`
The waveforms are those of features.py; here they count as 22,050 samples a second.
"""

from __future__ import annotations

import librosa
import numpy as np
from features import write

RATE = 22050
# Any 80 numbers, in place of the statistics that r9y9's recipe computes over its training set.
MEAN, STD = np.linspace(-1.5, -3.5, 80), np.linspace(0.9, 0.6, 80)


def nvidia_conventions() -> dict:
    import torch

    def mel(wave):
        """The recording, mirrored by half a window, convolved with windowed cosines and sines (their STFT class)."""
        size, hop = 1024, 256
        window = np.sin(np.pi * np.arange(size) / size) ** 2
        turns = np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
        filters = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)]) * window
        padded = np.pad(wave.astype(np.float64), size // 2, mode="reflect")
        both = torch.nn.functional.conv1d(
            torch.from_numpy(padded)[None, None], torch.from_numpy(filters)[:, None], stride=hop
        )[0].numpy()
        magnitude = np.hypot(both[: size // 2 + 1], both[size // 2 + 1 :])
        bands = librosa.filters.mel(sr=RATE, n_fft=size, n_mels=80, fmin=0.0, fmax=8000.0, dtype=np.float64)
        return np.log(np.clip(bands @ magnitude, 1e-5, None)).T

    return {"tacotron2": mel}


def torchaudio_conventions() -> dict:
    import torch

    def mel_hertz(mel):
        """Slaney's scale (Auditory Toolbox): 200/3 Hz a mel up to 1 kHz, then a factor of 6.4 in 27."""
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    def hertz_mel(hertz):
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    def bands(bins, fmin, fmax, count):
        """Slopes up and down over hertz, as torchaudio.functional.melscale_fbanks; area 1."""
        hertz = np.linspace(0, RATE // 2, bins)
        corners = mel_hertz(np.linspace(hertz_mel(fmin), hertz_mel(fmax), count + 2))
        width = np.diff(corners)
        slopes = corners[None] - hertz[:, None]
        down, up = -slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]
        return np.maximum(0, np.minimum(down, up)) * (2 / (corners[2:] - corners[:-2]))

    def mel(wave, n_fft, window, hop, fmin, fmax):
        audio, hann = torch.from_numpy(wave.astype(np.float64)), torch.hann_window(window, dtype=torch.float64)
        spectrum = torch.stft(audio, n_fft, hop, window, hann, center=True, pad_mode="reflect", return_complex=True)
        return np.log(np.maximum(spectrum.abs().numpy().T @ bands(n_fft // 2 + 1, fmin, fmax, 80), 1e-5))

    return {"wavernn": lambda w: mel(w, 2048, 1100, 275, 40.0, 11025.0)}


def r9y9_conventions() -> dict:
    from scipy import signal

    def mel(wave):
        wave = signal.lfilter(signal.firwin(255, 70 / (RATE // 2), pass_zero=False), 1, wave.astype(np.float64))
        spectrum = librosa.stft(
            wave, n_fft=1024, hop_length=256, window="hann", pad_mode="reflect", dtype=np.complex128
        )
        bands = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=80, fmin=125, fmax=7600, dtype=np.float64)
        return np.log10(np.maximum(bands @ np.abs(spectrum), 1e-10)).T

    return {"master": lambda w: (mel(w) - MEAN) / STD}


def lws_conventions() -> dict:
    import lws

    transform = lws.lws(1024, 256, mode="speech")

    def mel(wave):
        spectrum = transform.stft(wave.astype(np.float64)).T
        bands = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=80, fmin=125, fmax=7600, dtype=np.float64)
        decibels = 20 * np.log10(np.maximum(bands @ np.abs(spectrum), 1e-5)) - 20
        return np.clip((decibels + 100) / 100, 0, 1).T

    # The second is loud beyond [-1, 1], for the upper end of the clipping.
    return {"released": mel, "released_loud": lambda w: mel(w * 100)}


if __name__ == "__main__":
    made = {
        "nvidia": nvidia_conventions,
        "torchaudio": torchaudio_conventions,
        "r9y9": r9y9_conventions,
        "lws": lws_conventions,
    }
    for name, make in made.items():
        try:
            conventions = make()
        except ImportError as error:
            print(f"{name}: skipped, {error}")
            continue
        write(name, conventions)
