"""The table and the pictures: `python -m experiments.real_vocoder.summary RUN TEST.jsonl MADE RESULTS`.

For every way to make the test recordings again from their own mel frames: what `evaluate --speech` measured, the mean
distance of the log-mel frames (nats of magnitude, frame by frame, no warping), and the likelihood of the
recordings under each kind of weights of the native step. Writes clip_N.png, the log-mel spectrograms side by side.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.image import imsave

from speech_jax.artifacts.vocoder import load_vocoder_parts
from speech_jax.audio.config import AudioConfig
from speech_jax.data.manifest import Utterance, read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.decoding.wavenet.scan import layers_condition
from speech_jax.decoding.wavenet.stream import windows
from speech_jax.evaluation.voice_plots import mel_picture
from speech_jax.inference.resynthesis import mel_of
from speech_jax.inference.vocoder import WaveNetVocoder
from speech_jax.kernels.wavenet import native
from speech_jax.models.wavenet_condition import condition, reach, rows_per_frame
from speech_jax.objectives.waveform import waveform_nll
from speech_jax.tasks.wavenet import frame_offset, prepare

MEASURES = {"mcd": "MCD, dB", "f0_cents": "F0, cents", "f0_correlation": "F0 correlation",
            "voicing_error": "voicing error, %", "stoi": "STOI", "dnsmos": "DNSMOS (proxy)",
            "dnsmos_reference": "of the recordings"}  # fmt: skip
PICTURES = 3
CLIPS = 24  # whose likelihood is computed


def mel_distance(original: np.ndarray, made: np.ndarray, audio: AudioConfig) -> float:
    """Mean absolute difference of two recordings' log-mel frames."""
    both = [mel_of(x, audio) for x in (original, made)]
    frames = min(map(len, both))
    return float(np.abs(both[0][:frames] - both[1][:frames]).mean())


def followed(vocoder: WaveNetVocoder, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(conditioning [1, rows, layers, gate], the samples [1, time] that the net is to follow, samples of a row) of a
    recording."""
    net, task = vocoder.net, vocoder.task
    size = len(wave) // net.config.hop * net.config.hop
    batch = {"audio": wave[None, :size], "audio_lengths": np.full(1, size), "index": np.zeros(1, np.int32)}
    heard = prepare(task, jax.tree.map(jnp.asarray, batch))
    given = np.asarray(heard["wave"])
    mel = np.asarray(heard["mel"][0, : int(heard["frames"][0])])
    back, ahead = reach(net.config.condition, net.config.hop)
    ((window, own, _),) = windows([mel], len(mel), back, ahead)
    vectors = condition(net.config.condition, net.params["condition"], window[None], own[None], net.config.hop)
    share = net.config.hop // rows_per_frame(net.config.condition, net.config.hop)
    first = frame_offset(task.audio) * net.config.hop // share  # what lies before the recording's first sample
    cond = np.asarray(layers_condition(net.config, net.params, vectors))[:, first : first + size // share]
    return cond, given[:, : cond.shape[1] * share], share


def nats_a_sample(vocoder: WaveNetVocoder, wave: np.ndarray, dtype: native.Dtype) -> tuple[float, int]:
    """(nats of a recording under the native step with such weights, its samples)."""
    net = vocoder.net
    cond, given, share = followed(vocoder, wave)
    packed = native.pack(net.shape, net.weights, dtype)
    outputs, _ = native.follow(packed, native.start(packed, 1), cond, share, given)
    nll = waveform_nll(net.config.output, jnp.asarray(outputs), jnp.asarray(given),
                       min_log_scale=net.config.min_log_scale, levels=net.config.levels)  # fmt: skip
    return float(nll.sum()), outputs.shape[1]


def main(run: str, test: str, made: str, results: str) -> None:
    vocoder = WaveNetVocoder(load_vocoder_parts(run), "native")
    audio, recordings = vocoder.audio, {u.id: u for u in read_manifest(test)}
    print("| way | clips | mel distance | " + " | ".join(MEASURES.values()) + " |")
    print("|---|---:|---:|" + "---:|" * len(MEASURES))
    ways = {
        path.parent.name: {u.id: u for u in read_manifest(path)} for path in sorted(Path(made).glob("*/manifest.jsonl"))
    }

    def wave(utterance: Utterance) -> np.ndarray:
        return read_recording(utterance, audio.sample_rate)

    for name, rows in ways.items():
        distance = [mel_distance(wave(recordings[key]), wave(row), audio) for key, row in rows.items()]
        found = json.loads((Path(results) / name / "report.json").read_text(encoding="utf-8"))["all"]
        cells = [
            f"{found[m]['mean']:.3f} ({found[m]['low']:.3f}–{found[m]['high']:.3f})" if m in found else ""
            for m in MEASURES
        ]
        print(f"| {name} | {len(rows)} | {np.mean(distance):.3f} | {' | '.join(cells)} |")

    print("\n| weights | nats a sample | more than float32 |\n|---|---:|---:|")
    nats: dict[str, float] = {}
    for dtype in native.DTYPES:
        pairs = [nats_a_sample(vocoder, wave(u), dtype) for u in list(recordings.values())[:CLIPS]]
        nats[dtype] = sum(total for total, _ in pairs) / sum(size for _, size in pairs)
        print(f"| {dtype} | {nats[dtype]:.4f} | {nats[dtype] - nats['float32']:+.4f} |")

    for number, (key, utterance) in enumerate(list(recordings.items())[:PICTURES]):
        panels = [("recording", mel_of(wave(utterance), audio))]
        panels += [(name, mel_of(wave(rows[key]), audio)) for name, rows in ways.items() if key in rows]
        imsave(Path(results) / f"clip_{number}.png", mel_picture(panels, audio.hop / audio.sample_rate))


if __name__ == "__main__":
    main(*sys.argv[1:])
