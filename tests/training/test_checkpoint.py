"""Checkpoints under attack: flipped bits, missing files, kill -9, a full disk, another model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import TrainState
from speech_jax.training.checkpoint import (
    Checkpoints,
    find_checkpoint,
    load_assets,
    load_params,
    open_checkpoint,
    saved_steps,
)
from speech_jax.training.checksums import NAME, find_damage, write_checksums
from speech_jax.training.config import CheckpointConfig
from speech_jax.training.state import OptState
from tests.support import toy

ASSETS = {"tokenizer": ["<blank>", "ä"], "config": {"rate": 16000}}


def make_state(step, seed=0, width=6, ema=True):
    rng = np.random.default_rng([seed, step])

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"encoder": {"kernel": array(4, width), "bias": array(width).astype(jnp.bfloat16)}, "head": array(width)}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={"stats": {"mean": array(3)}},
        opt_state=OptState({"mu": array(width)}, jnp.int32(1), jnp.int32(0)),
        ema=jax.tree.map(lambda x: x + 1, params) if ema else None,
    )


def like(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def save(run, steps, metrics=None, config=None, **options):
    checkpoints = Checkpoints(run, config or CheckpointConfig(), ASSETS)
    for step in steps:
        data = {"data": {"pre": step, "task": 2 * step}, "pipeline": {}}
        if metrics and step in metrics:
            data["metrics"] = {"dev/wer": metrics[step]}
        checkpoints.save(step, make_state(step, **options), data, wait=True)
    return checkpoints


@pytest.fixture(name="run")
def make_run(tmp_path):
    save(tmp_path, [10, 20]).close()
    return tmp_path


def test_what_was_saved_comes_back_bit_for_bit(run):
    checkpoints = Checkpoints(run, CheckpointConfig(), ASSETS)
    state, data = checkpoints.restore(like(make_state(0)))
    checkpoints.close()
    assert toy.digest(state) == toy.digest(make_state(20))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(20))
    assert data["data"] == {"pre": 20, "task": 40} and data["step"] == 20
    assert load_assets(run) == ASSETS
    for ema in (True, False):
        params, model_state = load_params(run, ema=ema)
        expected = make_state(20).ema if ema else make_state(20).params
        assert toy.digest(params) == toy.digest(expected)
        assert toy.digest(model_state) == toy.digest(make_state(20).model_state)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    assert toy.digest(load_params(run / "checkpoints" / "10", ema=False)[0]) == toy.digest(make_state(10).params)
    assert toy.digest(load_params(run, 10, ema=False)[0]) == toy.digest(make_state(10).params)


def test_a_copied_step_is_enough(run, tmp_path):
    alone = tmp_path / "elsewhere" / "model"
    alone.parent.mkdir()
    (run / "checkpoints" / "20").rename(alone)
    assert toy.digest(load_params(alone, ema=False)[0]) == toy.digest(make_state(20).params)
    assert load_assets(alone) == ASSETS


def test_a_flipped_bit_in_any_file_is_found(run, caplog):
    """Each file in turn, a bit at a random place; the step before is restored, and the warning names the file."""
    rng = np.random.default_rng(0)
    newest = run / "checkpoints" / "20"
    files = sorted(p for p in newest.rglob("*") if p.is_file())
    assert len(files) > 10 and newest / NAME in files
    for path in files:
        original = path.read_bytes()
        assert original, f"{path} is empty"
        for bit in rng.integers(0, 8 * len(original), 8 if path.name == NAME else 3).tolist():
            damaged = bytearray(original)
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            assert find_damage(newest), f"bit {bit} of {path}"
        caplog.clear()
        assert find_checkpoint(run, "last") == run / "checkpoints" / "10"
        # a bit in the manifest itself may look like damage to the file whose line it is in
        assert str(newest if path.name == NAME else path) in caplog.text
        with pytest.raises(UserError, match="20"):
            load_params(newest)
        path.write_bytes(original)
    assert find_damage(newest) is None
    assert find_checkpoint(run, "last") == newest


def test_every_bit_of_the_manifest_counts(run):
    path = run / "checkpoints" / "20" / NAME
    original = path.read_bytes()
    for bit in range(0, 8 * len(original), 37):  # 37 visits every place in a byte
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        assert find_damage(path.parent), bit


@pytest.mark.parametrize("attack", ["missing file", "extra file", "truncated", "no manifest", "empty folder"])
def test_damage_falls_back_and_training_goes_on(run, attack, caplog):
    newest = run / "checkpoints" / "20"
    victim = newest / "assets" / "metadata"
    if attack == "missing file":
        victim.unlink()
    elif attack == "extra file":
        (newest / "state" / "more").write_text("x")
    elif attack == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif attack == "no manifest":
        (newest / NAME).unlink()
    else:
        (newest / NAME).unlink()
        for path in sorted(newest.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    checkpoints = Checkpoints(run, CheckpointConfig(), ASSETS)
    state, data = checkpoints.restore(like(make_state(0)))
    assert int(state.step) == data["step"] == 10
    assert toy.digest(state) == toy.digest(make_state(10))
    assert "falling back" in caplog.text or "set aside" in caplog.text
    checkpoints.save(20, make_state(20, seed=7), {"data": 1}, wait=True)  # the same step can be written again
    state, _ = checkpoints.restore(like(make_state(0)))
    assert toy.digest(state) == toy.digest(make_state(20, seed=7))
    checkpoints.close()


def test_an_empty_path_is_no_folder(monkeypatch, run):
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match="checkpoint: found '', expected"):
        find_checkpoint("")
    assert find_checkpoint(".").name


def test_nothing_whole_is_an_error_and_nothing_at_all_is_not(run, tmp_path):
    for step in (10, 20):
        (run / "checkpoints" / str(step) / "data" / "metadata").write_text("{}")
    with pytest.raises(UserError, match="found 2 checkpoints, all damaged"):
        load_params(run)
    checkpoints = Checkpoints(run, CheckpointConfig(), ASSETS)
    with pytest.raises(UserError, match="found only damaged checkpoints"):
        checkpoints.restore(like(make_state(0)))
    checkpoints.close()
    fresh = Checkpoints(tmp_path / "fresh", CheckpointConfig(), ASSETS)
    assert fresh.restore(like(make_state(0))) is None
    fresh.close()
    with pytest.raises(UserError, match="found no checkpoint, expected a run's folder"):
        load_params(tmp_path / "nowhere")


def test_the_best_and_the_newest_are_kept(tmp_path):
    metrics = {1: 0.9, 2: 0.2, 3: 0.5, 4: float("nan"), 6: 0.7}
    config = CheckpointConfig(metric="dev/wer", keep_best=1, keep_last=2)
    save(tmp_path, range(1, 6), metrics, config).close()
    save(tmp_path, [6], metrics, config).close()  # the scores survive a restart
    assert saved_steps(tmp_path / "checkpoints") == [2, 5, 6]
    assert find_checkpoint(tmp_path).name == "2"
    assert find_checkpoint(tmp_path, "last").name == "6"
    with pytest.raises(UserError, match="found no step 3, expected one of 2, 5, 6"):
        load_params(tmp_path, 3)
    # the best one is damaged: the next best, with a warning
    (tmp_path / "checkpoints" / "2" / "data" / "metadata").write_text("{}")
    assert find_checkpoint(tmp_path).name == "6"
    best = CheckpointConfig(metric="dev/wer", mode="max", keep_last=1)
    save(tmp_path / "max", range(1, 5), metrics, best).close()
    assert saved_steps(tmp_path / "max" / "checkpoints") == [1, 3, 4]  # never fewer than two of the newest
    assert find_checkpoint(tmp_path / "max").name == "1"


METRICS = {1: 0.5, 2: 0.2, 3: 0.9, 4: 0.4, 5: 0.7, 6: 0.8}


def flip(folder):
    """Flip a byte in the largest file of the arrays."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 255
    victim.write_bytes(content)


