"""A new tokenizer in a run from a checkpoint: the language and the letters are those of the new texts."""

import dataclasses
import json

import pytest

from speech_jax.config import parse_config
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.finetuning.config import StartConfig
from speech_jax.finetuning.vocabulary import lost_letters, weigh_texts
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.prepare import check_given
from speech_jax.runs.resolve import resolve
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.texts import Texts
from speech_jax.text.tokenizer import train_tokenizer
from tests.support.domains import finetune

TEXTS = {
    "tr": (["İstanbul'da IŞIK yandı", "güneş DİYARBAKIR'da doğdu", "ılık çay, köprü"], "ışğçöü"),
    "el": (["Καλημέρα, ΚΌΣΜΕ!", "Ο ήλιος λάμπει"], "ςέόήά"),
    "th": (["ทำงานหนัก", "น้ำเย็น"], "ำงน้"),
    "zh": (["今天天气很好"], "今天气很好"),
    "az": (["İşıq, Bakı ƏLA"], "ışə"),
    "vi": (["Tiếng Việt đẹp"], "ếệđẹ"),
    "ro": (["ţară şi oraş"], "țș"),  # with a cedilla, as old keyboards write
    "de": (["Grüße aus Köln"], "üßö"),
}


def stream(folder, name, texts, language=""):
    path = folder / f"{name}.jsonl"
    rows = [{"id": f"{name}{n}", "audio": "x.wav", "seconds": 3.0, "text": text} for n, text in enumerate(texts)]
    rows = [row | ({"language": language} if language else {}) for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(sources=(SourceConfig(path=str(path)),), plan=PlanConfig(num_buckets=1, rows=4))


def adapted(start_models, folder, data, **changes):
    config = finetune(start_models(), folder / "run", steps=2)
    start = StartConfig(tokenizer="new")
    return dataclasses.replace(config, task=None, data=data, evaluate=(), start=start, **changes)


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_is_that_of_the_rows(start_models, tmp_path, language):
    texts, letters = TEXTS[language]
    region = {"de": "de-AT", "zh": "zh_CN"}.get(language, language)
    run = resolve(adapted(start_models, tmp_path, stream(tmp_path, "new", texts, region)))
    assert run.reader.language == run.config.task.tokenizer.language == language
    assert set(letters) <= run.reader.characters()


@pytest.mark.parametrize(
    ("languages", "found"),
    [(("",), "none"), (("tr", ""), "tr and rows without one"), (("de", "tr"), "de and tr"), (("tlh",), "tlh")],
)
def test_a_language_that_is_not_known_is_asked_for(start_models, tmp_path, languages, found):
    sets = [stream(tmp_path, f"new{n}", TEXTS["tr"][0], name) for n, name in enumerate(languages)]
    data = dataclasses.replace(sets[0], sources=tuple(source for part in sets for source in part.sources))
    with pytest.raises(UserError, match=f"task.tokenizer.language: found {found} in the rows of data"):
        resolve(adapted(start_models, tmp_path, data))


def flags_of(start_models, folder, data, *flags):
    """Return the config of flags on a config file without a task."""
    config = adapted(start_models, folder, data)
    file = folder / "config.py"
    file.write_text(
        "from speech_jax.config import TrainConfig\n"
        "from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig\n"
        f"config = TrainConfig(out_dir={config.out_dir!r}, init_from={config.init_from!r}, data=DataConfig(\n"
        f"    sources=(SourceConfig(path={data.sources[0].path!r}),), plan=PlanConfig(num_buckets=1, rows=4)))\n"
    )
    return parse_config(["--config", str(file), *flags])


def test_flags_change_the_task_of_a_checkpoint(start_models, tmp_path):
    data, new = stream(tmp_path, "new", TEXTS["tr"][0]), ("--start.tokenizer", "new")
    config = flags_of(start_models, tmp_path, data, *new, "--task.tokenizer.language=tr", "--task.model.dropout", ".1")
    old = start_models().task
    assert config.task.tokenizer == TokenizerConfig(language="tr")
    assert config.task.model == dataclasses.replace(old.model, dropout=0.1)
    assert set("ışğç") <= resolve(config).reader.characters()
    kept = flags_of(start_models, tmp_path, data, "--task.augment.freq-masks=3").task
    assert kept == dataclasses.replace(old, augment=dataclasses.replace(old.augment, freq_masks=3))
    with pytest.raises(UserError, match="--task.tokenizer.language: found other flags of --task without it"):
        flags_of(start_models, tmp_path, data, *new, "--task.model.dropout", "0.1")
    with pytest.raises(UserError, match="--task.model.dropout: found it without a task, expected a task, or init_from"):
        flags_of(start_models, tmp_path, data, "--init-from", "", "--task.model.dropout", "0.1")
    with pytest.raises(UserError, match="--task.modle.dropout"):
        flags_of(start_models, tmp_path, data, "--task.modle.dropout", "0.1")
    check_given(config)


def test_letters_that_english_rules_take_away_are_an_error_with_counts(start_models, tmp_path, caplog):
    english = ["good morning, how are you today in this fine town"] * 20
    for name, texts, rows_say in (("tr", TEXTS["tr"][0], ""), ("de", TEXTS["de"][0] + english[:2], "")):
        data = stream(tmp_path, name, texts, rows_say)
        config = flags_of(start_models, tmp_path, data, "--start.tokenizer", "new", "--task.tokenizer.language", "en")
        with pytest.raises(UserError, match="language: found 'en', with .* letters .*'[ıü]' [12]"):
            resolve(config)
    data = stream(tmp_path, "cafe", [*english, "a café"])
    config = flags_of(start_models, tmp_path, data, "--start.tokenizer", "new", "--task.tokenizer.language", "en")
    assert "é" not in resolve(config).reader.characters()
    assert "1 letters (0.1%) of the texts of data that English rules write without accents: 'é' 1" in caplog.text
    data = stream(tmp_path, "said", ["a café", "naïve"], "en")
    assert "é" not in resolve(adapted(start_models, tmp_path, data)).reader.characters()


def test_characters_that_an_alphabet_lacks_are_an_error_with_counts(start_models, tmp_path):
    data = stream(tmp_path, "new", ["aab", "abc 7"], "de")
    task = dataclasses.replace(start_models().task, tokenizer=TokenizerConfig(language="de", alphabet="ab "))
    with pytest.raises(UserError, match="task.tokenizer.alphabet: found no 'c' 1, '7' 1 of the texts of data"):
        resolve(dataclasses.replace(adapted(start_models, tmp_path, data), task=task))


def test_old_texts_count_with_the_weight_alpha(start_models, tmp_path, caplog):
    data, pre = stream(tmp_path, "new", TEXTS["tr"][0], "tr"), stream(tmp_path, "old", ["wax quilt"], "en")
    for alpha, has_old in ((0.0, False), (0.3, True)):
        config = adapted(start_models, tmp_path, data, pre=pre, alpha=AlphaConfig(start=alpha))
        assert ({"w", "x", "q"} <= resolve(config).reader.characters()) == has_old
    new, old = Texts.from_strings(["aa aa"] * 100), Texts.from_strings(["bb bb"] * 10)
    repeats = {0.5: (100, 100), 0.1: (100, 10), 0.01: (1000, 10), 0.9: (100, 200), 1.0: (100, 200)}
    for alpha, counts in repeats.items():
        texts = list(weigh_texts(new, old, alpha))
        assert (texts.count("aa aa"), texts.count("bb bb")) == counts
        assert ("repeated at most 20 times" in caplog.text) == (alpha >= 0.9)
        caplog.clear()
    pieces = TokenizerConfig("bpe", vocab_size=6, language="")
    few, many = (train_tokenizer(weigh_texts(new, old, alpha), pieces).pieces for alpha in (0.05, 0.9))
    assert "\u2581aa" in few and "\u2581bb" not in few and "\u2581bb" in many


def test_no_letter_is_lost_by_another_spelling_of_its_language():
    for language, (texts, _) in TEXTS.items():
        texts = Texts.from_strings([*texts, "1½ 10² № ŉ ﬁ"])
        assert not lost_letters(texts, train_tokenizer(texts, TokenizerConfig(language=language)))
    assert lost_letters(Texts.from_strings(["ılık"]), train_tokenizer(["ilik"])) == {"ı": 2}
