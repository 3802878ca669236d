"""A public Tacotron 2 in and out through the front door; what is not one, or cannot be computed exactly, is refused.

That the arithmetic is the public code's is tests/models/test_tacotron2.py's matter.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from speech_jax import convert as front_door
from speech_jax import synthesize
from speech_jax.artifacts.voice import VoiceParts, load_voice_parts, save_voice
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.interop.config import Tacotron2Import
from speech_jax.interop.tacotron2 import TORCHAUDIO, read_tacotron2, write_tacotron2
from speech_jax.interop.tacotron2_names import torchaudio_name
from speech_jax.interop.tensors import read_torch, write_torch
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.models.tacotron2 import init_params
from speech_jax.models.tacotron2_parts import make_parts
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd
from speech_jax.text.symbols import TACOTRON2

NETWORK = Tacotron2Config(
    embedding=8, encoder_layers=2, encoder_width=8, prenet=8, attention_rnn=12, decoder_rnn=10, postnet_layers=2,
    postnet=8, attention=AttentionConfig(width=8, filters=4, filter_length=5), held="dropout",
)  # fmt: skip


@pytest.fixture(scope="module")
def voice():
    params, state = init_params(make_parts(NETWORK), 148, jax.random.key(0))
    params = jax.tree.map(np.asarray, params)
    front_end = FrontEnd(FrontEndConfig(), TACOTRON2)
    return VoiceParts(Tacotron2TaskConfig(model=NETWORK), front_end, params, jax.tree.map(np.asarray, state))


@pytest.fixture(scope="module")
def public(voice, tmp_path_factory):
    path = tmp_path_factory.mktemp("public") / "tacotron2.pt"
    write_tacotron2(path, voice)
    return path


def line(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_front_door(front_door.main)
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


def test_in_spoken_with_and_out_again(voice, public, tmp_path, capsys, monkeypatch):
    code, lines = line(capsys, monkeypatch, public, "--out", tmp_path / "run")
    assert code == 0 and any("148 symbols; mel spectrograms of nvidia, 22050 Hz, hop 256" in text for text in lines)
    found = load_voice_parts(tmp_path / "run")
    assert (found.task.model, found.front_end) == (dataclasses.replace(NETWORK, num_mels=80), voice.front_end)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), found.params, voice.params)
    jax.tree.map(np.testing.assert_array_equal, found.model_state, voice.model_state)
    code = synthesize.main(["--checkpoint", str(tmp_path / "run"), "--text", "Hello.", "--out", str(tmp_path / "a.wav"),
                            "--tries", "1", "--iterations", "1", "--decode.frames-per-symbol", "2"])  # fmt: skip
    assert (tmp_path / "a.wav").stat().st_size > 1000 and code in (0, 2)
    code, _ = line(capsys, monkeypatch, tmp_path / "run", "--to", "tacotron2", "--out", tmp_path / "out.pt")
    assert code == 0
    before, after = read_torch(public), read_torch(tmp_path / "out.pt")
    assert set(before) == set(after) and all(name.startswith("state_dict.") for name in after)
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor, atol=1e-7)


def test_deep_learning_examples_prefix_and_torchaudios_names_and_symbols(public, tmp_path):
    tensors = read_torch(public)
    module = {f"state_dict.module.{n.removeprefix('state_dict.')}": a for n, a in tensors.items()}
    write_torch(tmp_path / "dle.pt", module | {"optimizer.state.0.exp_avg": np.ones(3, np.float32)})
    found = read_tacotron2(tmp_path / "dle.pt")
    assert found.ignored["optimizer.state.0.exp_avg"] == "training state, not part of the network"
    plain = {torchaudio_name(n.removeprefix("state_dict.")): a for n, a in tensors.items()}
    plain["embedding.weight"] = plain["embedding.weight"][: len(TORCHAUDIO.names)]
    write_torch(tmp_path / "ta.pt", plain)
    with pytest.raises(UserError, match="expected --mel griffinlim or wavernn"):
        read_tacotron2(tmp_path / "ta.pt")
    wavernn = read_tacotron2(tmp_path / "ta.pt", "wavernn").parts
    assert (wavernn.front_end.symbols, wavernn.task.audio.hop) == (TORCHAUDIO, 275)
    plain["embedding.weight"] = plain["embedding.weight"][:30]
    write_torch(tmp_path / "odd.pt", plain)
    with pytest.raises(UserError, match="found 30 symbols, expected 148.* or --symbols FILE"):
        read_tacotron2(tmp_path / "odd.pt")


@pytest.mark.parametrize("state", ["random_rng_state", "random_rng_states_all", "cuda_rng_states_all", "anything"])
def test_state_of_deep_learning_examples_training(public, state):
    """Whatever is beside "state_dict" is not part of the network; within it, everything is."""
    tensors = {f"state_dict.module.{n.removeprefix('state_dict.')}": a for n, a in read_torch(public).items()}
    found = read_tacotron2("x.pt", None, {**tensors, state: np.ones((1, 5056), np.uint8)})
    assert found.ignored[state] == "training state, not part of the network"
    with pytest.raises(UserError, match="'state_dict.speaker.weight'.*which the network does not have"):
        read_tacotron2("x.pt", None, {**tensors, "state_dict.speaker.weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match="found networks under 'ema.' and 'state_dict.module.'"):
        read_tacotron2("x.pt", None, tensors | {f"ema.{n[18:]}": a for n, a in tensors.items()})


def test_half_precision_biases_are_added_in_float32(public):
    half = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in read_torch(public).items()}
    name = "state_dict.decoder.attention_rnn.bias_{}"
    rng = np.random.default_rng(0)
    shape = half[name.format("ih")].shape
    half |= {name.format(kind): rng.normal(size=shape).astype(np.float16) for kind in ("ih", "hh")}
    want = half[name.format("ih")].astype(np.float32) + half[name.format("hh")].astype(np.float32)
    found = read_tacotron2("x.pt", None, half).parts.params["decoder"]["attention_rnn"]["bias"]
    np.testing.assert_array_equal(found, want)


def test_other_symbols_from_a_file(public, tmp_path, capsys, monkeypatch):
    tensors = dict(read_torch(public))
    name = "state_dict.embedding.weight"
    tensors[name] = np.resize(tensors[name], (154, tensors[name].shape[1]))
    write_torch(tmp_path / "other.pt", tensors)
    names = [*TACOTRON2.names, *"äöüß", "ä", "@XY"]  # one is there twice
    (tmp_path / "symbols.txt").write_text("".join(f"{'<space>' if n == ' ' else n}\n" for n in names), "utf-8")
    flags = [tmp_path / "other.pt", "--out", tmp_path / "run", "--symbols", tmp_path / "symbols.txt"]
    code, lines = line(capsys, monkeypatch, *flags)
    assert code == 0 and any("'ä' is at 148 and 152" in text for text in lines), lines
    assert any("texts are read as English" in text for text in lines)
    front_end = load_voice_parts(tmp_path / "run").front_end
    assert front_end.encode("2 cats {AY1}") == TACOTRON2.encode("two cats {AY1}")
    german = read_tacotron2(tmp_path / "other.pt", None, None, Tacotron2Import(str(flags[-1]), "de")).parts.front_end
    assert german.encode("äußerst") == [names.index(c) if c != "ä" else 152 for c in "äußerst"]
    for text, message in (("a\n" * 154, ":1: found 'a', expected the padding"), ("_\n", "found 1 lines, expected 154"),
                          ("_\n" + "ab\n" * 153, ":2: found 'ab'"), ("_\n" + "\x1b\n" * 153, "x1b")):  # fmt: skip
        (tmp_path / "symbols.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            read_tacotron2(tmp_path / "other.pt", None, None, Tacotron2Import(str(flags[-1])))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("decoder.gate_layer.bias"), "found no tensor 'decoder.gate_layer.bias'"),
        (lambda t: t.update({"decoder.extra.weight": np.ones(3, np.float32)}), "which the network does not have"),
        (lambda t: t.update({"decoder.attention_rnn.bias_hh": np.ones(3, np.float32)}), "bias_hh"),
        (
            lambda t: t.update({"encoder.lstm.weight_ih_l0_reverse": np.ones((4, 4), np.float32)}),
            "in the reverse direction",
        ),
        (lambda t: t.update({"postnet.convolutions.1.0.bias": np.full(80, np.nan, np.float32)}), "NaN or infinity"),
        (lambda t: t.update({"postnet.convolutions.1.0.bias": np.ones(7, np.float32)}), "shape"),
        (lambda t: t.pop("embedding.weight"), "found none for tensor 'embedding.weight'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(public, tmp_path, capsys, monkeypatch, change, message):
    tensors = {torchaudio_name(n.removeprefix("state_dict.")): np.array(a) for n, a in read_torch(public).items()}
    change(tensors)
    write_torch(tmp_path / "bad.pt", tensors)
    code, lines = line(capsys, monkeypatch, tmp_path / "bad.pt", "--out", tmp_path / "run")
    assert code == 2 and message in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_nvidias_network_has_not_is_not_written(voice, tmp_path):
    for changes in (dict(reduction=2), dict(held="zoneout"), dict(attention=AttentionConfig(kind="gmm"))):
        task = dataclasses.replace(voice.task, model=dataclasses.replace(NETWORK, **changes))
        with pytest.raises(UserError, match="convert: found"):
            write_tacotron2(tmp_path / "x.pt", voice._replace(task=task))
    assert not list(Path(tmp_path).iterdir())
    save_voice(tmp_path / "run", voice)
    with pytest.raises(UserError, match="found checkpoints of a run"):
        save_voice(tmp_path / "run", voice)
