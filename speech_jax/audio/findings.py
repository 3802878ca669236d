"""Findings on a recording that can be read but may not be what it should be: silent, clipped, narrow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = {
    "length": "the container promises another length than is decoded",
    "cut off": "the end is missing",
    "damaged": "a part cannot be decoded",
    "clipped segment": "the segment ends after its recording and is clipped",
    "tracks": "it has other tracks of sound, which are not read",
    "opposite phase": "the channels cancel each other in their mean",
    "silent": "no sample is above -60 dB",
    "clipped": "samples are cut at the greatest value",
    "lower rate": "the file has a lower sample rate than is asked for",
    "narrow band": "the content ends below half the sample rate, as after resampling",
}
"""Each kind of finding, in the order of reports, with its meaning."""

_SILENT = 1e-3
_CLIPPED_SHARE = 2e-3  # of all samples within 1 % of the peak, and more than lie between 90 and 98 % of it
_SOURCE_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000)
_CLIFF = 20.0  # dB from below a cutoff to above it
_FFT = 512
_BLOCK = 1 << 20


class Finding(NamedTuple):
    """Something that is wrong with a recording.

    Attributes:
        kind: one of `KINDS`.
        text: what was found, without the file's name.
    """

    kind: str
    text: str


def signal_findings(samples: Float[np.ndarray, "time"], sample_rate: int, file_rate: int) -> list[Finding]:
    """Return findings on the samples of a recording.

    Args:
        samples: the recording, in [-1, 1], at `sample_rate`.
        sample_rate: samples per second that were asked for.
        file_rate: samples per second of the file.

    Returns:
        Findings of the kinds silent, clipped, lower rate and narrow band.

    Example:
        >>> import numpy as np
        >>> from speech_jax.audio.findings import signal_findings
        >>> square = np.sign(np.sin(np.arange(8000) * 0.05)).astype(np.float32)
        >>> [finding.kind for finding in signal_findings(square, 16_000, 8_000)]
        ['clipped', 'lower rate']
    """
    findings: list[Finding] = []
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if peak < _SILENT:
        text = f"its largest sample is at {20 * np.log10(peak):.0f} dB" if peak > 0 else "all its samples are 0"
        findings.append(Finding("silent", text))
    else:
        top = near = 0
        for begin in range(0, len(samples), _BLOCK):  # a recording of hours is not copied
            sizes = np.abs(samples[begin : begin + _BLOCK])
            top += np.count_nonzero(sizes >= 0.99 * peak)
            near += np.count_nonzero((sizes >= 0.9 * peak) & (sizes < 0.98 * peak))
        if top > max(_CLIPPED_SHARE * len(samples), near):
            share = 100 * top / len(samples)
            findings.append(Finding("clipped", f"{share:.1f} % of the samples are at the peak of {peak:.2f}"))
    if file_rate < sample_rate:
        findings.append(Finding("lower rate", f"recorded at {file_rate} Hz, lower than {sample_rate} Hz"))
    elif peak >= _SILENT and (band := _band(samples, sample_rate)):
        text = f"its content ends at {band:.0f} Hz, as of a recording at {2 * band:.0f} Hz, not {sample_rate} Hz"
        findings.append(Finding("narrow band", text))
    return findings


def _band(samples: Float[np.ndarray, "time"], sample_rate: int) -> float:
    """Return where the spectrum ends, in Hz, if it ends steeply at half of a usual lower rate; else 0."""
    frames = len(samples) // _FFT
    if frames < 8:
        return 0.0
    step = max(1, frames // 100)  # a long recording need not be transformed whole
    framed = samples[: frames * _FFT].reshape(frames, _FFT)[::step]
    spectra = np.fft.rfft(framed * np.hanning(_FFT).astype(np.float32))
    power = np.mean(spectra.real**2 + spectra.imag**2, axis=0)
    level = 10 * np.log10(power + 1e-12)
    frequency = np.arange(len(level)) * sample_rate / _FFT
    for rate in _SOURCE_RATES:
        cutoff = rate / 2
        if 1.2 * cutoff > sample_rate / 2:
            break
        below = level[(frequency >= 0.7 * cutoff) & (frequency <= 0.85 * cutoff)].max()
        above = level[frequency >= 1.08 * cutoff].max()
        if below - above > _CLIFF:
            return cutoff
    return 0.0
