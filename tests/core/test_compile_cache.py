"""The persistent compilation cache is on by default, and steps aside where it cannot be."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speech_jax.core.compile_cache import use_compile_cache

PROGRAM = """
import speech_jax.core.errors as errors
def main(argv):
    import jax, jax.numpy as jnp
    events = []
    jax.monitoring.register_event_listener(lambda event, **kwargs: events.append(event))
    jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((4, 4))).block_until_ready()
    print(events.count("/jax/compilation_cache/cache_hits"))
errors.run_front_door(main)
"""


@pytest.fixture
def environment(monkeypatch, tmp_path):
    names = ("COMPILATION_CACHE_DIR", "COMPILATION_CACHE_MAX_SIZE", "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    for name in names:
        monkeypatch.setenv(f"JAX_{name}", "")  # put back at the end, whatever the test sets
        monkeypatch.delenv(f"JAX_{name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return monkeypatch


def hits(**settings: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return int(result.stdout)


def test_a_second_process_compiles_nothing(environment, tmp_path):
    environment.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    assert hits() == 0
    assert hits() >= 1
    assert list(tmp_path.glob("speech_jax/jax/*/*-cache"))
    assert hits(JAX_ENABLE_COMPILATION_CACHE="false") == 0


def test_the_environment_decides(environment, tmp_path):
    environment.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    use_compile_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ  # a folder of before has no times of use
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_no_error(environment, tmp_path):
    (tmp_path / "file").write_text("")
    environment.setenv("XDG_CACHE_HOME", str(Path(tmp_path, "file")))
    use_compile_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_an_entry_whose_writer_was_killed_is_removed(environment, tmp_path):
    environment.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    hits()
    (whole,) = {p.name for p in tmp_path.glob("speech_jax/jax/*/jit__*-cache")}
    (folder,) = tmp_path.glob("speech_jax/jax/*")
    for name, age in (("old-cache", 700), ("new-cache", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    use_compile_cache()
    assert {p.name for p in folder.glob("*-cache")} >= {whole, "new-cache"}
    assert not (folder / "old-cache").exists()


def test_a_folder_that_others_can_write_is_not_used(environment, tmp_path):
    use_compile_cache()
    (folder,) = tmp_path.glob("speech_jax/jax/*")
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(folder)
    folder.chmod(0o777)
    use_compile_cache()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_relative_cache_folder_is_as_none(environment, tmp_path):
    environment.chdir(tmp_path)
    environment.setenv("HOME", str(tmp_path / "home"))
    environment.setenv("XDG_CACHE_HOME", "relative")
    use_compile_cache()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "home" / ".cache"))
