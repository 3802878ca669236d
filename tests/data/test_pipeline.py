"""Batches: the plan's rows with the recordings' samples, the same however they are read, from one integer."""

import logging

import numpy as np
import pytest
import soundfile

from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import eval_plan, lengths, make_plan
from speech_jax.data.utterances import Utterance
from tests.support.recordings import RATE, Letters, small_set

PLAN = PlanConfig(num_buckets=3, seconds_per_batch=8, row_multiple=2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def plan(rows):
    return make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)


def take(rows, plan, count, **options):
    with batches(rows, plan, Letters(), options.pop("config", DataConfig()), **options) as stream:
        return [next(stream) for _ in range(count)]


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_holds_the_recordings_and_the_texts(rows, plan):
    seen = []
    for step, batch in enumerate(take(rows, plan, plan.steps())):
        bucket, expected = plan.batch(step)
        np.testing.assert_array_equal(batch["index"], expected)
        assert batch["audio"].shape == (bucket.rows, bucket.samples) and batch["audio"].dtype == np.float32
        assert batch["labels"].shape == (bucket.rows, bucket.labels)
        for place, row in enumerate(expected):
            length, label_length = batch["audio_lengths"][place], batch["label_lengths"][place]
            assert not batch["audio"][place, length:].any() and not batch["labels"][place, label_length:].any()
            if row < 0:
                assert length == label_length == 0
                continue
            seen.append(row)
            np.testing.assert_array_equal(
                batch["audio"][place, :length], soundfile.read(rows[row].audio, dtype="float32")[0]
            )
            assert batch["labels"][place, :label_length].tolist() == Letters().encode(rows[row].text)
    assert sorted(seen) == list(range(len(rows)))


def test_each_row_has_its_speakers_number(rows, plan):
    numbers = np.random.default_rng(0).integers(1, 9, len(rows)).astype(np.int32)
    for batch in take(rows, plan, plan.steps(), speakers=numbers):
        assert batch["speaker"].dtype == np.int32
        np.testing.assert_array_equal(batch["speaker"], np.where(batch["index"] >= 0, numbers[batch["index"]], 0))


def test_resume_from_any_step(rows, plan):
    straight = take(rows, plan, 2 * plan.steps() + 2)
    for start in (1, plan.steps() - 1, plan.steps(), plan.steps() + 3):
        same(take(rows, plan, 2, start=start), straight[start : start + 2])


def test_step_counts_what_was_consumed_not_what_was_read_ahead(rows, plan):
    with batches(rows, plan, Letters(), DataConfig(prefetch=4), start=3) as stream:
        assert stream.step == 3
        for expected in (4, 5, 6):
            next(stream)
            assert stream.step == expected


def test_worker_processes_give_the_same_batches(rows, plan):
    straight = take(rows, plan, 7)
    same(take(rows, plan, 7, workers=2), straight)
    same(take(rows, plan, 4, workers=1, start=3), straight[3:])  # stopped with 2 workers (or none), resumed with 1


@pytest.mark.parametrize("options", [{"cache_mb": 0}, {"threads": 4, "prefetch": 0}, {"threads": 1, "prefetch": 9}])
def test_caching_and_reading_ahead_change_nothing(rows, plan, options):
    count = 2 * plan.steps()
    same(take(rows, plan, count, config=DataConfig(**options)), take(rows, plan, count))


def test_the_cache_reads_a_recording_once_and_keeps_to_its_size(rows, plan, monkeypatch):
    from speech_jax.data import pipeline

    reads = []
    original = pipeline.decode_recording
    monkeypatch.setattr(pipeline, "decode_recording", lambda u, *a, **k: reads.append(u.id) or original(u, *a, **k))
    with batches(rows, plan, Letters(), DataConfig(threads=1)) as stream:
        for _ in range(3 * plan.steps()):
            next(stream)
    assert sorted(reads) == sorted(u.id for u in rows)
    reads.clear()
    with batches(rows, plan, Letters(), DataConfig(threads=1, cache_mb=0)) as stream:
        for _ in range(2 * plan.steps()):
            next(stream)
    assert len(reads) >= 2 * len(rows)