@pytest.mark.parametrize(
    ("keep_best", "damaged", "best", "kept"),
    [(1, [2], 4, [4, 6, 7]), (1, [], 2, [2, 6, 7]), (2, [4], 2, [2, 1, 6, 7]), (2, [2, 4], 1, [1, 5, 6, 7])],
)
def test_a_damaged_best_checkpoint_takes_no_place(tmp_path, caplog, keep_best, damaged, best, kept):
    save(tmp_path, range(1, 7), METRICS, CheckpointConfig(metric="dev/wer", keep_last=9)).close()
    for step in damaged:
        flip(tmp_path / "checkpoints" / str(step))
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(metric="dev/wer", keep_best=keep_best), ASSETS)
    assert int(checkpoints.restore(like(make_state(0)))[0].step) == 6
    assert checkpoints.find_best({})["step"] == best
    assert all(f"step {step} is not the best" in caplog.text for step in damaged)
    checkpoints.save(7, make_state(7), {"data": 7, "metrics": {"dev/wer": 0.95}}, wait=True)
    checkpoints.close()
    assert saved_steps(tmp_path / "checkpoints") == sorted(kept)
    assert find_checkpoint(tmp_path).name == str(best)


@pytest.mark.parametrize(
    ("config", "limits", "best"),
    [
        (CheckpointConfig(metric="dev/wer", mode="max"), {}, 3),
        (CheckpointConfig(metric="dev/wer", mode="max"), {"dev/wer": 0.6}, 1),
        (CheckpointConfig(), {"dev/wer": 0.6}, 4),
        (CheckpointConfig(metric="dev/wer"), {"dev/wer": 0.1}, None),
        (CheckpointConfig(metric="dev/cer"), {}, None),
        (CheckpointConfig(), {}, None),
    ],
)
def test_kept_checkpoints_are_ranked_by_the_settings_in_force(tmp_path, config, limits, best):
    save(tmp_path, METRICS, METRICS, CheckpointConfig(metric="dev/wer", keep_last=9)).close()
    checkpoints = Checkpoints(tmp_path, config, ASSETS)
    assert checkpoints.find_best(limits).get("step") == best
    checkpoints.close()


