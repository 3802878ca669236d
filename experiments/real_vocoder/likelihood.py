"""Distance of mel frames, and likelihood of recordings under the kinds of weights of the native step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio.config import AudioConfig
from speech_jax.decoding.wavenet.scan import stack_layer_conditions
from speech_jax.decoding.wavenet.stream import frame_windows
from speech_jax.inference.resynthesis import extract_mel
from speech_jax.inference.vocoder import WaveNetVocoder
from speech_jax.kernels.wavenet import native
from speech_jax.models.wavenet_condition import condition, reach, rows_per_frame
from speech_jax.objectives.waveform import waveform_nll
from speech_jax.tasks.wavenet_task import frame_offset, prepare

CLIPS = 24  # whose likelihood is computed


def mel_distance(original: np.ndarray, made: np.ndarray, audio: AudioConfig) -> float:
    """Return the mean absolute difference of two recordings' log-mel frames, in nats of magnitude."""
    both = [extract_mel(x, audio) for x in (original, made)]
    frames = min(map(len, both))
    return float(np.abs(both[0][:frames] - both[1][:frames]).mean())


def followed(vocoder: WaveNetVocoder, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Prepare a recording for teacher forcing.

    Returns:
        Conditioning [1, rows, layers, gate], the samples [1, time] to follow, and samples per row.
    """
    net, task = vocoder.net, vocoder.task
    size = len(wave) // net.config.hop * net.config.hop
    batch = {"audio": wave[None, :size], "audio_lengths": np.full(1, size), "index": np.zeros(1, np.int32)}
    inputs = prepare(task, jax.tree.map(jnp.asarray, batch))
    given = np.asarray(inputs["wave"])
    mel = np.asarray(inputs["mel"][0, : int(inputs["frames"][0])])
    back, ahead = reach(net.config.condition, net.config.hop)
    ((window, valid, _),) = frame_windows([mel], len(mel), back, ahead)
    vectors = condition(net.config.condition, net.params["condition"], window[None], valid[None], net.config.hop)
    share = net.config.hop // rows_per_frame(net.config.condition, net.config.hop)
    first = frame_offset(task.audio) * net.config.hop // share  # what lies before the recording's first sample
    cond = np.asarray(stack_layer_conditions(net.config, net.params, vectors))[:, first : first + size // share]
    return cond, given[:, : cond.shape[1] * share], share


def nats_a_sample(vocoder: WaveNetVocoder, wave: np.ndarray, dtype: native.Dtype) -> tuple[float, int]:
    """Return the nats of a recording under the native step with weights of a kind, and its number of samples."""
    net = vocoder.net
    cond, given, share = followed(vocoder, wave)
    packed = native.pack(net.shape, net.weights, dtype)
    outputs, _ = native.follow(packed, native.start(packed, 1), cond, share, given)
    nll = waveform_nll(net.config.output, jnp.asarray(outputs), jnp.asarray(given),
                       min_log_scale=net.config.min_log_scale, levels=net.config.levels)  # fmt: skip
    return float(nll.sum()), outputs.shape[1]
