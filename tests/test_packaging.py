"""One version and one address everywhere; the installed package is found from any folder."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import yaml

from speech_jax.core.version import REPOSITORY, __version__

ROOT = Path(__file__).parents[1]


def test_one_version():
    assert importlib.metadata.version("speech_jax") == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["repository-code"]) == (__version__, REPOSITORY)


def test_the_changelog_has_the_version_or_says_that_there_is_none_yet():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert released[:1] == [__version__] or (not released and "Nothing has been released yet" in changelog)


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """As in the parent of a clone: Python looks there first, but a folder without `__init__.py` comes last."""
    (tmp_path / "speech_jax").mkdir()
    command = [sys.executable, "-c", "import speech_jax; print(speech_jax.__version__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == __version__, done.stderr
