"""Public WaveNets in: outputs and samples equal to the public code's, every tensor accounted for.

experiments/parity/wavenet.py made the golden files with the public code.
"""

import dataclasses
import json
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
PLAIN = WaveNetImport(cycles=2, upsample="nearest")


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
    flags = ["--wavenet.cycles", 2, "--wavenet.output", "logistics", "--wavenet.upsample", "nearest"]
    code, lines = line(capsys, monkeypatch, path, "--out", tmp_path / "run", *flags,
                       "--wavenet.statistics", tmp_path / "stats.txt")  # fmt: skip
    assert code == 0, lines
    text = "\n".join(lines)
    assert "r9y9's last version: 4 layers in 2 cycles, logistics" in text and "training state" in text
    parts = load_vocoder_parts(tmp_path / "run")
    assert (parts.task.gain, parts.task.pre_emphasis, parts.task.audio.mean[1]) == (0.55, 0.85, -2.0)
    assert parts.task.model.condition.scales == (4, 4, 4, 4)
    again = read_wavenet(path, dataclasses.replace(PLAIN, output="logistics")).parts
    jax.tree.map(np.testing.assert_array_equal, parts.params, again.params)


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
        read_wavenet(path, PLAIN, tensors)
    if "extra" in tensors:
        with pytest.raises(UserError, match="expected two lines|stats"):
            read_wavenet(path, dataclasses.replace(PLAIN, statistics=str(tmp_path / "stats")), tensors)


# ---- settings that no tensor tells


HPARAMS = {  # what the public code's train.py writes beside its checkpoints, in part
    "layers": 4, "stacks": 2, "output_distribution": "Logistic", "log_scale_min": -9.0, "input_type": "raw",
    "upsample_net": "ConvInUpsampleNetwork", "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
    "preprocess": "", "global_gain_scale": 1.0, "sample_rate": 22050, "hop_size": 256, "fft_size": 1024,
    "num_mels": 80, "fmin": 125, "fmax": 7600, "win_length": 1024, "highpass_cutoff": 70.0,
}  # fmt: skip


def with_settings(tmp_path, name, values, **flags):
    (tmp_path / "settings.json").write_text(json.dumps(values))
    return read_wavenet(wide(name, tmp_path), WaveNetImport(settings=str(tmp_path / "settings.json"), **flags))


def test_settings_of_the_training_are_read_from_its_file(tmp_path):
    task = with_settings(tmp_path, "logistics", HPARAMS).parts.task
    assert (task.model.cycles, task.model.min_log_scale, task.audio.high_pass) == (2, -9.0, 70.0)
    assert (task.gain, task.pre_emphasis) == (1.0, 0.0)
    processed = {**HPARAMS, "stacks": 1, "preprocess": "preemphasis", "global_gain_scale": 0.55}
    task = with_settings(tmp_path, "logistics", processed).parts.task
    assert (task.model.dilations, task.gain, task.pre_emphasis) == ((1, 2, 4, 8), 0.55, 0.85)
    nvidia = {
        "wavenet_config": {"n_layers": 4, "max_dilation": 2},
        "data_config": {"sampling_rate": 16000, "hop_length": 200, "filter_length": 800, "win_length": 800},
    }
    assert with_settings(tmp_path, "nvidia", nvidia).parts.task.model.dilations == (1, 2, 1, 2)
    with pytest.raises(UserError, match="--wavenet.cycles: found 1, expected 2, as in"):
        with_settings(tmp_path, "nvidia", nvidia, cycles=1)
    nvidia["wavenet_config"] = {"n_layers": 20, "max_dilation": 128}
    with pytest.raises(UserError, match="20 layers in dilation cycles of 8, expected whole cycles"):
        with_settings(tmp_path, "nvidia", nvidia)


@pytest.mark.parametrize("change, message", [
    ({"output_distribution": "Normal"}, "mixture of 3 Gaussians"),
    ({"upsample_params": {"mode": "bilinear"}}, "upsampling by 'bilinear', expected nearest"),
    ({"upsample_params": {"upsample_activation": "ReLU"}}, "upsample_activation = 'ReLU', expected 'none'"),
    ({"upsample_net": "UpsampleNetwork"}, "upsample_net = 'UpsampleNetwork'"),
    ({"input_type": "mulaw"}, "input_type = 'mulaw'"),
    ({"sample_rate": 16000}, "sample_rate = 16000, expected 22050"),
    ({"layers": 8}, "8 layers, expected 4"),
    ({"stacks": 0}, "stacks = 0, expected a whole number above 0"),
    ({"stacks": 3}, "4 layers in 3 cycles"),
    ({"global_gain_scale": 0.7}, "0.7"),
    ({"log_scale_min": 9}, "log_scale_min = 9"),
])  # fmt: skip
def test_settings_that_are_not_supported_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        with_settings(tmp_path, "logistics", HPARAMS | change)


def test_settings_are_asked_for_not_guessed(tmp_path):
    for name, message in (
        ("logistics", "--wavenet.cycles and --wavenet.output logistics and --wavenet.upsample nearest too"),
        ("gaussian", "--wavenet.cycles and --wavenet.upsample nearest too"),
        ("mulaw", "--wavenet.cycles and --wavenet.upsample nearest too"),
        ("released", "--wavenet.cycles too"),
        ("nvidia", "--wavenet.cycles too, if it was trained so, or --wavenet.settings FILE .its config.json."),
    ):
        with pytest.raises(UserError, match=message):
            read_wavenet(wide(name, tmp_path))
    with pytest.raises(UserError, match="mixture of 3 Gaussians"):
        read_wavenet(wide("logistics", tmp_path), dataclasses.replace(PLAIN, output="gaussians"))
    tensors = {n.replace("upsample_net.upsample.", "upsample_net."): a for n, a in
               read_torch(wide("logistics", tmp_path)).items() if "conv_in" not in n}  # fmt: skip
    assert is_wavenet(tensors)
    with pytest.raises(UserError, match="upsampling by UpsampleNetwork"):
        read_wavenet(tmp_path / "x.pt", PLAIN, tensors)


def test_speakers_of_a_public_vocoder_are_imported(tmp_path):
    path = wide("gaussian", tmp_path)  # two speakers
    code = front_door.main([str(path), "--out", str(tmp_path / "run"), "--wavenet.cycles", "2",
                            "--wavenet.upsample", "nearest"])  # fmt: skip
    parts = load_vocoder_parts(tmp_path / "run")
    assert (code, parts.speakers, parts.task.speakers, parts.task.model.speakers) == (0, ("0", "1"), "data", 2)
    np.testing.assert_array_equal(parts.params["speakers"], read_torch(path)["state_dict.embed_speakers.weight"])


def test_weight_norm_of_later_torch_versions(tmp_path):
    tensors = dict(read_torch(wide("gaussian", tmp_path)))
    new = {n.replace("weight_g", "parametrizations.weight.original0")
            .replace("weight_v", "parametrizations.weight.original1"): a for n, a in tensors.items()}  # fmt: skip
    first, second = (read_wavenet(tmp_path / "x.pt", PLAIN, t).parts.params for t in (tensors, new))
    jax.tree.map(np.testing.assert_array_equal, first, second)