def guarded(run, rows, metric="new/loss"):
    """Save checkpoints with a guard on old/loss of 0.3; rows: step -> (old/loss, new/loss), or None: not evaluated."""
    checkpoints = Checkpoints(run, CheckpointConfig(metric=metric, keep_last=9), ASSETS)
    for step, row in rows.items():
        metrics = None if row is None else dict(zip(("old/loss", "new/loss"), row, strict=True))
        data = {"data": step, "metrics": metrics, "limits": {"old/loss": 0.3}}
        checkpoints.save(step, make_state(step), data, wait=True)
    checkpoints.close()
    return run


@pytest.mark.parametrize(
    ("rows", "metric", "best"),
    [
        ({1: (0.2, 0.9), 2: (0.5, 0.1), 3: (0.3, 0.8), 4: (0.2, float("nan")), 5: None}, "new/loss", "3"),
        ({1: (0.2, 0.9), 2: (0.3, 0.8), 3: (0.5, 0.1), 4: None}, None, "2"),  # without a metric: the newest within
    ],
)
def test_the_best_is_within_the_guards_and_was_evaluated(tmp_path, caplog, rows, metric, best):
    assert find_checkpoint(guarded(tmp_path, rows, metric)).name == best
    assert f"step {best} is taken, the best" in caplog.text and f"the last is step {max(rows)}" in caplog.text
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(metric=metric), ASSETS)
    checkpoints.save(9, make_state(9), {"data": 9, "limits": {"old/loss": 0.3}}, wait=True)
    checkpoints.close()
    assert saved_steps(tmp_path / "checkpoints") == sorted({int(best), max(rows), 9})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({1: (0.5, 0.2), 2: None}, r"every evaluated checkpoint breaks a guard \(step 1: old/loss 0.5, limit 0.3,"),
        ({1: (float("nan"), 0.2)}, "every evaluated checkpoint breaks a guard .step 1: old/loss nan"),
        ({1: None, 2: None}, "no checkpoint was evaluated, and it is unknown if its guards hold"),
        ({1: (0.2, float("nan")), 2: (0.5, 0.1)}, "no evaluated checkpoint is within its guards and has a finite new/"),
    ],
)
def test_a_run_without_a_best_says_why_and_how_to_take_the_last(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as error:
        load_params(guarded(tmp_path, rows))
    last = tmp_path / "checkpoints" / str(max(rows))
    assert "\n" not in str(error.value) and "--which last (start.which last for init_from)" in str(error.value)
    assert str(error.value).endswith(str(last)) and find_checkpoint(last) == find_checkpoint(tmp_path, "last") == last


def test_a_metric_that_is_never_finite_has_no_best_and_one_that_was_never_measured_has_the_last(tmp_path, caplog):
    config = CheckpointConfig(metric="dev/wer")
    save(tmp_path / "nan", [1, 2], {1: float("nan"), 2: float("inf")}, config).close()
    with pytest.raises(UserError, match=r"no evaluated checkpoint has a finite dev/wer \(step 2: dev/wer inf; step 1:"):
        find_checkpoint(tmp_path / "nan")
    save(tmp_path / "early", [1, 2], {}, config).close()
    assert find_checkpoint(tmp_path / "early").name == "2" and "no checkpoint was evaluated; step 2" in caplog.text
    caplog.clear()
    save(tmp_path / "changed", [1], {1: 0.5}, config).close()
    save(tmp_path / "changed", [2], {2: 0.9}, CheckpointConfig(metric="dev/cer")).close()
    assert find_checkpoint(tmp_path / "changed").name == "2"  # no value of dev/cer to compare with
    assert "no checkpoint was evaluated by dev/cer; step 2" in caplog.text


def test_records_of_earlier_versions_are_ranked_by_what_they_say(tmp_path):
    def save_old(run, rows):
        checkpoints = Checkpoints(run, CheckpointConfig(metric="new/loss", keep_last=9), ASSETS)
        for step, (metrics, within) in rows.items():
            data = {"data": 0, "metrics": metrics, "within_guards": within, "guards": {"before": {"old/loss": 0.2}}}
            checkpoints.save(step, make_state(step), data, wait=True)
        checkpoints.close()
        return run

    rows = {1: ({"new/loss": 0.5}, True), 2: ({"new/loss": 0.1}, False), 3: (None, True)}
    assert find_checkpoint(save_old(tmp_path / "some", rows)).name == "1"
    with pytest.raises(UserError, match="every evaluated checkpoint breaks a guard .step 2: new/loss 0.1.*which last"):
        find_checkpoint(save_old(tmp_path / "none", {2: rows[2], 3: rows[3]}))


def test_the_metrics_of_a_saved_checkpoint_can_be_added(run):
    checkpoints = Checkpoints(run, CheckpointConfig(metric="dev/wer"), ASSETS)
    checkpoints.update(10, {"data": 10, "metrics": {"dev/wer": 0.5}})
    checkpoints.close()
    assert find_damage(run / "checkpoints" / "10") is None
    assert find_checkpoint(run, 10) and not list((run / "checkpoints").glob(".*"))
    checkpoints = Checkpoints(run, CheckpointConfig(metric="dev/wer"), ASSETS)
    checkpoints.update(20, {"data": 20, "metrics": {"dev/wer": 0.6}})
    checkpoints.close()
    assert find_checkpoint(run).name == "10"


def test_another_model_is_refused(run):
    checkpoints = Checkpoints(run, CheckpointConfig(), ASSETS)
    with pytest.raises(UserError, match=r"found params 'encoder/bias' with shape \(6,\), expected \(7,\)"):
        checkpoints.restore(like(make_state(0, width=7)))
    other = make_state(0)
    other = other._replace(params={**other.params, "new": jnp.ones(2)})
    with pytest.raises(UserError, match=r"found no params 'new', expected it with shape \(2,\)"):
        checkpoints.restore(like(other))
    less = make_state(0)
    less = less._replace(params={"head": less.params["head"]})
    with pytest.raises(UserError, match="found params 'encoder/bias', which this model or optimizer does not have"):
        checkpoints.restore(like(less))
    momentum = make_state(0)._replace(opt_state=OptState({"nu": jnp.ones(6)}, jnp.int32(1), jnp.int32(0)))
    with pytest.raises(UserError, match="found no opt_state 'inner/nu'"):
        checkpoints.restore(like(momentum))
    checkpoints.close()


def test_a_checkpoint_does_not_need_its_mesh(tmp_path):
    from speech_jax.training.config import MeshConfig
    from speech_jax.training.sharding import make_mesh

    def placed(state, devices, spec):
        mesh = make_mesh(MeshConfig(fsdp=devices), jax.devices()[:devices])
        sharding = jax.sharding.NamedSharding(mesh, spec)
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(lambda x: jax.device_put(x, sharding if x.shape == (4, 8) else whole), state)

    split = jax.sharding.PartitionSpec("fsdp")
    state = placed(make_state(3, width=8), 4, split)
    assert not state.params["encoder"]["kernel"].is_fully_replicated
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ASSETS)
    checkpoints.save(3, state, {"data": 0}, wait=True)
    for devices in (1, 2):
        found, _ = checkpoints.restore(like(placed(make_state(0, width=8), devices, split)))
        kernel = found.params["encoder"]["kernel"]
        assert kernel.sharding.num_devices == devices
        assert toy.digest(jax.device_get(found)) == toy.digest(make_state(3, width=8))
    checkpoints.close()
    assert toy.digest(load_params(tmp_path, ema=False)[0]) == toy.digest(make_state(3, width=8).params)


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    """The save runs in the background while the donated state is overwritten."""
    update = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ASSETS)
    state = update(make_state(1))._replace(step=jnp.int32(1))
    for step in (1, 2, 3):
        before = toy.digest(jax.tree.map(lambda x: np.array(x, copy=True), state))
        checkpoints.save(step, state, {"data": 0})
        for _ in range(20):
            state = update(state)._replace(step=jnp.int32(step + 1))
        found, _ = checkpoints.restore(like(state))
        assert toy.digest(found) == before
    checkpoints.close()


