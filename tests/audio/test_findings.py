"""What is wrong with recordings that can be read."""

import numpy as np
import pytest
import soundfile
import soxr

from speech_jax.audio.findings import KINDS, signal_findings
from speech_jax.audio.io import decode

RATE = 16_000
noise = np.random.default_rng(0).standard_normal
SPEECHLIKE = (0.05 * noise(2 * RATE) * np.repeat(1 + np.abs(noise(20)), RATE // 10)).astype(np.float32)


def band_limited(rate: int) -> np.ndarray:
    return soxr.resample(soxr.resample(SPEECHLIKE, RATE, rate), rate, RATE)


@pytest.mark.parametrize(
    "samples,file_rate,kinds",
    [
        (SPEECHLIKE, RATE, []),
        (SPEECHLIKE / np.abs(SPEECHLIKE).max(), RATE, []),  # at full scale, not clipped
        (0.01 * SPEECHLIKE, RATE, []),  # quiet
        (0 * SPEECHLIKE, RATE, ["silent"]),
        (1e-4 * SPEECHLIKE, RATE, ["silent"]),
        (np.clip(10 * SPEECHLIKE, -1, 1), RATE, ["clipped"]),
        (0.3 * np.clip(10 * SPEECHLIKE, -1, 1), RATE, ["clipped"]),  # clipped, and weakened afterwards
        (np.sign(SPEECHLIKE), RATE, ["clipped"]),
        (SPEECHLIKE, 8_000, ["lower rate"]),
        (band_limited(8_000), RATE, ["narrow band"]),
        (band_limited(11_025), RATE, ["narrow band"]),
        (np.sin(np.arange(RATE) * 0.1).astype(np.float32), RATE, []),  # a tone is neither
        (np.zeros(1, np.float32), RATE, ["silent"]),
    ],
)
def test_findings(samples, file_rate, kinds):
    findings = signal_findings(samples.astype(np.float32), RATE, file_rate)
    assert [finding.kind for finding in findings] == kinds
    assert all(finding.kind in KINDS and finding.text for finding in findings)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_an_encoders_delay_and_padding_are_no_finding(rate, tmp_path):
    soundfile.write(tmp_path / "a.mp3", 0.1 * np.random.default_rng(0).normal(size=2 * rate), rate)
    recording = decode(tmp_path / "a.mp3", None)
    assert (len(recording.samples), recording.findings) == (2 * rate, ())
