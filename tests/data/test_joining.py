"""Joined rows: their texts, their quiet, and that they are a function of (seed, epoch, plan) alone."""

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.types import StreamOptions
from speech_jax.data.config import DataConfig, JoinConfig, PlanConfig
from speech_jax.data.joining import join_labels
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import eval_plan, lengths, make_plan
from speech_jax.runs.streams import load_stream
from speech_jax.text.tokenizer import Tokenizer
from tests.support.recordings import RATE, Letters, small_set

JOIN = JoinConfig(share=0.5, seconds=9.0, gap=(0.1, 0.6), noise_db=(-60.0, -60.0))
SINGLE = PlanConfig(num_buckets=2, seconds_per_batch=12, row_multiple=2)
PLAN = PlanConfig(num_buckets=2, seconds_per_batch=12, row_multiple=2, join=JOIN)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def plan(rows):
    return make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)


def test_an_epoch_has_every_utterance_once_and_the_joined_rows(rows, plan):
    single = make_plan(*lengths(rows, Letters()), SINGLE, seed=0, sample_rate=RATE)
    numbers = np.concatenate([plan.batch(step)[1] for step in range(plan.steps())])
    assert sorted(numbers[numbers >= 0]) == list(range(len(rows) + round(0.5 * len(rows))))
    assert set(single.buckets) < set(plan.buckets) and single.fingerprint() != plan.fingerprint()
    assert f"{len(rows)} utterances" in plan.describe() and "joined rows" in plan.describe()
    assert plan.seconds == single.seconds and plan.padding_share == single.padding_share


def test_a_joined_row_holds_utterances_with_quiet_around_them(rows, plan):
    joins = plan.joins
    with batches(rows, plan, Letters(), DataConfig()) as stream:
        for step in range(2 * plan.steps()):
            batch = next(stream)
            for place in np.flatnonzero(batch["index"] >= len(rows)):
                row = joins.row(int(batch["index"][place]), step // plan.steps())
                assert len(row.rows) >= 2 and all(0.1 * RATE <= gap <= 0.6 * RATE for gap in row.gaps[:-1])
                labels = [label for number in row.rows for label in Letters().encode(rows[number].text)]
                assert batch["labels"][place, : batch["label_lengths"][place]].tolist() == labels
                samples = sum(row.gaps) + sum(round(rows[number].seconds * RATE) for number in row.rows)
                assert abs(batch["audio_lengths"][place] - samples) <= len(row.rows)
                gap = batch["audio"][place, : row.gaps[0]]
                assert 20 * np.log10(gap.std()) == pytest.approx(-60, abs=1)
                assert not batch["audio"][place, batch["audio_lengths"][place] :].any()


def test_joined_rows_resume_exactly_and_change_with_the_epoch_and_the_seed(rows, plan):
    again = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    other = make_plan(*lengths(rows, Letters()), PLAN, seed=1, sample_rate=RATE)
    first = plan.joins.first
    assert again.fingerprint() == plan.fingerprint() != other.fingerprint()
    assert again.joins.row(first, 3) == plan.joins.row(first, 3)
    changed = (plan.joins.row(first, 4), plan.joins.row(first + 1, 3), other.joins.row(first, 3))
    assert len({plan.joins.row(first, 3), *changed}) == 4
    start, count = plan.steps() - 2, 4
    with batches(rows, plan, Letters(), DataConfig()) as stream:
        straight = [next(stream) for _ in range(start + count)][start:]
    with batches(rows, again, Letters(), DataConfig(), start=start, workers=2) as stream:
        for expected in straight:
            for name, array in next(stream).items():
                np.testing.assert_array_equal(array, expected[name])


def test_a_recording_that_cannot_be_read_takes_its_joined_rows_with_it(rows, plan, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    damaged = [row._replace(audio=str(tmp_path / "bad.wav")) if number == 3 else row for number, row in enumerate(rows)]
    lost = {k for k in range(plan.joins.first, plan.joins.first + plan.joins.count) if 3 in plan.joins.row(k, 0).rows}
    with batches(damaged, plan, Letters(), DataConfig()) as stream:
        read = np.concatenate([next(stream)["index"] for _ in range(plan.steps())])
        assert set(stream.skipped) == {3}
    assert set(range(len(rows) + plan.joins.count)) - set(read.tolist()) == {3} | lost


def test_texts_are_joined_with_the_tokenizers_space():
    letters = Tokenizer("char", ("<blank>", " ", "a", "b"))
    assert join_labels([letters.encode(t) for t in ("ab", "", "b")], letters) == letters.encode("ab b")
    signs = Tokenizer("char", ("<blank>", "日", "本"), language="none")
    assert join_labels([[1], [2]], signs) == [1, 2]
    pieces = Tokenizer("bpe", ("<blank>", "\u2581", "a", "\u2581a"), (0.0, -1.0, -2.0, -0.5))
    assert join_labels([pieces.encode("a"), pieces.encode("aa")], pieces) == pieces.encode("a aa")


def test_settings_out_of_range_and_tasks_that_cannot_join(rows):
    seconds, labels = lengths(rows, Letters())
    for join, found in (
        (JoinConfig(share=-1.0), r"plan.join.share: found -1.0"),
        (JoinConfig(share=0.5, seconds=0.2), r"plan.join.seconds: found 0.2, expected room for the shortest utterance"),
        (JoinConfig(share=0.5, gap=(2.0, 1.0)), r"plan.join.gap: found \(2.0, 1.0\)"),
        (JoinConfig(share=0.5, noise_db=(-40.0, float("nan"))), r"plan.join.noise_db"),
    ):
        with pytest.raises(UserError, match=found):
            make_plan(seconds, labels, PlanConfig(join=join), seed=0)
    with pytest.raises(UserError, match="pre.plan.join.share: found 0.5, expected 0: only a recognizer"):
        load_stream(DataConfig(plan=PLAN), None, RATE, flag="pre", options=StreamOptions())
    assert eval_plan(seconds, labels, PLAN, sample_rate=RATE).joins is None
