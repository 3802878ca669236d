"""docs/reference/formats.md names every field of the files: the metrics of every task, and the keys of the reports."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.trim import Cut, cut_report
from speech_jax.config import TrainConfig, make_assets
from speech_jax.core.types import TrainState
from speech_jax.data.config import DataConfig
from speech_jax.data.fixing import REASONS, Fixed
from speech_jax.data.fixing import report_json as fixing_json
from speech_jax.data.manifest import _OPTIONAL, _REQUIRED
from speech_jax.data.statistics import Statistics
from speech_jax.decoding.words import Transcript, Word
from speech_jax.evaluation.alignment import AlignmentScore
from speech_jax.evaluation.hypotheses import write_hypotheses
from speech_jax.evaluation.pareto import Point, summarize
from speech_jax.evaluation.report import Item, score_items
from speech_jax.evaluation.report import to_json as report_json
from speech_jax.monitoring.tracking import Meter
from speech_jax.sweep import to_json as sweep_json
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.frontend import FrontEndConfig, make_front_end
from speech_jax.training.config import StepConfig
from speech_jax.training.state import OptState
from speech_jax.transcribe import to_json as transcript_json
from tests.support.every_task import TASKS, TOKENIZER, initial
from tests.support.single_step import make_step

PAGE = Path(__file__).parents[2] / "docs/reference/formats.md"
NAMES = set(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))
PREFIX = re.compile(r"^(?:(?:pre|task)/)+")  # of the two sides of a mix
NAMED = re.compile(r"^(penalty|penalty_share)/(\w+)$")


def missing(names) -> list[str]:
    """Return the names that the page does not have; of penalty/NAME both parts count."""
    parts = set()
    for name in names:
        short = name if name in NAMES else PREFIX.sub("", name)
        penalty = NAMED.match(short)
        parts |= {f"{penalty[1]}/NAME", penalty[2]} if penalty else {short}
    return sorted(parts - NAMES)


@pytest.mark.parametrize("name", [name for name in TASKS if "batch norm" not in name])
def test_the_metrics_of_a_task_are_named(name):
    task, batch = TASKS[name]()
    batch = jax.tree.map(jnp.asarray, batch)
    params, model_state = jax.eval_shape(lambda: initial(task, batch))
    optimizer, zero = optax.sgd(1.0), jnp.int32(0)
    state = TrainState(zero, params, model_state, OptState(jax.eval_shape(optimizer.init, params), zero, zero), None)
    penalties = {"anchor": (jnp.ones(()), {}), "ewc": (jnp.ones(()), {})}
    step = make_step(
        task.objective, optimizer, jax.tree.map(lambda _: True, params), StepConfig(), seed=0,
        rate=optax.constant_schedule(1.0), penalties=lambda params, opt_state: penalties,
    )  # fmt: skip
    _, metrics, _ = jax.eval_shape(step, state, batch)
    assert "loss" in metrics and missing(metrics) == []
    assert missing(task.metrics) == []


def test_the_rates_are_named():
    meter = Meter()
    meter.count_step(1.0, 2.0, 3.0, 0.1)
    assert missing(meter.rates("audio_seconds", 1.0)) == []


def test_the_keys_of_the_reports_are_named():
    item = Item("a", "one two", "one too", set="test")
    evaluation = report_json(score_items([item, item], name="mine"))
    point = sweep_json(summarize([Point("alpha=0", "alpha", 0.1, 0.2)])[0])
    transcript = transcript_json("a.wav", Transcript("one", (Word("one", 0.0, 0.5, 0.9),), 1.0))
    keys = [
        *evaluation, *evaluation["all"], *evaluation["utterances"][0], *transcript, *transcript["words"][0], *point,
        *AlignmentScore._fields, "failure", "tries", "recording", *Statistics._fields, *_REQUIRED, *_OPTIONAL,
        *cut_report([Cut("a", 1.0, 0.1, 0.1)], TrimConfig()), *REASONS,
        *fixing_json(Path("a"), Fixed([], 0, 0, [], {}, {}, [])),
    ]  # fmt: skip
    text = PAGE.read_text(encoding="utf-8")
    shown = {key for key in keys if re.search(rf'[`"]{re.escape(key)}[`"]', text)}
    assert sorted(set(keys) - shown) == []
    assert [key for key in json.loads(write_hypotheses([item])) if f'"{key}"' not in text] == []


def test_the_assets_of_a_checkpoint_are_named():
    config = TrainConfig(out_dir="x", data=DataConfig(sources=()), task=CTCTaskConfig())
    assets = make_assets(config, TOKENIZER, ("amy",))
    voice = make_front_end(FrontEndConfig()).to_json()
    assert missing([*assets, *assets["tokenizer"], *voice]) == []
