"""A stream without an utterance to learn from, named by its flag before the first step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from speech_jax.config import EvalConfig
from speech_jax.core.columns import CategoryColumn
from speech_jax.core.errors import UserError
from speech_jax.core.types import StreamOptions
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.utterances import Utterance, Utterances
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs import streams
from speech_jax.runs.prepare import prepare
from speech_jax.text.config import FrontEndConfig, TokenizerConfig
from speech_jax.text.frontend import make_front_end
from speech_jax.text.texts import Texts
from speech_jax.text.tokenizer import train_tokenizer
from tests.support import domains


@pytest.fixture(name="sets")
def make_sets(start_models, tmp_path):
    """Return (start model, function: name, rows, plan settings -> DataConfig)."""
    start = start_models()
    corpus = Path(start.data.sources[0].path).parent

    def part(name="B-train", change=None, **plan):
        config = domains.part(corpus, name)
        if change is not None:
            rows = [json.loads(line) for line in (corpus / f"{name}.jsonl").read_text().splitlines()]
            rows = [row | {"audio": str(corpus / row["audio"])} | change for row in rows] if change else []
            domains.write_manifest(tmp_path, "changed", rows)
            config = domains.part(tmp_path, "changed")
        return replace(config, plan=replace(config.plan, **plan))

    return start, part


def error_of(config):
    result, text = domains.run(config)
    assert result is None and text.count("error: ") == 1
    return text.rpartition("error: ")[2].strip()


def test_an_empty_stream_is_named_with_its_flag(sets, tmp_path):
    start, part = sets
    half = AlphaConfig(start=0.5)
    left_out = "found no utterance to make batches of, 24 left out; the first: found"
    for changes, message in [
        ({"data": part(max_seconds=0.12)}, f"data.plan.max_seconds: {left_out} "),
        ({"data": part(min_seconds=20.0)}, f"data.plan.min_seconds: {left_out} "),
        ({"data": part(max_labels=0)}, f"data.plan.max_labels: {left_out} "),
        ({"data": part(bucket_seconds=(0.12,))}, f"data.plan.bucket_seconds: {left_out} "),
        ({"pre": part("A-train", max_seconds=0.12), "alpha": half}, f"pre.plan.max_seconds: {left_out} "),
        ({"data": part(change={"text": "abcdea" * 20})}, "data: found 24 transcripts that all have more labels than "),
        ({"evaluate": (EvalConfig("dev", part(rows=-1)),)}, "evaluate.0.data.plan: found rows = -1, expected "),
    ]:
        assert error_of(domains.finetune(start, tmp_path / "out", **changes)).startswith(message)
    assert not (tmp_path / "out").exists()


def test_english_rules_on_another_language_are_said(sets, tmp_path, caplog):
    """The rows name their language; "schön" would become "schon" without a word."""
    start, part = sets
    prepare(domains.finetune(start, tmp_path / "out", data=part(change={"language": "de-DE"})))
    assert "data: 24 of 24 transcripts are in de-DE by their rows, but are read by English rules" in caplog.text
    caplog.clear()
    prepare(domains.finetune(start, tmp_path / "out", data=part(change={"language": "en-GB"})))
    assert "English rules" not in caplog.text
    accents = {"text": "éàb"}
    prepare(domains.finetune(start, tmp_path / "out", data=part(change=accents)))
    assert "data: 48 letters of the texts (66.7% of the characters: 'é' 24, 'à' 24) are not English" in caplog.text


@pytest.mark.parametrize("units", ["tacotron2", "graphemes"])
def test_english_rules_of_a_voice_on_another_script_are_said(caplog, units):
    texts = Texts.from_strings(["Это 3 кота", "ılık çay, lütfen"])
    reader = make_front_end(FrontEndConfig(units=units), ["abc"])
    rows = SimpleNamespace(languages=CategoryColumn.from_strings(["", ""]), texts=texts)
    streams.warn_of_language("data", SimpleNamespace(reader=reader, utterances=rows))
    assert "of the characters: 'т' 2, " in caplog.text and "English rules" in caplog.text


def test_tags_that_are_left_out_are_counted(sets, tmp_path, caplog):
    start, part = sets
    caplog.set_level("INFO", "speech_jax")
    prepare(domains.finetune(start, tmp_path / "out", data=part(change={"text": "abc [laughter] <unk>"})))
    assert "data: left out 48 tags, which are no words: [laughter] 24, <unk> 24" in caplog.text


def test_an_empty_evaluation_set_is_named(sets, tmp_path):
    start, part = sets
    for data, message in [
        (part("B-dev", eval_max_seconds=0.1), "evaluate.1.data.plan.eval_max_seconds: found no utterance to make "),
        (part("B-dev", {}), f"{tmp_path}/changed.jsonl: found no utterances, expected at least one (evaluate.1.data"),
    ]:
        sets = (start.evaluate[0], EvalConfig("dev", data))
        text = error_of(domains.finetune(start, tmp_path / "out", evaluate=sets))
        assert text.startswith(message) and text.endswith("(evaluation set 'dev')")


def test_a_manifest_without_a_row_is_named_with_its_stream(sets, tmp_path):
    start, part = sets
    out, empty = tmp_path / "out", part(change={})
    for flag, config in [
        ("data", domains.finetune(start, out, data=empty)),
        ("data", replace(start, out_dir=str(out), data=empty)),  # whose texts are to make a tokenizer
        ("pre", domains.finetune(start, out, pre=empty, alpha=AlphaConfig(start=0.5))),
    ]:
        message = f"{tmp_path}/changed.jsonl: found no utterances, expected at least one ({flag}.sources)"
        assert error_of(config) == message


def test_sets_of_any_kind_may_be_empty(monkeypatch):
    monkeypatch.setattr(streams, "load_sources", lambda config, read: Utterances.of([]))
    config = DataConfig(sources=(SourceConfig(kind="tfds", name="vctk"), SourceConfig(kind="shards", path="x")))
    with pytest.raises(UserError, match="^pre.sources: found no utterance in vctk, x, expected at least one$"):
        streams.Sources().load(config, "pre")


def test_the_same_recordings_are_found_by_any_path_and_in_copies(sets, tmp_path):
    start, part = sets
    corpus = Path(start.data.sources[0].path).parent
    (tmp_path / "link").symlink_to(corpus)
    shutil.copytree(corpus, tmp_path / "copy")
    half, out = AlphaConfig(start=0.5), tmp_path / "out"
    folders = [corpus / ".." / corpus.name, tmp_path / "link", tmp_path / "copy"]
    rows = [json.loads(line) for line in (corpus / "B-train.jsonl").read_text().splitlines()]
    reversed_rows = [row | {"audio": f"{tmp_path}/link/{row['audio']}"} for row in reversed(rows)]
    domains.write_manifest(tmp_path, "B-train", reversed_rows)  # absolute paths in another manifest
    for folder in (*folders, tmp_path):
        pre = domains.part(folder, "B-train")
        text = error_of(domains.finetune(start, out, pre=pre, alpha=half))
        assert text.startswith("pre: found the same 24 recordings as in data, expected those of the old domain")
    for folder in folders:
        evaluate = (EvalConfig("old", domains.part(folder, "A-train")),)
        text = error_of(domains.finetune(start, out, pre=part("A-train"), alpha=half, evaluate=evaluate))
        assert "found a recording that the evaluation set 'old' has too" in text


def test_evaluation_sets_of_the_same_recordings_are_named(sets, tmp_path, caplog):
    corpus = Path(sets[0].data.sources[0].path).parent
    shutil.copytree(corpus, tmp_path / "copy")
    paths = {"old": corpus / "A-dev.jsonl", "new": corpus / "B-dev.jsonl", "other": tmp_path / "copy" / "A-dev.jsonl"}
    held_out = {name: SimpleNamespace(utterances=read_manifest(path)) for name, path in paths.items()}
    streams.warn_of_equal_sets(held_out)
    assert caplog.messages == ["evaluate: found the same 8 recordings in the sets 'old' and 'other'"]


def stream_of(tmp_path, texts, **settings):
    """Return the training stream of a recognizer of letters from texts, one a recording of 2 s."""
    rows = [Utterance(f"u{i}", f"{i}.wav", text=text, seconds=2.0) for i, text in enumerate(texts)]
    write_manifest(tmp_path / "m.jsonl", rows)
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "m.jsonl")),), **settings)
    reader = train_tokenizer(["the old cat"], TokenizerConfig(kind="char"))
    return streams.load_stream(config, reader, 16_000)


def test_texts_without_a_letter_are_counted_named_and_left_out(tmp_path, caplog):
    stream = stream_of(tmp_path, ["the cat", "", "...", "old", " "])
    assert [u.id for u in stream.utterances] == ["u0", "u3"] and stream.labels.tolist() == [7, 3]
    assert "data: left out: 3 of 5 utterances have an empty text" in caplog.text and "m.jsonl:2 (u1)" in caplog.text
    caplog.clear()
    kept = stream_of(tmp_path, ["the cat", "", "..."], empty_texts="keep")
    assert kept.labels.tolist() == [7, 0, 0] and "data: kept: 2 of 3" in caplog.text
    with pytest.raises(UserError, match="data: 2 of 2 utterances have an empty text"):
        stream_of(tmp_path, ["", "!"])
    caplog.clear()
    stream_of(tmp_path, ["the cat"])
    assert not caplog.text


def test_repeated_labels_need_a_frame_more_each(tmp_path, caplog):
    stream = stream_of(tmp_path, ["t" * 30, "the cat"])
    options = StreamOptions(max_labels=lambda seconds: seconds * 25)  # 50 frames; 30 equal letters need 59
    streams.warn_of_misfits("data", stream, options)
    assert "data: 1 of 2 transcripts have more labels" in caplog.text


def test_an_evaluation_of_which_no_recording_can_be_read_is_an_error(tmp_path, caplog):
    """Its error rate would be 0, the best; what some recordings lack is said in the first pass alone."""
    rows = [Utterance(name, str(tmp_path / f"{name}.wav"), text="x", seconds=1.0) for name in "ab"]
    write_manifest(tmp_path / "m.jsonl", rows)
    config = DataConfig(sources=(SourceConfig(path=str(tmp_path / "m.jsonl")),))
    one_pass = streams.load_stream(config, None, 8000, shuffle=False).one_pass()
    with pytest.raises(UserError, match=r"found none of 2 recordings that can be read; .*\.wav: no such file"):
        list(one_pass())
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.1), 8000)
    caplog.clear()
    assert sorted(int(row) for batch in one_pass() for row in batch["index"] if row >= 0) == [0]
    assert "skipped" not in caplog.text