def test_a_kill_before_the_first_checksums_costs_the_first_save_only(tmp_path, caplog):
    save(tmp_path, [5]).close()
    (tmp_path / "checkpoints" / "5" / NAME).unlink()
    with pytest.raises(UserError, match="found no checkpoint, .*; the save of step 5 has not finished"):
        load_params(tmp_path)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ASSETS)
    assert "5: found no checksum file" in caplog.text
    assert checkpoints.restore(like(make_state(0))) is None
    assert checkpoints.latest_step() is None
    checkpoints.save(5, make_state(5), {"data": 1}, wait=True)
    checkpoints.close()
    assert toy.digest(load_params(tmp_path, ema=False)[0]) == toy.digest(make_state(5).params)


def test_a_kill_while_metrics_are_added_costs_nothing(tmp_path, monkeypatch):
    """Between the renames of the record and of its checksums; of the only checkpoint, no start would be possible."""

    def replace(old, new):
        if str(new).endswith(NAME):
            raise KeyboardInterrupt
        os.rename(old, new)

    checkpoints = save(tmp_path, [5])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        checkpoints.update(5, {"data": 1, "metrics": {"wer": 0.5}})
    checkpoints.close()
    assert find_checkpoint(tmp_path).name == "5"
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ASSETS)
    assert checkpoints.restore(like(make_state(0)))[1]["metrics"] == {"wer": 0.5}
    checkpoints.update(5, {"data": 2})
    checkpoints.close()
    assert find_damage(tmp_path / "checkpoints" / "5") is None


