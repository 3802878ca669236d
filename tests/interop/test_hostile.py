"""Hostile and damaged files: a few kilobytes that claim terabytes end in one line, in bounded time and memory."""

import json
import os
import subprocess
import sys

import pytest

from speech_jax import convert
from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.core.documents import check_file, parse_json, parse_yaml
from speech_jax.core.errors import UserError
from speech_jax.core.log import escape_controls
from speech_jax.interop.imported import write_checkpoint
from speech_jax.interop.nemo import read_nemo
from speech_jax.interop.tensors import read_torch
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checksums import find_damage, write_checksums
from tests.support.hostile import GOLDEN, torch_file, write_all

CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from pathlib import Path
from speech_jax import convert
from speech_jax.core.errors import UserError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        convert.main([str(path), "--out", sys.argv[1] + "_out"])
        print("WELL", path.name)
    except UserError as error:
        print("error:", error)
    except BaseException as error:
        print("WRONG", path.name, type(error).__name__, str(error)[:200])
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""


def test_files_that_claim_more_than_they_hold(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    write_all(folder)
    command = [sys.executable, "-c", CHILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(list(folder.iterdir())), done.stdout + done.stderr[-2000:]
    assert [line for line in lines if not line.startswith(f"error: {folder}/") or len(line) > 800] == []
    assert not (tmp_path / "hostile_out").exists()
    assert int(done.stderr.split()[-1]) < 2 << 20  # its greatest memory, in kilobytes


@pytest.mark.parametrize(
    "damage", ["\x1b[31m\x1b]0;owned\x07", "fake\rerror: all is well", "a\nb", "\u202eabc", "\udcff"]
)
def test_messages_escape_what_a_terminal_would_obey(damage):
    for message in (str(UserError(f"x.pt: found {damage}")), escape_controls(damage, lines=False)):
        assert message.isprintable()
    assert len(str(UserError("x" * 3_000_000))) <= 700


def test_names_of_a_file_are_escaped_and_short(tmp_path):
    torch_file(tmp_path / "x.pt", b"\x80\x02cos\x1b[31m" + b"y" * 50_000 + b"\nsystem\n)R.")
    with pytest.raises(UserError, match=r"os\\x1b\[31m") as error:
        read_torch(tmp_path / "x.pt")
    assert len(str(error.value)) < 800


def test_documents():
    assert parse_yaml(b"a: &x {b: 1e-05}\nc: {<<: *x}\n", "x") == {"a": {"b": 1e-5}, "c": {"b": 1e-5}}
    for data in (b"a: &a [*a]", b"a: " + b"[" * 200, b"a: !!python/name:os.system", b"- 1", b"\xff", b"? [a]\n: b"):
        with pytest.raises(UserError, match="^x: found (no )?YAML"):
            parse_yaml(data, "x")
    for data in (b'{"a": NaN}', b'{"a": 1e999}', b'{"a":' * 100_000, b"[1]", b"\xff", b'{"a": ' + b"9" * 5000 + b"}"):
        with pytest.raises(UserError, match="^x: found (no )?JSON"):
            parse_json(data, "x")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, found in ((tmp_path, "a folder"), (tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(UserError, match=f"found {found}, expected a list"):
            check_file(path, "a list")
    with pytest.raises(UserError, match="No such file"):
        check_file(tmp_path / "none", "a list")
    check_file(os.devnull, "a list")


def test_tokenizers_of_a_file():
    for change in ({"pieces": 5}, {"scores": [float("nan")] * 2}, {"scores": [10**400] * 2}, {"kind": ["bpe"]},
                   {"pieces": ["<blank>", "\x1b[31m"]}, {"pieces": ["<blank>", 3]}, {"language": 7}):  # fmt: skip
        with pytest.raises(UserError, match="^tokenizer|language"):
            Tokenizer.from_json({"kind": "bpe", "pieces": ["<blank>", "a"], "scores": [0.0, 0.0]} | change)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    write_checkpoint(read_nemo(GOLDEN / "conformer.nemo"), folder, "conformer.nemo")
    return folder / "checkpoints" / "0"


@pytest.mark.parametrize("place, value", [
    (("config", "task", "model", "layers"), 10**9),
    (("config", "task", "model", "width"), -1),
    (("config", "task", "model", "dropout"), float("nan")),
    (("config", "task"), 10**30),
    (("tokenizer",), 5),
    (("tokenizer", "pieces", 1), "\x1b"),
    (("speakers",), [1]),
    (("config",), "x"),
])  # fmt: skip
def test_assets_of_a_checkpoint_that_were_changed_by_hand(own, place, value):
    file = own / "assets" / "metadata"
    before = file.read_text()
    assets = json.loads(before)
    part = assets
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    try:
        file.write_text(json.dumps(assets))
        write_checksums(own)
        with pytest.raises(UserError) as error:
            load_recognizer_parts(own)
        assert str(error.value).isprintable()
    finally:
        file.write_text(before)
        write_checksums(own)
    load_recognizer_parts(own)


def test_a_link_to_a_device_in_a_checkpoint(own):
    link = own / "assets" / "endless"
    link.symlink_to("/dev/zero")
    try:
        assert "no regular file" in find_damage(own)
    finally:
        link.unlink()


def test_messages_name_the_right_kind(own, tmp_path):
    for source, found in (
        (GOLDEN / "wav2vec2_base" / "model.safetensors", "the weights of a Hugging Face model, expected its folder"),
        (GOLDEN / "parakeet" / "model.safetensors", "the weights of a Hugging Face model, expected its folder"),
        (own.parents[1], "a checkpoint folder of speech_jax, expected another toolkit's, or --to too"),
    ):
        with pytest.raises(UserError, match=f"^{source}: found {found}"):
            convert.main([str(source), "--out", str(tmp_path / "out")])
