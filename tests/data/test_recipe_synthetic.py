"""The corpus made on the spot: repeatable, resumed, two domains that differ."""

import dataclasses
import hashlib
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import sentences, synthetic
from speech_jax.data.recipes.clips import letters_only
from speech_jax.prepare import run_recipe

pytest.importorskip("espeakng_loader")
SMALL = synthetic.Options(train_a=7, train_b=5, dev=2, test=3, seed=3, workers=2)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    synthetic.prepare(folder, SMALL)
    return folder


def test_manifests(corpus):
    expected = {"A/train": 7, "A/dev": 2, "A/test": 3, "B/train": 5, "B/dev": 2, "B/test": 3}
    rows = {name: read_manifest(corpus / f"{name}.jsonl") for name in expected}
    assert {name: len(part) for name, part in rows.items()} == expected
    everything = [u for part in rows.values() for u in part]
    assert len({letters_only(u.text) for u in everything}) == len(everything), "no sentence twice"
    for u in everything:
        audio, rate = soundfile.read(u.audio)
        assert rate == 16_000 and audio.ndim == 1 and len(audio) / rate == pytest.approx(u.seconds, abs=1e-5)
        assert 0.8 < u.seconds < 5 and 5 < len(u.text) / u.seconds < 35
        assert u.language == "en" and u.speaker in synthetic.VOICES[u.domain]
        assert set(u.text.split()) <= sentences.vocabulary(u.domain)
        assert 0.05 < np.abs(audio).max() < 1


def test_an_interrupted_run_gives_the_same_files(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK", 11)  # blocks are part of what repeats
    first, second = tmp_path / "first", tmp_path / "second"
    one = synthetic.Options(train_a=7, train_b=5, dev=2, test=3, seed=3, workers=1)
    synthetic.prepare(first, one)
    synthetic.prepare(second, SMALL)
    assert hashes(first) == hashes(second)
    for path in sorted((second / "A/audio").iterdir())[3:5]:
        path.unlink()
    (second / "B/test.jsonl").unlink()
    kept = {p: p.stat().st_mtime_ns for p in second.rglob("*.flac")}
    synthetic.prepare(second, SMALL)
    assert hashes(first) == hashes(second)
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())


def test_another_seed_gives_other_sentences():
    first = sentences.draw_sentences("A", 50, 0)
    assert sentences.draw_sentences("A", 30, 0) == first[:30]
    assert len(set(first)) == 50 and len(set(first) & set(sentences.draw_sentences("A", 50, 1))) < 10


def test_domains_differ_in_words():
    a, b = sentences.vocabulary("A"), sentences.vocabulary("B")
    assert 150 <= len(a) <= 250 and 50 <= len(b) <= 150
    assert len(a & b) <= 10
    assert len(set("".join(b)) & set("".join(a))) >= 20, "letters are shared"
    used = {w for s in sentences.draw_sentences("A", 2500, 0) for w in s.split()}
    assert used == a


def test_a_grammar_has_an_end(monkeypatch):
    monkeypatch.setitem(sentences.GRAMMARS, "B", (("dial [digit]", "stop"), {"digit": "one two three"}))
    assert sorted(sentences.draw_sentences("B", 4, 0)) == ["dial one", "dial three", "dial two", "stop"]
    with pytest.raises(UserError, match="domain B: found only about 4 different sentences, expected 5"):
        sentences.draw_sentences("B", 5, 0)


def test_domain_b_is_a_telephone():
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)

    def bands(audio):
        power = np.abs(np.fft.rfft(audio)) ** 2
        hertz = np.fft.rfftfreq(len(audio), 1 / 16_000)
        inside = power[(hertz > 500) & (hertz < 3000)].mean()
        return power[hertz < 150].mean() / inside, power[hertz > 5000].mean() / inside

    low, high = bands(synthetic.channel(noise, 16_000, "B", (1, 2)))
    assert low < 0.02 and high < 0.02
    low, high = bands(synthetic.channel(noise, 16_000, "A", (1, 2)))
    assert low > 0.5 and high > 0.5


def test_every_voice_speaks(tmp_path):
    requests = [
        synthetic.Request(str(tmp_path / f"{voice}.flac"), "seven green birds", domain, voice, 180, 50, (0,))
        for domain, voices in synthetic.VOICES.items()
        for voice in voices
    ]
    assert len({r.voice for r in requests}) == 12
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(synthetic.make_block, requests, 16_000).result()
        audio = [soundfile.read(r.path)[0] for r in requests]
        assert all(len(a) > 8000 for a in audio)
        spectra = [np.abs(np.fft.rfft(a, 65_536))[: 65_536 // 4] for a in audio]
        likeness = np.corrcoef(spectra) - np.eye(12)
        assert likeness.max() < 0.95, "voices differ"
        unknown = requests[0]._replace(voice="xx-nowhere", path=str(tmp_path / "x.flac"))
        with pytest.raises(UserError, match="has no voice 'xx-nowhere'"):
            pool.submit(synthetic.make_block, [unknown], 16_000).result()


@pytest.mark.parametrize(
    "options, message",
    [
        (synthetic.Options(words_per_minute=(200, 100)), "words_per_minute: found 200 100"),
        (synthetic.Options(train_a=-1), "found a negative number"),
        (synthetic.Options(sample_rate=100), "sample_rate: found 100"),
        (synthetic.Options(voices=7), "voices: found 7"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        synthetic.prepare(tmp_path, options)
    assert not list(tmp_path.iterdir())


def test_a_corpus_from_before_an_option_existed_is_kept(corpus, tmp_path):
    folder = tmp_path / "corpus"
    run_recipe("synthetic", lambda out, options: shutil.copytree(corpus, out, dirs_exist_ok=True), SMALL, folder)
    note = json.loads((folder / "recipe.json").read_text())
    del note["options"]["voices"]
    (folder / "recipe.json").write_text(json.dumps(note | {"sha256": "of an earlier version"}))
    run_recipe("synthetic", None, SMALL, folder)  # nothing is made
    with pytest.raises(UserError, match="other options"):
        run_recipe("synthetic", None, dataclasses.replace(SMALL, voices=2), folder)


def test_without_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="found no package espeakng-loader.*pip install"):
        synthetic.prepare(tmp_path, SMALL)
