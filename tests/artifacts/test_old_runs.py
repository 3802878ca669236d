"""Folders written by the code at bcfb162, before the rooms moved: they load, compute the same, and resume.

The archive holds six tiny runs (8 kHz, ten recordings that are sums of sines, four steps) and what that code computed
with them. The recordings are made here again.
"""

import dataclasses
import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from speech_jax.artifacts.vocoder import load_vocoder_parts
from speech_jax.artifacts.voice import load_voice_parts
from speech_jax.audio.io import read_audio
from speech_jax.config import TrainConfig
from speech_jax.core.config_dict import from_dict
from speech_jax.inference.recognizer import load_recognizer
from speech_jax.inference.vocoder import WaveNetVocoder
from speech_jax.inference.voice import Voice
from speech_jax.runs.train import train
from speech_jax.training.checkpoint import load_params

ARCHIVE = Path(__file__).parents[1] / "golden" / "old_runs" / "2026-11-bcfb162.tar.xz"
WORDS = ("one", "two", "three", "four", "five")
RUNS = ("recognizer", "recognizer_mixed", "recognizer_lora", "encoder", "voice", "vocoder")


def make_corpus(folder: Path) -> None:
    """Ten clips per set; each word is a tone. Nothing is random."""
    for domain in ("old", "new", "test"):
        rows = []
        for i in range(10):
            word = WORDS[i % 5]
            time = np.arange(4000 + 250 * ((7 * i) % 10)) / 8000
            tone = 0.1 * np.sin(2 * np.pi * (300 + 200 * WORDS.index(word)) * time + i)
            tone += 0.01 * np.sin(2 * np.pi * 3111.3 * time)
            soundfile.write(folder / f"{domain}{i}.wav", tone, 8000)
            row = {"id": f"{domain}{i}", "audio": f"{domain}{i}.wav", "text": word, "seconds": len(time) / 8000}
            rows.append(json.dumps(row | {"speaker": "ab"[i % 2], "domain": domain}))
        (folder / f"{domain}.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old_runs")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    (folder / "corpus").mkdir()
    make_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def expected(runs):
    with np.load(runs / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", RUNS[:3])
def test_a_recognizer_computes_the_same(runs, expected, name):
    recognizer = load_recognizer(runs / name, "last")
    audio = read_audio(runs / "corpus" / "test0.wav", 8000)
    log_probs, _ = recognizer.log_probs(audio[None], np.array([len(audio)]))
    np.testing.assert_allclose(log_probs[0], expected[name], atol=1e-4)


def test_an_adapter_file_goes_on_its_start(runs, expected):
    recognizer = load_recognizer(runs / "recognizer", "best", adapter=str(runs / "recognizer_lora/adapter.safetensors"))
    audio = read_audio(runs / "corpus" / "test0.wav", 8000)
    log_probs, _ = recognizer.log_probs(audio[None], np.array([len(audio)]))
    np.testing.assert_allclose(log_probs[0], expected["recognizer_lora"], atol=1e-4)


def test_an_encoder_a_voice_and_a_vocoder_compute_the_same(runs, expected):
    leaves = [np.ravel(leaf)[:50] for leaf in jax.tree.leaves(load_params(runs / "encoder", "last"))]
    np.testing.assert_array_equal(np.concatenate(leaves), expected["encoder"])
    [piece] = Voice(load_voice_parts(runs / "voice", "last")).synthesize(["one two"], tries=1)
    np.testing.assert_allclose(piece.mel[:20], expected["voice"], atol=1e-4)
    mel = np.random.default_rng(0).normal(-5, 1, (6, 12)).astype(np.float32)
    wave = WaveNetVocoder(load_vocoder_parts(runs / "vocoder", "last"), "scan").wave(mel)
    np.testing.assert_allclose(wave, expected["vocoder"], atol=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_it_resumes_with_its_own_config(runs, monkeypatch, name):
    """The data's order is the same to the last row: a changed plan would be refused."""
    monkeypatch.chdir(runs)
    config = from_dict(TrainConfig, json.loads(Path(name, "config.json").read_text()))
    trainer = dataclasses.replace(config.trainer, steps=5)
    result = train(dataclasses.replace(config, trainer=trainer))
    assert int(result.state.step) == 5
    steps = [json.loads(line)["step"] for line in Path(name, "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 5 and 4 in steps
