"""A stream without an utterance to learn from, named by its flag before the first step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from speech_jax.config import EvalConfig
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, SourceConfig
from speech_jax.data.utterances import Utterances
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs import streams
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
