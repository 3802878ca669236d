"""What a user sees and what is left to read."""

import io
import json
import resource
import types

import numpy as np
import pytest
import soundfile
from PIL import Image
from tensorboardX.proto import event_pb2

from speech_jax.core.types import Report
from speech_jax.lowering.flops import peak_flops, program_flops
from speech_jax.monitoring import progress as progress_module
from speech_jax.monitoring.progress import Progress, clock
from speech_jax.monitoring.step_log import Pending, StepLog
from speech_jax.monitoring.tracking import Meter, Tracker
from speech_jax.training.feed import PairedBatches, ResumableBatches
from tests.support import toy


def test_metrics_merge_as_sums_and_counts():
    meter = Meter()
    meter.add({"loss": (np.float32(6.0), np.float32(3.0)), "never": (0.0, 0.0)})
    meter.add({"loss": (np.float32(1.0), np.float32(1.0))})
    assert meter.means() == {"loss": pytest.approx(7 / 4)}
    meter.count_step(6.0, 10.0, 1e9, 0.5)
    meter.count_step(3.0, 10.0, 1e9, 0.0)
    rates = meter.rates("audio_seconds", peak=1e15)
    assert rates["padding"] == pytest.approx(1 - 9 / 20)
    assert rates["audio_seconds_per_second"] == pytest.approx(4.5 * rates["steps_per_second"], rel=0.01)
    assert rates["utilization"] == pytest.approx(rates["model_flops_per_second"] / 1e15, rel=0.01)
    meter.reset()
    assert meter.means() == {} and "padding" not in meter.rates("audio_seconds", None)


def test_the_log_forgets_what_did_not_happen(tmp_path):
    tracker = Tracker(tmp_path, 0, tensorboard=False)
    for step in (1, 2, 3, 4):
        tracker.write("train", step, metrics={"loss": float("nan") if step == 2 else step}, rates={"x": 1})
    tracker.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "tra')  # killed in the middle of a line
    tracker = Tracker(tmp_path, 3, tensorboard=False)
    tracker.write("eval", 5, metrics={"dev/wer": 0.5})
    tracker.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in found] == [1, 2, 3, 5]
    assert found[1]["metrics"]["loss"] is None
    assert found[-1] == {"kind": "eval", "step": 5, "metrics": {"dev/wer": 0.5}}


