"""Tux Paint's stamps: descriptions in many languages beside Vorbis files."""

import os
from pathlib import Path

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import tuxpaint
from tests.support.packages import make_deb, name_with, sound

STAMPS = "./usr/share/tuxpaint/stamps"


def test_texts(tmp_path):
    path = tmp_path / "cat.txt"
    path.write_text("A  cat.\nes.utf8=Un gato = felino.\nca@valencia.utf8=Un gat\nfr=Un chat\nes.utf8=otro\n", "utf-8")
    expected = {"en": "A cat.", "es": "Un gato = felino.", "ca@valencia": "Un gat"}
    assert tuxpaint.read_texts(path) == expected
    path.write_bytes(b"")
    assert tuxpaint.read_texts(path) == {"en": ""}


def test_prepare(tmp_path, caplog):
    train, dev, test = (name_with(n, 10, "A thing %d.") for n in (7, 1, 0))
    files = {
        f"{STAMPS}/animals/a.txt": f"{train}\nes.utf8=Una cosa.\nru.utf8=Вещь.".encode(),
        f"{STAMPS}/animals/b.txt": f"{dev}\nes.utf8=Otra cosa.".encode(),
        f"{STAMPS}/money/a.txt": f"{test}\nes.utf8=La última.".encode(),
        f"{STAMPS}/money/c.txt": f"{train}\nes.utf8=LA ÚLTIMA!".encode(),
        f"{STAMPS}/money/d.txt": f"{train}\nfr.utf8=Seulement.".encode(),
    }
    sounds = ("animals/a", "animals/b", "money/a", "money/c", "money/d", "money/textless")
    files |= {f"{STAMPS}/{name}_desc_es.ogg": sound(0.4, n, rate=44_100) for n, name in enumerate(sounds)}
    files[f"{STAMPS}/animals/a_desc.ogg"] = sound(0.6, 30)
    files[f"{STAMPS}/animals/a_desc_ru.ogg"] = sound(0.8, 31)
    files[f"{STAMPS}/animals/a.ogg"] = sound(1, 32)  # a dog's bark and the like
    make_deb(tmp_path / "debs", tuxpaint.PACKAGE, files)
    tuxpaint.prepare(tmp_path / "es", tuxpaint.Options(language="es", packages=tmp_path / "debs"))
    rows = {split: read_manifest(tmp_path / f"es/{split}.jsonl") for split in ("train", "dev", "test")}
    assert {s: [(u.id, u.text) for u in part] for s, part in rows.items()} == {
        "train": [("animals-a", "Una cosa.")],
        "dev": [("animals-b", "Otra cosa.")],
        "test": [("money-a", "La última.")],
    }
    assert rows["dev"][0].domain == "tuxpaint-es"
    assert "2 sounds in es have no text" in caplog.text
    for language, text, seconds in (("en", train, 0.6), ("ru", "Вещь.", 0.8)):
        out = tmp_path / language
        tuxpaint.prepare(out, tuxpaint.Options(language=language, packages=tmp_path / "debs"))
        (row,) = read_manifest(out / "train.jsonl")
        assert row.language == language and row.text == text and row.seconds == pytest.approx(seconds, abs=0.02)


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="language: found 'xx', expected one of be, bg"):
        tuxpaint.prepare(tmp_path, tuxpaint.Options(language="xx"))
    make_deb(tmp_path / "debs", tuxpaint.PACKAGE, {f"{STAMPS}/a.txt": b"A cat."})
    with pytest.raises(UserError, match="found no .*_desc_es.ogg with a text"):
        tuxpaint.prepare(tmp_path / "out", tuxpaint.Options(packages=tmp_path / "debs"))


@pytest.mark.skipif(
    "SPEECH_JAX_PACKAGES" not in os.environ, reason="set SPEECH_JAX_PACKAGES to a folder of the .deb files"
)
def test_the_real_package(tmp_path):
    tuxpaint.prepare(tmp_path, tuxpaint.Options(language="fr", packages=Path(os.environ["SPEECH_JAX_PACKAGES"])))
    rows = {split: read_manifest(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: len(part) for split, part in rows.items()} == {"train": 735, "dev": 93, "test": 82}