def test_hosts_together_have_the_global_batch(rows, plan):
    straight = take(rows, plan, plan.steps())
    hosts = [take(rows, plan, plan.steps(), process_index=i, process_count=2) for i in range(2)]
    same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*hosts, strict=True)], straight)
    with pytest.raises(UserError, match="3 processes"):
        batches(rows, plan, Letters(), DataConfig(), process_index=0, process_count=3)


def test_an_evaluation_ends(rows):
    plan = eval_plan(*lengths(rows, Letters()), PLAN, sample_rate=RATE)
    for workers in (0, 1):
        with batches(rows, plan, Letters(), DataConfig(), workers=workers) as stream:
            index = np.concatenate([batch["index"] for batch in stream])
            assert sorted(index[index >= 0]) == list(range(len(rows)))
            assert list(stream) == [] and stream.step == plan.steps()
    assert take(rows, plan, 0, start=plan.steps()) == []


def bad_set(folder) -> list[Utterance]:
    """Six recordings that cannot be trained on among 30 that can."""
    rows = small_set(folder)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.wav").write_bytes((folder / "005.wav").read_bytes()[:900])
    (folder / "text.wav").write_text("I am no audio at all")
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "short.wav", np.full(2000, 0.1), RATE)  # is 0.25 s, not 1 s
    bad = [
        Utterance(name, str(folder / f"{name}.wav"), text="abc", seconds=1.0)
        for name in ("missing", "empty", "cut", "text", "nan", "short")
    ]
    write_manifest(folder / "m.jsonl", rows + bad)
    return read_manifest(folder / "m.jsonl")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_recordings_are_named_once_counted_and_weigh_nothing(tmp_path, caplog, workers):
    rows = bad_set(tmp_path)
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    with caplog.at_level(logging.WARNING), batches(rows, plan, Letters(), DataConfig(), workers=workers) as stream:
        got = [next(stream) for _ in range(2 * plan.steps())]
        assert sorted(stream.skipped) == list(range(30, 36))
    assert len(caplog.messages) == 6
    for row, name in enumerate(("missing", "empty", "cut", "text", "nan", "short"), start=30):
        (message,) = [m for m in caplog.messages if f"{name}.wav" in m]
        assert f"m.jsonl:{row + 1}: {name}: " in message and "\n" not in message
    for step, batch in enumerate(got):
        _, expected = plan.batch(step)
        skipped = expected >= 30
        np.testing.assert_array_equal(batch["index"], np.where(skipped, -1, expected))
        for name in ("audio", "audio_lengths", "labels", "label_lengths"):
            assert not batch[name][skipped].any()
        assert np.isfinite(batch["audio"]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_or_they_stop_the_run(tmp_path, workers):
    rows = bad_set(tmp_path)
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    with batches(rows, plan, Letters(), DataConfig(on_error="raise"), workers=workers) as stream:
        with pytest.raises(UserError, match=r"m.jsonl:3\d: \w+: .*\.wav"):
            for _ in range(plan.steps()):
                next(stream)


def test_ten_hours_and_one_sample_are_left_out_by_the_plan(tmp_path):
    """A manifest that tells the truth about them; recordings that lie are the test above."""
    rows = small_set(tmp_path)
    soundfile.write(tmp_path / "one.wav", np.float32([0.5]), RATE)
    rows += [Utterance("one", str(tmp_path / "one.wav"), text="a", seconds=1 / RATE)]
    rows += [Utterance("long", str(tmp_path / "none.wav"), text="a", seconds=36_000.0)]
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    assert [row for row, _ in plan.dropped] == [30, 31]


def test_stereo_and_8_bit_are_fine(tmp_path):
    rows = small_set(tmp_path)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2))
    soundfile.write(tmp_path / "stereo.wav", samples, RATE)
    soundfile.write(tmp_path / "bits8.wav", samples[:, 0], RATE, subtype="PCM_U8")
    rows += [Utterance(name, str(tmp_path / f"{name}.wav"), text="abc", seconds=1.0) for name in ("stereo", "bits8")]
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    with batches(rows, plan, Letters(), DataConfig(on_error="raise")) as stream:
        got = [next(stream) for _ in range(plan.steps())]
    for row, expected in ((30, samples.mean(1)), (31, samples[:, 0])):
        (audio,) = [b["audio"][b["index"] == row][0] for b in got if (b["index"] == row).any()]
        np.testing.assert_allclose(audio[:8000], expected, atol=1 / 128)


