"""The features equal those of librosa, kaldi-native-fbank and NeMo, and of four public synthesis systems.

experiments/parity/features.py and experiments/parity/mel.py made the files.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from speech_jax.audio import presets
from speech_jax.audio.features import extract_features, num_features, num_frames

GOLDEN = Path(__file__).parent / "golden"
PADDING = 1234  # samples of garbage after the longest signal

replace = dataclasses.replace
librosa_frames = replace(
    presets.librosa(16000), n_fft=512, window=400, hop=160, num_mels=80, log="natural", floor=1e-6, floor_by="add",
    top_range=0.0,
)  # fmt: skip
# the statistics of mel.py, in place of a training set's
r9y9 = presets.r9y9_master(tuple(np.linspace(-1.5, -3.5, 80).tolist()), tuple(np.linspace(0.9, 0.6, 80).tolist()))
kaldi_deltas = replace(presets.kaldi_mfcc(), deltas=2)
CONVENTIONS = {
    "librosa.defaults": (presets.librosa(), 1e-4),
    "librosa.slaney": (librosa_frames, 1e-4),
    "librosa.htk": (replace(librosa_frames, num_mels=40, mel_scale="htk", mel_norm="none", padding="reflect"), 1e-4),
    "librosa.magnitude": (presets.nvidia_tacotron2(), 1e-4),
    "librosa.mfcc": (replace(presets.librosa(), features="mfcc", lifter=22.0), 1e-4),
    "kaldi.fbank": (presets.kaldi(), 1e-3),
    "kaldi.fbank_unscaled_all_frames": (replace(presets.kaldi(), scale=1.0, framing="kaldi"), 1e-3),
    "kaldi.mfcc_deltas": (kaldi_deltas, 1e-3),
    "nemo.version2": (presets.nemo(), 1e-4),
    "nemo.version2_not_normalised": (replace(presets.nemo(), normalize="none"), 1e-4),
    "nemo.version1": (presets.nemo(1), 1e-4),
    "nvidia.tacotron2": (presets.nvidia_tacotron2(), 1e-4),
    "torchaudio.wavernn": (presets.torchaudio_tacotron2(), 1e-4),
    "r9y9.master": (r9y9, 1e-4),
    "lws.released": (presets.r9y9_released(), 1e-4),
    "lws.released_loud": (replace(presets.r9y9_released(), scale=100 * presets.r9y9_released().scale), 1e-4),
}


@functools.cache
def signals():
    with np.load(GOLDEN / "signals.npz") as file:
        return {name: file[name].astype(np.float32) / 32768 for name in file.files}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equals_the_public_implementation(convention):
    """In one batch, beside longer utterances and with garbage in the padding, each row equals the lone recording."""
    config, bar = CONVENTIONS[convention]
    package, name = convention.split(".")
    lengths = np.array([len(wave) for wave in signals().values()])
    audio = np.full((len(lengths), lengths.max() + PADDING), np.nan, np.float32)
    for row, wave in zip(audio, signals().values(), strict=True):
        row[: len(wave)] = wave
    features, mask = jax.jit(functools.partial(extract_features, config=config))(audio, lengths)
    assert features.shape == (len(lengths), num_frames(audio.shape[1], config), num_features(config))
    with np.load(GOLDEN / f"{package}.npz") as golden:
        for row, signal in enumerate(signals()):
            count, frames = int(golden[f"count.{name}.{signal}"]), golden[f"frames.{name}.{signal}"]
            assert int(mask[row].sum()) == count == num_frames(int(lengths[row]), config)
            # MFCCs reach several hundred, and float32 sums differ by some steps (6e-8 each) from one instruction set
            # to the next: hence the relative part.
            rtol = 1e-6 if config.features == "mfcc" else 2e-7
            np.testing.assert_allclose(
                np.asarray(features[row])[frames], golden[f"{name}.{signal}"], rtol=rtol, atol=bar, err_msg=signal
            )


def test_golden_files_stay_small():
    assert 0 < sum(path.stat().st_size for path in GOLDEN.glob("*.npz")) < 300_000
