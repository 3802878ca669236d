"""Cached arrays: found under their key alone, and the oldest make room."""

import os

import numpy as np

from speech_jax.core.cache import ArrayCache, code_version


def test_an_entry_is_found_under_its_key_alone(tmp_path):
    cache = ArrayCache.beside(tmp_path / "a[1]*.jsonl")
    assert not cache.has("rows") and cache.load("rows", "k") is None
    cache.save("rows", "k", {"x": np.arange(3)})
    assert cache.has("rows") and not cache.has("labels") and not ArrayCache.beside(tmp_path / "b.jsonl").has("rows")
    assert cache.load("rows", "k")["x"].tolist() == [0, 1, 2]
    (entry,) = tmp_path.iterdir()
    assert cache.load("rows", "l") is None
    os.rename(entry, cache._path("rows", "l"))  # under another's name it is still not the other
    assert cache.load("rows", "l") is None


def test_no_object_is_unpickled(tmp_path):
    cache = ArrayCache.beside(tmp_path / "m.jsonl")
    cache.save("rows", "k", {"x": np.array([{}], object)})
    assert cache.load("rows", "k") is None


def test_the_oldest_make_room(tmp_path):
    cache = ArrayCache.beside(tmp_path / "m.jsonl")
    for number in range(5):
        cache.save("labels", str(number), {"x": np.arange(number)}, keep=3)
        os.utime(cache._path("labels", str(number)), (number, number))
    cache.load("labels", "2")  # used just now
    cache.save("labels", "5", {"x": np.arange(5)}, keep=3)
    assert [n for n in range(6) if cache.load("labels", str(n)) is not None] == [2, 4, 5]


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    cache = ArrayCache.beside(tmp_path / "none" / "m.jsonl")
    cache.save("rows", "k", {"x": np.arange(3)})
    assert cache.load("rows", "k") is None


def test_the_code_version_is_of_the_modules():
    assert code_version("speech_jax.core.cache") != code_version("speech_jax.core.files")
    assert code_version("speech_jax.core.cache") == code_version("speech_jax.core.cache")