@pytest.mark.parametrize("workers", [0, 1])
def test_recordings_with_faults_are_read_counted_and_named_once(tmp_path, caplog, workers):
    rows = small_set(tmp_path)
    for name, samples in (("silent", np.zeros(RATE)), ("clipped", np.sign(np.sin(np.arange(RATE) * 0.1)))):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
        rows.append(Utterance(name, str(tmp_path / f"{name}.wav"), text="abc", seconds=1.0, where=f"m.jsonl:{name}"))
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    with caplog.at_level(logging.WARNING), batches(rows, plan, Letters(), DataConfig(), workers=workers) as stream:
        for _ in range(2 * plan.steps()):
            next(stream)
        assert stream.skipped == {}
        assert {kind: len(found) for kind, found in stream.found.items()}.items() >= {"silent": 1, "clipped": 1}.items()
    (message,) = [m for m in caplog.messages if "silent" in m]
    assert message == "silent, but read (1 so far): m.jsonl:silent: silent: all its samples are 0"


@pytest.mark.parametrize("workers", [0, 1])
def test_recordings_that_cannot_be_read_are_named_in_the_first_pass_alone(tmp_path, caplog, workers):
    rows = small_set(tmp_path)
    rows += [Utterance(f"n{i}", str(tmp_path / "none.wav"), text="abc", seconds=1.0, where=f"m:{i}") for i in range(25)]
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    checked, failed = set(), set()
    for count in (20, 0):
        caplog.clear()
        options = {"workers": workers, "checked": checked, "failed": failed}
        with caplog.at_level(logging.WARNING), batches(rows, plan, Letters(), DataConfig(), **options) as stream:
            for _ in range(plan.steps()):
                next(stream)
            assert len(stream.skipped) == 25  # each pass counts them, for the report
        assert len([message for message in caplog.messages if message.startswith("skipped (")]) == count


def test_training_stops_where_no_recording_can_be_read(tmp_path):
    """And goes on where some of them cannot."""
    rows = small_set(tmp_path)
    plan = make_plan(*lengths(rows, Letters()), PLAN, seed=0, sample_rate=RATE)
    gone = [row._replace(audio=str(tmp_path / "none.wav")) for row in rows]
    with batches(gone, plan, Letters(), DataConfig()) as stream:
        with pytest.raises(UserError, match=rf"no recording in {2 * plan.steps()} batches that can be .*none.wav"):
            for _ in range(2 * plan.steps()):
                next(stream)
    with batches([*gone[:-1], rows[-1]], plan, Letters(), DataConfig()) as stream:
        for _ in range(6 * plan.steps()):
            next(stream)


def test_batches_that_do_not_fit_in_memory_are_one_line(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    rows = small_set(tmp_path)
    plan = make_plan(*lengths(rows, Letters()), PlanConfig(rows=16), seed=0, sample_rate=RATE)
    monkeypatch.setattr(type(plan), "batch", no_memory)
    with batches(rows, plan, Letters(), DataConfig()) as stream:
        with pytest.raises(UserError, match="plan: found batches of 16 rows, expected some that fit in memory: rows, "):
            next(stream)