def test_a_checkpoint_of_another_step_is_noticed(run, caplog):
    shutil.copytree(run / "checkpoints" / "10", run / "checkpoints" / "30")
    assert find_checkpoint(run, "last").name == "20"
    assert "30: found the checkpoint of step 10, expected that of step 30" in caplog.text
    with pytest.raises(UserError, match="found the checkpoint of step 10"):
        load_params(run, 30)
    checkpoints = Checkpoints(run, CheckpointConfig(), ASSETS)
    state, _ = checkpoints.restore(like(make_state(0)))
    checkpoints.close()
    assert int(state.step) == 20


def test_a_reader_beside_a_writer_finds_a_whole_checkpoint(tmp_path, caplog):
    """The writer deletes what the reader has just found, again and again."""
    save(tmp_path, [1]).close()
    ended = threading.Event()

    def write():
        step = 1
        while not ended.is_set():
            step += 1
            shutil.copytree(tmp_path / "checkpoints" / str(step - 1), tmp_path / f"{step}.tmp")
            (tmp_path / f"{step}.tmp" / NAME).unlink()
            (tmp_path / f"{step}.tmp").rename(tmp_path / "checkpoints" / str(step))
            record = tmp_path / "checkpoints" / str(step) / "data" / "metadata"
            record.write_text(json.dumps(json.loads(record.read_text()) | {"step": step}))
            write_checksums(tmp_path / "checkpoints" / str(step))
            shutil.rmtree(tmp_path / "checkpoints" / str(step - 1))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            assert open_checkpoint(tmp_path).assets == ASSETS
    finally:
        ended.set()
        writer.join()
    assert not caplog.records


