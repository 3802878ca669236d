"""Asterisk's prompts: the list of texts, what is speech, splits."""

import gzip
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_jax.audio.io import read_audio
from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import asterisk
from tests.support.packages import make_deb, name_with

LIST = """\ufeff; Core sounds
activated: Activated.

agent-pass : Please enter your password: then press #
letters/at: at [@]
vm-intro: Leave a message. (simple tone sound plays)
confbridge-join: <beep ascending>
silence/1: (1 second of silence)
tt-monkeys: monkeys screaming
dir/beep: a beep
broken line
activated: A second text of one name
digits/1: one
absent: No sound for this
"""


def make_packages(folder: Path, language: str, texts: str, sounds: dict[str, bytes], locale: str) -> None:
    package = f"asterisk-core-sounds-{language}"
    listing = gzip.compress(texts.encode())
    make_deb(folder, package, {f"./usr/share/doc/{package}/core-sounds-{language}.txt.gz": listing})
    base = f"./usr/share/asterisk/sounds/{locale}"
    make_deb(folder, f"{package}-g722", {f"{base}/{name}.g722": data for name, data in sounds.items()})


def tone(seconds: float, seed: int) -> bytes:
    """Any bytes are G.722: 8,000 a second."""
    return np.random.default_rng(seed).integers(0, 256, int(8000 * seconds), dtype=np.uint8).tobytes()


def test_texts(tmp_path):
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(LIST.encode()))
    assert asterisk.read_texts(path) == {
        "activated": "Activated.",
        "agent-pass": "Please enter your password: then press #",
        "letters/at": "at",
        "vm-intro": "Leave a message.",
        "digits/1": "one",
        "absent": "No sound for this",
    }
    for content in (b"", b"not gzip", gzip.compress(LIST.encode())[:-9], gzip.compress(b"; nothing\n")):
        path.write_bytes(content)
        with pytest.raises(UserError, match="list.txt.gz: .*expected"):
            asterisk.read_texts(path)


def test_prepare(tmp_path, caplog):
    def split_name(wanted: str, pattern: str) -> str:
        return next(pattern % n for n in range(1000) if asterisk.split_of(pattern % n) == wanted)

    test, dev, train = (split_name(s, "sentence %d.") for s in ("test", "dev", "train"))
    again = next(  # the test sentence in other letters, which falls into the training part by itself
        text for n in range(1, 99) if asterisk.split_of(text := test.upper() + "!" * n) == "train"
    )
    other = split_name("dev", "of the other set %d")
    texts = {"a": test, "b/c": dev, "d": train, "e": again, "f": other, "long": train + " and on"}
    sounds = {name: tone(0.5 + 0.1 * n, n) for n, name in enumerate(texts)} | {"unlisted": tone(1, 9)}
    sounds["long"] = tone(15.0, 8)
    listing = "".join(f"{name} : {text}\n" for name, text in texts.items()) + "gone: No sound\n"
    make_packages(tmp_path / "debs", "fr", listing, sounds, "fr_CA_f_June")
    exclude = tmp_path / "exclude.jsonl"
    exclude.write_text(json.dumps({"id": "x", "audio": "x.wav", "text": other.upper(), "seconds": 1}))
    out = tmp_path / "out"
    asterisk.prepare(out, asterisk.Options(language="fr", packages=tmp_path / "debs", exclude=(exclude,)))
    rows = {split: read_manifest(out / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: [(u.id, u.text) for u in part] for split, part in rows.items()} == {
        "train": [("d", train)],
        "dev": [("b-c", dev)],
        "test": [("a", test)],
    }
    assert set(rows["test"].languages) == {"fr"}
    assert "1 of 7 texts have no sound" in caplog.text and "1 clips left out" in caplog.text
    (row,) = rows["dev"]
    assert row.seconds == 0.6 and row.speaker == row.domain == "asterisk-fr"
    source = next((out / "package").rglob("b/c.g722"))
    expected = np.round(read_audio(source, 16_000) * 32768)
    assert np.array_equal(soundfile.read(row.audio, dtype="int16")[0], expected)


def test_the_split_is_the_published_one():
    text = name_with(0, 5, "text %d")
    assert asterisk.split_of(text) == "test"
    counts = {"train": 0, "dev": 0, "test": 0}
    for n in range(6000):
        counts[asterisk.split_of(f"prompt {n}")] += 1
        assert (asterisk.split_of(f"prompt {n}") == "test") == (zlib.crc32(f"prompt {n}".encode()) % 5 == 0)
    assert counts["dev"] / (counts["dev"] + counts["train"]) == pytest.approx(1 / 12, abs=0.02)


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="language: found 'de', expected one of en, es"):
        asterisk.prepare(tmp_path, asterisk.Options(language="de"))
    make_packages(tmp_path / "debs", "en", "a : Text", {}, "en_US")
    with pytest.raises(UserError, match="no folder en. with .g722 files"):
        asterisk.prepare(tmp_path / "out", asterisk.Options(packages=tmp_path / "debs"))
    make_packages(tmp_path / "more", "en", "a : Text", {"b": tone(1, 0)}, "en_US")
    with pytest.raises(UserError, match="no .g722 files named as in"):
        asterisk.prepare(tmp_path / "out2", asterisk.Options(packages=tmp_path / "more"))


@pytest.mark.skipif(
    "SPEECH_JAX_PACKAGES" not in os.environ, reason="set SPEECH_JAX_PACKAGES to a folder of the .deb files"
)
def test_the_real_packages(tmp_path):
    asterisk.prepare(tmp_path, asterisk.Options(packages=Path(os.environ["SPEECH_JAX_PACKAGES"])))
    audio = [soundfile.info(path).duration for path in (tmp_path / "audio").iterdir()]
    assert len(audio) == 551 and sum(s < 15 for s in audio) == 538
    assert sum(audio) / 3600 == pytest.approx(0.405, abs=0.001)
    rows = {split: read_manifest(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert len(rows["test"]) == 102
    assert sum(map(len, rows.values())) > 520
