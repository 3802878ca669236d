"""`speech-jax` and `python -m speech_jax`: the list of the front doors, and running one of them."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import speech_jax
from speech_jax.__main__ import DOORS, main, summary

FOLDER = Path(speech_jax.__file__).parent


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)


def is_door(file: Path) -> bool:
    """Whether `python -m` of the file runs a front door."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(n, ast.Call) and ast.unparse(n) == "run_front_door(main)" for n in ast.walk(tree))


def test_the_table_names_every_door() -> None:
    files = [f for f in FOLDER.glob("*.py") if is_door(f)] + [f.parent for f in FOLDER.glob("*/__main__.py")]
    assert sorted(DOORS) == sorted(f.stem for f in files)


def test_the_doors_are_listed_without_loading_one() -> None:
    result = run("-X", "importtime", "-m", "speech_jax")
    assert result.returncode == 0
    for door in DOORS:
        assert any(line.split(maxsplit=1) == [door, summary(door)] for line in result.stdout.splitlines()), door
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"jax", "numpy", "tyro", *(f"speech_jax.{door}" for door in DOORS)}
    assert result.stdout == run("-m", "speech_jax", "--help").stdout


def test_summaries_are_one_sentence() -> None:
    for door in DOORS:
        assert summary(door).endswith("."), door


@pytest.mark.parametrize("arguments", [["lm", "--help"], ["lm"], ["lm", "--out", "x"], ["convert", "--nonsense"]])
def test_a_door_answers_as_its_module_does(arguments: list[str], tmp_path: Path) -> None:
    door, *flags = arguments
    through, itself = run("-m", "speech_jax", door, *flags), run("-m", f"speech_jax.{door}", *flags)
    assert (through.stdout, through.stderr, through.returncode) == (itself.stdout, itself.stderr, itself.returncode)
    assert itself.returncode == (0 if "--help" in flags else 2)


def test_debug_before_or_after_the_door_shows_the_traceback() -> None:
    for words in (["--debug", "lm", "--out", "x"], ["lm", "--out", "x", "--debug"]):
        result = run("-m", "speech_jax", *words)
        assert result.returncode == 1
        assert "Traceback" in result.stderr


def test_an_unknown_door_names_the_nearest() -> None:
    result = run("-m", "speech_jax", "trian", "--config", "x.py")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: found the door 'trian', expected 'train' or another that `speech-jax` lists\n"


def test_version() -> None:
    assert run("-m", "speech_jax", "--version").stdout == f"speech_jax {speech_jax.__version__}\n"


def test_the_console_script_is_the_same_program() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="speech-jax")
    assert script.load() is main


@pytest.mark.parametrize("door", DOORS)
def test_help_loads_nothing_heavy(door: str) -> None:
    result = run("-X", "importtime", "-m", f"speech_jax.{door}", "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith(f"usage: python -m speech_jax.{door} ")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    heavy = {"jax", "flax", "optax", "orbax", "scipy", "matplotlib", "PIL", "tensorboardX", "tensorflow_datasets", "av"}
    assert not loaded & (heavy | {"grain"})