def test_assets_have_to_be_json(tmp_path):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path, CheckpointConfig(), {"config": object()})


SAVER = """
import resource, sys
from pathlib import Path
from tests.training.test_checkpoint import ASSETS, CheckpointConfig, Checkpoints, make_state
from speech_jax.core.errors import UserError
if sys.argv[4] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
checkpoints = Checkpoints(Path(sys.argv[1]), CheckpointConfig(), ASSETS)
start = (checkpoints.latest_step() or 0) + 1
try:
    for step in range(start, start + int(sys.argv[2])):
        checkpoints.save(step, make_state(step, width=int(sys.argv[3])), {"data": step}, wait=True)
        print(step, flush=True)
except UserError as error:
    print("UserError", error, flush=True)
    sys.exit(2)
"""


def saver(folder, steps, width, limit=0):
    command = [sys.executable, "-c", SAVER, *map(str, (folder, steps, width, limit))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_of_a_save_is_harmless(tmp_path):
    newest, rng = 0, np.random.default_rng(1)
    for _ in range(3):
        process = saver(tmp_path, 100_000, 3000)
        for line in process.stdout:  # killed at some moment after its second save
            if int(line) >= newest + 2:
                break
        time.sleep(float(rng.uniform(0, 0.1)))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.stdout.read().split()]
        process.wait()
        checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ASSETS)
        state, data = checkpoints.restore(like(make_state(0, width=3000)))
        checkpoints.close()
        assert int(state.step) >= max([newest + 2, *said])  # never back behind what was reported as saved
        assert toy.digest(state) == toy.digest(make_state(int(state.step), width=3000))
        assert not list((tmp_path / "checkpoints").glob("*tmp*"))
        newest = int(state.step)


def test_a_full_disk_is_one_clear_line_and_costs_no_checkpoint(tmp_path):
    """The system refuses to write files beyond a size, as it does when the disk is full."""
    assert saver(tmp_path, 2, 500).wait() == 0

    process = saver(tmp_path, 1, 500_000, limit=40_000)
    out, err = process.communicate()
    assert process.returncode == 2, out + err
    assert out.startswith("UserError") and out.count("\n") == 1
    assert "cannot save step 3" in out and "the last good checkpoint is step 2" in out
    assert saved_steps(tmp_path / "checkpoints") == [1, 2]
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    assert toy.digest(load_params(tmp_path, "last", ema=False)[0]) == toy.digest(make_state(2, width=500).params)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert saver(disk, 2, 500).wait() == 0
        process = saver(disk, 1, 300_000)
        out, err = process.communicate()
        assert process.returncode == 2, out + err
        assert "cannot save step 3 (the disk is full: found 2 MB free, expected 14 MB)" in out, out
        assert out.strip().endswith("the last good checkpoint is step 2") and "Traceback" not in err
        assert toy.digest(load_params(disk, "last", ema=False)[0]) == toy.digest(make_state(2, width=500).params)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_files_are_what_the_page_says(run):
    """state, data and assets can be read without our classes."""
    step = run / "checkpoints" / "20"
    assert json.loads((step / "data" / "metadata").read_text())["data"] == {"pre": 20, "task": 40}
    assert json.loads((step / NAME).read_text())["version"] == 1
    assert "encoder/kernel" in named_leaves(load_params(step)[0])
