"""Public WaveNets in: outputs and samples equal to the public code's, every tensor accounted for.

experiments/parity/wavenet.py made the golden files with the public code.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax import convert as front_door
from speech_jax.artifacts.vocoder import load_vocoder_parts
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.decoding.wavenet.scan import sample, stack_layer_conditions, start, step_weights
from speech_jax.interop.config import WaveNetImport
from speech_jax.interop.tensors import read_torch, write_torch
from speech_jax.interop.wavenet import is_wavenet, read_wavenet
from speech_jax.interop.wavenet_names import (
    detect_layout,
    fold_weight_norm,
    wavenet_config,
    wavenet_params_from_torch,
)
from speech_jax.kernels.wavenet import reference as wavenet_plain
from speech_jax.models.wavenet import stack
from speech_jax.models.wavenet_condition import condition, window_of

GOLDEN = Path(__file__).parent / "golden"
HOP, FRAMES = 6, 8


def public(name):
    """(config, params, golden)"""
    tensors = {n.removeprefix("state_dict."): a for n, a in read_torch(GOLDEN / f"wavenet_{name}.pt").items()}
    layout = detect_layout(tensors)
    tensors = fold_weight_norm(tensors, name)
    config = wavenet_config(tensors, layout, name, HOP, 2)
    params, left = wavenet_params_from_torch(tensors, config, layout, name)
    assert not left
    return config, params, np.load(GOLDEN / f"wavenet_{name}.npz")


@pytest.mark.parametrize("name", ["logistics", "gaussian", "mulaw", "released", "nvidia"])
def test_outputs_and_samples_equal_the_public_code(name):
    config, params, golden = public(name)
    mel = jnp.asarray(golden["mel"].transpose(0, 2, 1))
    margin = (mel.shape[1] - FRAMES) // 2  # r9y9's frames come with those around them, which repeat nothing
    speaker = jnp.asarray(golden["speaker"]) if "speaker" in golden else None
    frames, own = window_of(mel, jnp.array([mel.shape[1]]), jnp.array([margin]), FRAMES, config.condition, HOP)
    number = jnp.arange(own.shape[1]) - (own.shape[1] - FRAMES) // 2
    if name == "nvidia":
        number = jnp.arange(own.shape[1]) - (own.shape[1] - FRAMES)
    own = own & ((number >= 0) & (number < FRAMES))[None]  # the public filters are padded with zeros there

    @jax.jit
    def parallel(params, before):
        vectors = condition(config.condition, params["condition"], frames, own, HOP)
        return stack(config, params, before, vectors, speaker), stack_layer_conditions(config, params, vectors, speaker)

    y, cond = parallel(params, jnp.asarray(golden["x"]))
    want = golden["y"].transpose(0, 2, 1)
    if name == "nvidia":  # it moves its outputs on by one
        y, want = y[:, :-1], want[:, 1:]
    np.testing.assert_allclose(y, want, atol=1e-4)
    if "noise" not in golden:
        return
    shape, weights = step_weights(config, params)
    noise = jnp.asarray(golden["noise"])
    for engine in (wavenet_plain, None):
        state = engine.start(shape, weights, 1) if engine else start(shape, weights, 1)
        made, _ = (engine.sample if engine else sample)(shape, weights, state, cond, 1, noise)
        if config.output == "mulaw":
            np.testing.assert_array_equal(made, golden["sampled"])
        else:
            np.testing.assert_allclose(made, golden["sampled"], atol=1e-4)


def wide(name, tmp_path, **more):
    """The golden file's tensors with 80 mel bands and the public hop length, as a file."""
    rng = np.random.default_rng(0)
    tensors = dict(read_torch(GOLDEN / f"wavenet_{name}.pt"))
    for key, tensor in tensors.items():
        shape = list(tensor.shape)
        if "conv1x1c" in key and key.endswith("weight_v"):
            shape[1] = 80
        elif "conv_in" in key or (key.endswith("upsample.weight") and name == "nvidia"):
            shape = [80, 80, 800 if name == "nvidia" else shape[2]]
        elif key.endswith("upsample.bias"):
            shape = [80]
        elif key.endswith("cond_layers.conv.weight"):
            shape[1] = 80
        if shape != list(tensor.shape):
            tensors[key] = rng.normal(size=shape).astype(np.float32)
    prefix = "state_dict.upsample_net.upsample.up_layers." if name != "released" else "state_dict.upsample_conv."
    if name != "nvidia":
        first = 1 if name != "released" else 0
        stages = {n: a for n, a in tensors.items() if n.startswith(prefix)}
        tensors = {n: a for n, a in tensors.items() if n not in stages}
        for stage in range(4):
            at = f"{prefix}{2 * stage + first}"
            tensors[f"{at}.weight_g"] = np.ones((1, 1, 1, 1), np.float32)
            tensors[f"{at}.weight_v"] = rng.normal(size=(1, 1, 3, 4) if first == 0 else (1, 1, 1, 9)).astype(np.float32)
            if first == 0:
                tensors[f"{at}.bias"] = np.zeros(1, np.float32)
    path = tmp_path / f"{name}.pt"
    write_torch(path, tensors | more)
    return path


