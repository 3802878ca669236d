"""Fish Fillets: Lua dialogues beside Vorbis files."""

import os
from pathlib import Path

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import fillets
from tests.support.packages import make_deb, name_with, sound

GAME = "./usr/share/games/fillets-ng"


def script(lines: dict[str, tuple[str, str]]) -> bytes:
    text = "\n".join(
        f'dialogId("{i}", "{font}", "English")\ndialogStr("{said}")\n' for i, (font, said) in lines.items()
    )
    return text.encode()


def test_dialogues(tmp_path):
    path = tmp_path / "dialogs_cs.lua"
    path.write_text(
        """
-- dialogId("old", "font_big", "Old")
-- dialogStr("Starý.")
dialogId("a-m", "font_small", "What \\"is\\" that?")
dialogStr("Co  je \\"to\\"?")
dialogId("untold", "font_big", "Untold")
dialogId("b-v", "font_big", "A ship, (broken)")
dialogStr( "Loď,\\\\ (rozbitá)")
dialogStr("orphan")
dialogId("c", "font_viking3", "Beer")
dialogStr("Pivo!")
""",
        encoding="utf-8",
    )
    assert fillets.read_dialogues(path) == {
        "a-m": ('Co je "to"?', "small"),
        "b-v": ("Loď,\\ (rozbitá)", "big"),
        "c": ("Pivo!", "viking3"),
    }
    path.write_bytes('dialogStr("ě")'.encode("iso8859-2"))
    with pytest.raises(UserError, match="dialogs_cs.lua: .*expected a script in UTF-8"):
        fillets.read_dialogues(path)


def test_prepare(tmp_path):
    train, dev, test = (name_with(n, 20, "level%d") for n in (5, 1, 0))
    texts = {
        f"{GAME}/script/{train}/dialogs_nl.lua": script(
            {
                "one": ("font_small", "Alleen hier."),
                "two": ("font_big", "in de TEST"),
                "time": ("font_big", "Al %1 uur!"),
                "dots": ("font_big", "..."),
                "mute": ("font_big", "Zonder geluid"),
            }
        ),
        f"{GAME}/script/{train}/demo_dialogs_nl.lua": script({"demo": ("font_big", "Uit de demo.")}),
        f"{GAME}/script/{train}/dialogs_cs.lua": script({"other": ("font_small", "Jinak.")}),
        f"{GAME}/script/{dev}/dialogs_nl.lua": script({"one": ("font_small", "Ontwikkeling.")}),
        f"{GAME}/script/{test}/dialogs_nl.lua": script({"one": ("font_small", "In de test.")}),
    }
    sounds = {train: ("one", "two", "time", "dots", "demo", "other", "unknown"), dev: ("one",), test: ("one",)}
    recordings = {
        f"{GAME}/sound/{level}/nl/{name}.ogg": sound(0.5, n, channels=2)
        for level, names in sounds.items()
        for n, name in enumerate(names)
    }
    recordings[f"{GAME}/sound/{train}/cs/one.ogg"] = sound(0.5, 50)
    make_deb(tmp_path / "debs", "fillets-ng-data", texts)
    make_deb(tmp_path / "debs", "fillets-ng-data-nl", recordings)
    out = tmp_path / "out"
    fillets.prepare(out, fillets.Options(language="nl", packages=tmp_path / "debs"))
    rows = {split: read_manifest(out / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {s: [(u.id, u.text, u.speaker) for u in part] for s, part in rows.items()} == {
        "train": [(f"{train}-demo", "Uit de demo.", "nl-big"), (f"{train}-one", "Alleen hier.", "nl-small")],
        "dev": [(f"{dev}-one", "Ontwikkeling.", "nl-small")],
        "test": [(f"{test}-one", "In de test.", "nl-small")],
    }
    assert rows["test"][0].seconds == pytest.approx(0.5, abs=0.01)
    assert rows["test"][0].domain == "fillets-nl" and rows["test"][0].language == "nl"


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="language: found 'en', expected one of cs, nl"):
        fillets.prepare(tmp_path, fillets.Options(language="en"))
    make_deb(
        tmp_path / "debs", "fillets-ng-data", {f"{GAME}/script/x/dialogs_cs.lua": script({"a": ("font_big", "Ano.")})}
    )
    make_deb(tmp_path / "debs", "fillets-ng-data-cs", {f"{GAME}/sound/x/cs/b.ogg": sound(0.5, 0)})
    with pytest.raises(UserError, match="found no sound/LEVEL/cs/.*ogg with a text"):
        fillets.prepare(tmp_path / "out", fillets.Options(packages=tmp_path / "debs"))


@pytest.mark.skipif(
    "SPEECH_JAX_PACKAGES" not in os.environ, reason="set SPEECH_JAX_PACKAGES to a folder of the .deb files"
)
def test_the_real_packages(tmp_path):
    fillets.prepare(tmp_path, fillets.Options(language="nl", packages=Path(os.environ["SPEECH_JAX_PACKAGES"])))
    rows = {split: read_manifest(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert {split: len(part) for split, part in rows.items()} == {"train": 1221, "dev": 204, "test": 95}
    assert len(list((tmp_path / "audio").iterdir())) == 1526
