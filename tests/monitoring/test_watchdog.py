"""A run that is watched: metrics endpoint, trace, watchdog, other trackers, the dashboard and its alerts."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import jax
import pytest
import yaml

from speech_jax.core.errors import UserError
from speech_jax.monitoring import prometheus as endpoint_module
from speech_jax.monitoring.config import WatchConfig
from speech_jax.monitoring.prometheus import METRICS, Endpoint
from speech_jax.monitoring.sinks import MLflowSink, WandbSink
from speech_jax.monitoring.watchdog import Profile, Watchdog
from speech_jax.training import loop
from tests.support import toy

MONITORING = Path(__file__).parents[2] / "tpu_scripts" / "monitoring"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus brings it"
)


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def samples(page):
    """{name with labels: value} of a page."""
    lines = [line for line in page.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0].removeprefix("speech_jax_"): float(line.rpartition(" ")[2]) for line in lines}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(name="watched", scope="module")
def make_watched(tmp_path_factory):
    """A run of 12 steps whose page is fetched before step 11, with a trace of steps 3 and 4."""
    folder, port, pages = tmp_path_factory.mktemp("watched"), free_port(), []

    def look(index, batch):
        if index == 10:
            pages.append(fetch(port))
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(port, "/")
        return batch

    data = toy.PairedBatches(toy.feed(seed=1), toy.feed(seed=2, wrap=look))
    toy.train(
        folder,
        alpha=0.3,
        data=data,
        eval_sets={"dev": lambda: [toy.make_batch(0, seed=9)]},
        eval_every=5,
        watch=WatchConfig(metrics_port=port, profile="2:4"),
    )
    with pytest.raises(OSError):
        fetch(port)  # nothing is left behind
    return folder, pages[0]


def test_the_page_says_what_the_log_says(watched):
    folder, (kind, page) = watched
    assert kind.startswith("text/plain; version=0.0.4")
    found = samples(page)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "train" and line["step"] <= found["step"]][-1]
    metrics = last["metrics"]
    for ours, theirs in {
        'loss{term="all"}': "loss",
        'loss{term="pre"}': "pre/loss",
        'loss{term="task"}': "task/loss",
        "alpha": "alpha",
        "learning_rate": "learning_rate",
        'gradient_norm{term="all"}': "grad_norm",
        'gradient_norm{term="pre"}': "grad_norm/pre",
        'gradient_norm{term="task"}': "grad_norm/task",
        'gradient_cosine{pair="pre_task"}': "grad_cos/pre_task",
        'train_metric{name="task/abs_error"}': "task/abs_error",
        "skipped_steps_total": "skipped",
    }.items():
        assert found[ours] == pytest.approx(metrics[theirs]), ours
    assert found["padding_ratio"] == pytest.approx(last["rates"]["padding"])
    assert found['units_per_second{unit="points"}'] == pytest.approx(last["rates"]["points_per_second"])
    evaluated = [line for line in lines if line["kind"] == "eval"][1]
    assert found['evaluation{metric="mse",set="dev"}'] == pytest.approx(evaluated["metrics"]["dev/mse"])
    assert found["evaluation_step"] == 10 and found["step"] == 10 and found["steps_planned"] == 12
    assert abs(time.time() - found["last_step_timestamp_seconds"]) < 600
    assert found["compile_events_total"] >= 3 and found["compile_seconds_total"] > 0
    assert found["stalled_steps_total"] == 0


@needs_promtool
def test_prometheus_reads_the_page(watched):
    result = subprocess.run(["promtool", "check", "metrics"], input=watched[1][1], text=True, capture_output=True)
    assert result.returncode == 0, result.stderr + result.stdout


def test_the_trace_has_the_steps_that_were_asked_for(watched):
    files = list((watched[0] / "profile").rglob("*.xplane.pb"))
    assert len(files) == 1
    data = jax.profiler.ProfileData.from_file(str(files[0]))
    steps = [
        dict(event.stats).get("step_num")
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == [3, 4]


def test_a_dashboard_and_rules_of_metrics_that_there_are(monkeypatch):
    """Every name that they use is served, and every name that is served is on the dashboard."""
    memory = {"bytes_in_use": 1, "peak_bytes_in_use": 2, "bytes_limit": 3}
    device = types.SimpleNamespace(id=0, device_kind='a "TPU"', memory_stats=lambda: memory)
    monkeypatch.setattr(endpoint_module.jax, "local_devices", lambda: [device])
    endpoint = Endpoint("127.0.0.1", 0, 10)
    try:
        endpoint.beat(3)
        names = ("loss", "pre/loss", "alpha", "learning_rate", "grad_norm", "grad_cos/pre_task", "skipped", "other")
        rates = {
            "steps_per_second": 1.0, "waiting_for_data": 0.1, "padding": 0.1, "utilization": 0.5,
            "model_flops_per_second": 1e12, "audio_seconds_per_second": 100.0,
        }  # fmt: skip
        endpoint.write("train", 3, {"metrics": dict.fromkeys(names, 1.0) | {"loss": None}, "rates": rates})
        endpoint.write("eval", 3, {"metrics": {"dev/wer": 0.5}})
        endpoint.stalled()
        _, page = fetch(endpoint.port)
    finally:
        endpoint.close()
    found = samples(page)
    assert found['loss{term="all"}'] != found['loss{term="all"}']  # NaN arrives as such
    assert found['info{device_kind="a \\"TPU\\"",version="0.1.0"}'] == 1
    assert found['device_memory_bytes{device="0",kind="limit"}'] == 3
    served = {f"speech_jax_{name.partition('{')[0]}" for name in found}
    assert served == {f"speech_jax_{name}" for name in METRICS}

    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    shown = {name for text in expressions for name in re.findall(r"speech_jax_\w+", text)}
    assert shown == served
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"speech_jax_\w+", rule["expr"])}
    assert used and used <= served
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"),
                                     ("check", "config", "prometheus.yml")])  # fmt: skip
def test_the_alerts(command):
    result = subprocess.run(["promtool", *command], cwd=MONITORING, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"metrics_port: found 127.0.0.1:{port} taken"):
            Endpoint("127.0.0.1", port, 1)


@pytest.mark.parametrize("steps", ["10", "20:10", "5:5", "a:b", "-1:3"])
def test_a_trace_of_no_steps_is_refused(tmp_path, steps):
    with pytest.raises(UserError, match="profile: found .*, expected two steps such as 10:20"):
        Profile(steps, tmp_path)


def test_a_step_that_stalls_is_named_with_its_stack_and_goes_on(capfd):
    stalls = []
    watchdog = Watchdog(0.2, lambda: stalls.append(1))

    def deep_inside():
        time.sleep(1.0)

    with watchdog.step(6):
        pass
    with watchdog.step(7):
        deep_inside()
    with watchdog.step(8):
        pass
    watchdog.close()
    err = capfd.readouterr().err
    assert re.search(r"step 7 of process 0 is not done after \d+ s", err)
    assert "in deep_inside" in err and "step 7 is done after" in err
    assert err.count("is not done") == 1 == len(stalls)  # once a step, and no other step
    assert "step 6" not in err and "step 8" not in err


def test_a_phase_before_the_first_step_is_named_with_its_stack(capfd):
    def read_everything():
        time.sleep(0.8)

    watchdog = Watchdog(0.2, process=None)
    watchdog.begin("reading the recordings")
    read_everything()
    watchdog.begin("compiling")
    with watchdog.step(1):
        pass
    time.sleep(0.4)  # an evaluation
    watchdog.close()
    err = capfd.readouterr().err
    assert re.search(r"^reading the recordings is not done after \d+ s", err) and "in read_everything" in err
    assert "reading the recordings is done after 1 s" in err and err.count("is not done") == 1


def phase_of(page):
    (name,) = [name for name in samples(page) if name.startswith("phase_timestamp_seconds")]
    return re.fullmatch(r'phase_timestamp_seconds\{phase="(.*)"\}', name)[1]


def test_the_page_is_up_before_the_first_step_with_its_phase(tmp_path, capfd):
    port, phases = free_port(), []

    def look(*_):
        phases.append(phase_of(fetch(port)[1]))

    def objective(*arguments):
        look()  # traced while compiling
        return toy.make_objective()(*arguments)

    def evaluate(*arguments):
        look()
        return toy.evaluate(*arguments)

    task = toy.make_task(objective)._replace(evaluate=evaluate)
    data = toy.feed(seed=1, wrap=lambda index, batch: (look(), time.sleep(0.6 if index == 0 else 0), batch)[-1])
    toy.train(
        tmp_path, task=task, data=data, steps=4, eval_sets={"dev": lambda: [toy.make_batch(0, seed=9)]},
        eval_first=True, eval_every=0, watch=WatchConfig(metrics_port=port, stalled_after=0.25),
    )  # fmt: skip
    named = list(dict.fromkeys(phases))
    assert named == ["compiling", "the evaluation before the first step", "step 1", "step 2", "training"]
    assert "step 1 of process 0 is not done after" in capfd.readouterr().err


@pytest.mark.parametrize("broken", ["Tracker", "StepLog", "init_shapes", "make_sinks"])
def test_a_run_that_cannot_begin_leaves_nothing_open(tmp_path, monkeypatch, broken):
    def fail(*_, **__):
        raise UserError("no")

    monkeypatch.setattr(loop, broken, fail)
    port, threads = free_port(), {thread.name for thread in threading.enumerate()}
    with pytest.raises(UserError, match="^no$"):
        toy.train(tmp_path, watch=WatchConfig(metrics_port=port))
    with pytest.raises(OSError):
        fetch(port)
    assert not {"watchdog", "metrics"} & ({thread.name for thread in threading.enumerate()} - threads)


def test_no_watchdog_where_none_is_wanted(capfd):
    watchdog = Watchdog(0)
    with watchdog.step(1):
        time.sleep(0.05)
    watchdog.close()
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="stalled_after: found -1"):
        Watchdog(-1)


@pytest.mark.parametrize("sink, name", [(MLflowSink, "mlflow"), (WandbSink, "wandb")])
def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch, sink, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"trainer.watch.{name}: found no {name} installed, expected it: pip install"):
        sink("x", tmp_path)


@pytest.fixture
def unreachable_mlflow(monkeypatch):
    """A stand-in for MLflow whose store fails with the password in its words; returns the addresses it is given."""
    addresses = []

    class MlflowClient:
        def __init__(self, tracking_uri):
            addresses.append(tracking_uri)
            raise RuntimeError(f"cannot reach {tracking_uri}: password 'hunter@2' (hunter%402) refused")

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=MlflowClient))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return addresses


@pytest.mark.parametrize("by_environment", [False, True])
def test_no_error_of_a_store_has_its_password(tmp_path, monkeypatch, unreachable_mlflow, by_environment):
    address = "postgresql://me:hunter%402@127.0.0.1/db"
    if by_environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError) as raised:
        MLflowSink("env" if by_environment else address, tmp_path)
    masked = "postgresql://me:***@127.0.0.1/db"
    assert str(raised.value) == (
        f"trainer.watch.mlflow: found '{masked}' (cannot reach {masked}: password '***' (***) refused), "
        "expected a store to write to"
    )
    assert unreachable_mlflow == [address]


@pytest.mark.parametrize("uri, message", [
    ("env", "found 'env' without MLFLOW_TRACKING_URI, expected it to be set"),
    ("postgresql://me:***@127.0.0.1/db", r"found 'postgresql://me:\*\*\*@127.0.0.1/db' from a saved config"),
])  # fmt: skip
def test_an_address_that_nothing_can_be_reached_with(tmp_path, unreachable_mlflow, uri, message):
    with pytest.raises(UserError, match=f"trainer.watch.mlflow: {message}"):
        MLflowSink(uri, tmp_path)
    assert not unreachable_mlflow


def test_mlflow_gets_the_log_and_goes_on_with_its_run(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="an optional tracker: pip install mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for step in (1, 2):
        sink = MLflowSink(uri, tmp_path)
        sink.write("train", step, {"metrics": {"loss": 1.0 / step, "bad": None}, "rates": {"padding": 0.1}})
        sink.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("speech_jax").experiment_id])
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    assert set(runs[0].data.metrics) == {"train/loss", "rates/padding"}


def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb", reason="an optional tracker: pip install wandb")
    sink = WandbSink("speech", tmp_path)
    sink.write("train", 1, {"metrics": {"loss": 0.5}})
    sink.close()
    assert list(tmp_path.rglob("*.wandb"))