def line(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_front_door(front_door.main)
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


def test_through_the_front_door(tmp_path, capsys, monkeypatch):
    np.savetxt(tmp_path / "stats.txt", np.stack([np.arange(80.0) - 3, np.full(80, 2.0)]))
    path = wide("logistics", tmp_path, **{"optimizer.state.0.exp_avg": np.ones(3, np.float32)})
    code, lines = line(capsys, monkeypatch, path, "--out", tmp_path / "run", "--wavenet.cycles", 2,
                       "--wavenet.statistics", tmp_path / "stats.txt")  # fmt: skip
    assert code == 0, lines
    text = "\n".join(lines)
    assert "r9y9's last version: 4 layers in 2 cycles, logistics" in text and "training state" in text
    parts = load_vocoder_parts(tmp_path / "run")
    assert (parts.task.gain, parts.task.pre_emphasis, parts.task.audio.mean[1]) == (0.55, 0.85, -2.0)
    assert parts.task.model.condition.scales == (4, 4, 4, 4)
    jax.tree.map(np.testing.assert_array_equal, parts.params, read_wavenet(path, WaveNetImport(2)).parts.params)


def test_the_other_two_have_their_own_settings(tmp_path):
    released = read_wavenet(wide("released", tmp_path), WaveNetImport(cycles=2)).parts.task
    assert released.audio.framing == "full" and released.model.condition.kind == "transposed_bands"
    assert released.model.min_log_scale == pytest.approx(-32.236, abs=1e-3) and released.gain == 1.0
    nvidia = read_wavenet(wide("nvidia", tmp_path), WaveNetImport(cycles=2)).parts.task
    assert (nvidia.audio.sample_rate, nvidia.audio.hop, nvidia.model.output) == (16000, 200, "mulaw")
    assert not is_wavenet({"state_dict.embedding.weight": np.ones(3)})


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("first_conv.bias"), "found no tensor 'first_conv.bias'"),
    (lambda t: t.pop("first_conv.weight_g"), "without first_conv.weight_g"),
    (lambda t: t.update(extra=np.ones(3, np.float32)), "'extra' with shape .3,., which the network"),
    (lambda t: t.pop("last_conv_layers.3.weight_v"), "without weight_v"),
])  # fmt: skip
def test_what_is_missing_or_left_over_is_named(tmp_path, change, message):
    path = wide("gaussian", tmp_path)
    tensors = {n.removeprefix("state_dict."): a for n, a in read_torch(path).items()}
    change(tensors)
    with pytest.raises(UserError, match=message):
        read_wavenet(path, WaveNetImport(cycles=2), tensors)
    if "extra" in tensors:
        with pytest.raises(UserError, match="--wavenet.cycles"):
            read_wavenet(path, None, tensors)
        with pytest.raises(UserError, match="expected two lines|stats"):
            read_wavenet(path, dataclasses.replace(WaveNetImport(2), statistics=str(tmp_path / "stats")), tensors)
