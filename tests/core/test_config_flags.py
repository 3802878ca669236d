"""Flags that lengthen and empty lists, and fill and turn off optional parts."""

import dataclasses

import pytest

from speech_jax.core.config_flags import extend
from speech_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    path: str = ""
    rows: int = 1


@dataclasses.dataclass(frozen=True)
class Data:
    sources: tuple[Source, ...] = ()
    rate: float | None = 1.0


@dataclasses.dataclass(frozen=True)
class Set:
    name: str
    data: Data


@dataclasses.dataclass(frozen=True)
class Config:
    data: Data = Data((Source("a"),))
    pre: Data | None = None
    sets: tuple[Set, ...] = (Set("x", Data((Source("d"),))),)
    sizes: tuple[int, ...] = (1, 2)


def test_a_list_grows_at_its_end_and_an_optional_part_appears():
    config, rest = extend(Config(), ["--data.sources.1.path", "b", "--pre.sources.0.path=p", "--sizes", "3", "4"])
    assert config.data.sources == (Source("a"), Source())  # tyro sets the path
    assert config.pre == Data((Source(),))
    assert rest == ["--data.sources.1.path", "b", "--pre.sources.0.path=p", "--sizes", "3", "4"]

    flags = ["--sets.1.name", "y", "--sets.1.data.sources.0.path", "e", "--sets.2.name", "z"]
    config, _ = extend(Config(), flags, {Data: Data(rate=3.0)})
    assert [s.data for s in config.sets[1:]] == [Data((Source(),), 3.0), Data((), 3.0)]
    assert extend(Config(), ["--data.sources.0.path", "b", "--unknown.3.name", "c"])[0] == Config()


def test_none_empties_a_list_and_turns_a_part_off():
    config = Config(pre=Data())
    flags = ["--pre", "None", "--sets=None", "--data.rate", "None", "--sets.0.data.sources.0.path", "n"]
    config, rest = extend(config, flags)
    assert (config.pre, len(config.sets), rest) == (None, 1, flags[3:])
    assert extend(Config(), ["--sets.0.data.sources", "None"])[0].sets[0].data.sources == ()
    assert extend(Config(), ["--pre", "None"]) == (Config(), [])
    assert extend(Config(), ["--sets.0", "None"]) == (Config(sets=()), [])
    assert extend(Config(), ["--sizes", "None", "--sizes.0", "None"])[1] == ["--sizes", "None", "--sizes.0", "None"]


def test_a_gap_is_an_error():
    with pytest.raises(UserError, match=r"^--sets.3.name: found index 3, expected at most 1, the next one$"):
        extend(Config(), ["--sets.3.name", "y"])


@pytest.mark.parametrize("early, drop", [("sets.0.name", "sets.0"), ("sets.0.name", "sets"), ("pre.rate", "pre")])
def test_a_flag_of_a_part_comes_after_the_one_that_drops_it(early, drop):
    with pytest.raises(UserError, match=f"--{early}: found it before --{drop} None, expected it after"):
        extend(Config(), [f"--{early}", "1", f"--{drop}", "None"])


@pytest.mark.parametrize("index", ["00", "٠"])
def test_an_index_has_one_spelling(index):
    for words in ([f"--sets.{index}", "None"], [f"--sets.{index}.name", "y"]):
        with pytest.raises(UserError, match=f"found the index '{index}', expected 0"):
            extend(Config(), words)