def events(folder):
    """The events of a folder of TensorBoard, in the order in which readers take them."""
    for file in sorted(folder.glob("*tfevents*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event()
            event.ParseFromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            yield event


def shown(folder, *, ignored_starts):
    """{tag: steps} that a reader shows: a START drops what came before it, from its step on.

    TensorBoard's Python loader ignores the first START (plugin_event_accumulator._CheckForRestartAndMaybePurge), its
    EventAccumulator none.
    """
    steps, starts = {}, 0
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            starts += 1
            if starts > ignored_starts:
                steps = {tag: [step for step in old if step < event.step] for tag, old in steps.items()}
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    return steps


def evaluation(value):
    image, sound = np.ones((3, 4)), np.ones(9, np.float32)
    return Report({"wer": value}, [{"id": "x"}], images={"mel": image}, audio={"voice": (sound, 16000)})


# (the step that a session starts from, -1 for a new run; the step at which it was killed)
@pytest.mark.parametrize("sessions, steps, evaluations", [
    ([(-1, 34), (20, 44), (44, 48)], range(2, 49, 2), [0, 10, 20, 30, 40]),
    ([(-1, 34), (20, 26), (20, 22), (20, 20)], range(2, 21, 2), [0, 10, 20]),
    ([(-1, 0), (-1, 0), (-1, 6)], range(2, 7, 2), [0]),  # killed before the first step
    ([(-1, 0), (0, 0), (0, 4)], range(2, 5, 2), [0]),  # with a checkpoint of step 0
    ([(-1, 34), (-1, 4)], range(2, 5, 2), [0]),  # begun anew
])  # fmt: skip
def test_after_a_resume_tensorboard_shows_each_step_once(tmp_path, sessions, steps, evaluations):
    for start, end in sessions:
        tracker = Tracker(tmp_path, start, tensorboard=True)
        tracker.write("compile", max(start, 0), metrics={"seconds": 1.0})
        for step in range(max(start, 0), end + 1, 2):
            if step > start and step > 0:
                tracker.write("train", step, metrics={"loss": 1.0})
            if step % 10 == 0 and (step > start or step == 0):
                tracker.report("dev", step, evaluation(step), examples=1)
                tracker.write("eval", step, metrics={"dev/wer": float(step)})
        tracker.close()
    for ignored_starts in (0, 1):
        board = shown(tmp_path / "tensorboard", ignored_starts=ignored_starts)
        assert board.pop("train/loss") == list(steps)
        compiled = board.pop("compile/seconds")
        assert compiled == sorted(set(compiled))
        assert board and all(found == evaluations for found in board.values()), board


def test_tensorboard_gets_scalars_text_pictures_and_sound(tmp_path):
    tracker = Tracker(tmp_path, 0, tensorboard=True)
    tracker.write("train", 7, metrics={"loss": 0.5})
    report = Report(
        metrics={"wer": 0.1},
        examples=[{"id": "u1", "reference": "a | b", "hypothesis": "a\nc"}],
        images={
            "mel": np.random.default_rng(0).normal(size=(8, 12)),
            "plot": np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8),
        },
        audio={"voice": (np.sin(np.arange(1600) / 9).astype(np.float32), 16000)},
    )
    tracker.report("dev", 7, report, examples=4)
    tracker.close()
    values = {value.tag: (value, e.step) for e in events(tmp_path / "tensorboard") for value in e.summary.value}
    assert values["train/loss"][0].simple_value == 0.5 and values["train/loss"][1] == 7
    text = next(v for tag, (v, _) in values.items() if tag.startswith("dev/examples"))
    table = text.tensor.string_val[0].decode()
    assert "| id | reference | hypothesis |" in table and "a \\| b | a c |" in table
    assert (values["dev/mel"][0].image.height, values["dev/mel"][0].image.width) == (8, 12)
    assert (values["dev/plot"][0].image.height, values["dev/plot"][0].image.width) == (5, 7)
    assert values["dev/voice"][0].audio.sample_rate == 16000
    left = tmp_path / "evaluations" / "7"
    assert {path.name for path in left.iterdir()} == {"dev_mel.png", "dev_plot.png", "dev_voice.wav"}
    np.testing.assert_array_equal(np.asarray(Image.open(left / "dev_plot.png")), report.images["plot"])
    assert Image.open(left / "dev_mel.png").size == (12, 8)
    sound, rate = soundfile.read(left / "dev_voice.wav")
    assert rate == 16000 and np.abs(sound - report.audio["voice"][0]).max() < 1e-4


def test_a_full_disk_costs_the_pictures_and_nothing_else(tmp_path, caplog):
    """In the middle of a line of many metrics, too: nothing waits for a writer that has died."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    tracker = Tracker(tmp_path, 0, tensorboard=True)
    tracker.write("train", 1, metrics={"loss": 0.5})
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        for step in range(2, 5):
            tracker.write("eval", step, metrics={f"m{i}": float(i) for i in range(300)})
        tracker.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("TensorBoard's file cannot be written any more") == 1
    assert "metrics.jsonl: cannot be written" in caplog.text


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    screen, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress_module.sys, "stderr", screen)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress(100, 0, seconds=10)
    for step in range(1, 101):
        now[0] = float(step)
        progress.update(step, {"loss": f"{step}"} if step % 5 == 0 else {})
    progress.close()
    lines = screen.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "step 10/100 | loss 10 | 1:30 left"
    assert clock(3723) == "1:02:03"


def test_the_time_left_does_not_count_what_is_excluded(monkeypatch):
    screen, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress_module.sys, "stderr", screen)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress(100, 0, seconds=10)
    now[0] = 1000.0  # compiling
    progress.restart_clock()
    now[0] = 1505.0  # five steps, one a second, and an evaluation
    progress.exclude(500.0)
    progress.update(5, {})
    now[0] = 1510.0
    progress.update(10, {"loss": "1"})
    assert screen.getvalue() == "step 10/100 | loss 1 | 1:30 left\n"


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(progress_module.sys, "stderr", screen)
    progress = Progress(10, 2, seconds=10)
    progress.update(5, {"loss": "0.5"})
    progress.say("a line of its own")
    progress.update(10, {"loss": "0.25"})
    progress.close()
    shown = screen.getvalue()
    assert "\r" in shown and "10/10" in shown and "loss=0.25" in shown and "a line of its own\n" in shown


def test_the_table_of_chips():
    def device(kind):
        return types.SimpleNamespace(device_kind=kind)

    assert peak_flops(device("TPU v5 lite")) == 197e12
    assert peak_flops(device("TPU v5p")) == 459e12
    assert peak_flops(device("NVIDIA H100 80GB HBM3")) == 989e12
    assert peak_flops(device("NVIDIA A100-SXM4-80GB")) == 312e12
    assert peak_flops(device("NVIDIA H200")) == 989e12
    for unknown in ("cpu", "TPU v9", "NVIDIA H100 PCIe", "NVIDIA GeForce RTX 4090"):
        assert peak_flops(device(unknown)) is None


def test_operations_are_counted():
    import jax
    import jax.numpy as jnp

    program = jax.jit(lambda a, b: a @ b).lower(jnp.ones((32, 64)), jnp.ones((64, 16))).compile()
    assert program_flops(program) == pytest.approx(2 * 32 * 64 * 16, rel=0.05)
    assert program_flops(types.SimpleNamespace(cost_analysis=lambda: None)) is None


def test_two_streams_go_on_where_they_were():
    def make():
        return PairedBatches(toy.feed(seed=1), toy.feed(seed=2))

    data = make()
    for _ in range(3):
        next(data)
    state = json.loads(json.dumps(data.state))
    assert state == {"pre": 3, "task": 3}
    expected = next(data)
    other = make()
    next(other)
    other.restore({"pre": 3, "task": 3})
    found = next(other)
    assert toy.digest(found) == toy.digest(expected)
    other.restore({"pre": 3, "task": 5})  # each its own way
    assert toy.digest(next(other)["task"]) == toy.digest(toy.make_batch(5, seed=2))


def test_workers_are_closed():
    closed = []

    class Stream:
        def __next__(self):
            return 1

        def close(self):
            closed.append(True)

    data = ResumableBatches(lambda start: Stream(), toy.BUCKETS)
    next(data)
    data.close()
    data.close()
    assert closed == [True]


def collapse_lines(nonblank, *, name="nonblank", every=50, steps=3000):
    """What is said in a run with a warm-up of 200 steps; `nonblank`: step -> frames with a symbol per label."""
    said = []
    progress = types.SimpleNamespace(say=said.append, due=lambda: False, update=lambda *_: None)
    tracker = types.SimpleNamespace(write=lambda *_, **__: None)
    log = StepLog(
        progress, tracker, steps=steps, every=every, checks=["the loss"], bad=(0, 0), max_bad=9, unit_name="seconds",
        epsilon=None, warmup=200,
    )  # fmt: skip
    for step in range(1, steps + 1):
        logs = {name: (10.0 * nonblank(step), 10.0), "loss": (5.0, 1.0), "none": (0.0, 0.0)}
        log.read(Pending(step, logs, np.array([True]), (0.0, 0.0, 0.0, 0.0)), None)
    return said


def test_a_recognizer_that_outputs_only_blanks_for_long_is_named_once():
    (line,) = collapse_lines(lambda step: 0.0)
    assert line.startswith("step 750: almost only blanks since step 250 (nonblank 0 frames per label)")
    for advice in ("optimizer.warmup_steps", "optimizer.peak_lr", "subsampling_factor", "init_from", "texts that"):
        assert advice in line
    (line,) = collapse_lines(lambda step: 1.5 if step < 1000 else 0.01, name="task/nonblank", every=400)
    assert line.startswith("step 2400: almost only blanks since step 1600 (task/nonblank 0.01 frames")


def test_a_normal_start_and_sparse_texts_are_no_collapse():
    assert collapse_lines(lambda step: 0.0 if step < 700 else 0.3) == []
    assert collapse_lines(lambda step: 0.0 if step % 300 < 100 else 1.0) == []
    assert collapse_lines(lambda step: 0.0, name="loss/other") == []
    assert collapse_lines(lambda step: 0.0, steps=600) == []


def test_audio_without_a_sample_is_left_out_of_tensorboard(tmp_path):
    """A voice at the beginning of its training may stop before its first frame."""
    tracker = Tracker(tmp_path, 0, tensorboard=True)
    tracker.report("dev", 1, Report({"loss": 1.0}, audio={"free": (np.zeros(0, np.float32), 16_000)}), examples=0)
    tracker.close()
    assert (tmp_path / "evaluations" / "1" / "dev_free.wav").stat().st_size == 44
