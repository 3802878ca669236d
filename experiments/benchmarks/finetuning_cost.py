"""Cost of a fine-tuning step: the second term of the loss, a shared forward pass, low-rank adapters.

    python -m experiments.benchmarks.finetuning_cost

The trainer's own programs, Conformer-CTC small, batches of 8 × 10 s of waveform with 60 letters each. Every round runs
each step once, one after the other, so that whatever else the machine does hits all; ratios are taken within a round.
Memory is what XLA plans for the greatest program (arguments, results, temporaries), and the size of the run's state.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from speech_jax.core.errors import run_front_door
from speech_jax.core.types import Bucket, Task, TrainState
from speech_jax.finetuning.adapters import adapter_groups, with_adapters
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.models.conformer import small
from speech_jax.objectives.mix import mix
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import ctc_task
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.pretrain_task import pretrain_task, shared_objective, with_pretext
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import train_tokenizer
from speech_jax.training.compiling import Programs, compile_programs
from speech_jax.training.config import MeshConfig, OptimizerConfig, StepConfig
from speech_jax.training.frozen import moving_state
from speech_jax.training.optimizer import learning_rate, make_optimizer, trainable
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import make_state, num_params

BUCKET = Bucket(rows=8, samples=160_000, labels=60)


def batch(seed: int) -> dict[str, np.ndarray]:
    """Noise with letters drawn at random: what the numbers are changes no time."""
    rng = np.random.default_rng(seed)
    rows, samples, labels = BUCKET
    return {
        "audio": 0.1 * rng.standard_normal((rows, samples), np.float32),
        "audio_lengths": np.full(rows, samples, np.int32),
        "labels": rng.integers(1, 28, (rows, labels), np.int32),
        "label_lengths": np.full(rows, labels, np.int32),
        "index": np.arange(rows, dtype=np.int32),
    }


class Step:
    """A task with the trainer's programs for it, and a state that they move."""

    def __init__(self, name: str, task: Task, optimizer: OptimizerConfig, both: bool = False):
        self.name = name
        bucket = {"pre": BUCKET, "task": BUCKET} if both else BUCKET
        self.batch = {"pre": batch(0), "task": batch(1)} if both else batch(1)
        mesh, count = make_mesh(MeshConfig(data=1), jax.devices()[:1]), 1000
        make, struct, shardings = make_state(
            task.model,
            task.batch_spec(BUCKET),
            lambda params: make_optimizer(optimizer, params, count),
            mesh,
            MeshConfig(data=1),
            seed=0,
            ema=False,
        )
        self.programs: Programs = compile_programs(
            task,
            state=struct,
            shardings=shardings,
            optimizer=make_optimizer(optimizer, struct.params, count),
            trainable=trainable(optimizer, struct.params),
            config=StepConfig(),
            buckets=[bucket],
            mesh=mesh,
            keys=[jax.random.key(0)],
            rate=learning_rate(optimizer, count),
            moving_state=moving_state(optimizer, struct.params, struct.model_state),
            say=lambda line: print(f"{name}: {line}", flush=True),
            check_stop=lambda: None,
        )
        self.state: TrainState = make()

    def seconds(self) -> float:
        began = time.perf_counter()
        self.state, *_ = self.programs.run(self.state, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began

    def gradient_seconds(self) -> float:
        """The gradient alone, of a task without a mix."""
        (program,) = self.programs.gradients.values()
        began = time.perf_counter()
        jax.block_until_ready(
            program(self.state.params, self.state.model_state, self.state.step, self.batch, *self.programs.keys)
        )
        return time.perf_counter() - began

    def megabytes(self) -> tuple[float, float]:
        """(the greatest program's, the state's)"""
        greatest = 0
        for program in (*self.programs.gradients.values(), self.programs.update):
            plan = program.memory_analysis()
            used = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
            greatest = max(greatest, used + plan.temp_size_in_bytes)
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        return greatest / 1e6, state / 1e6


class Ratio(NamedTuple):
    """A comparison within each round."""

    what: str
    above: list[float]
    below: list[float]

    def line(self) -> str:
        ratios = sorted(a / b for a, b in zip(self.above, self.below, strict=True))
        return f"{self.what}: {statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)

    model = small()
    ctc, pretext = CTCTaskConfig(model=model), PretrainTaskConfig(model=model)
    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz '"], TokenizerConfig())
    task, unsupervised = ctc_task(ctc, tokenizer), pretrain_task(pretext)
    both = with_pretext(task, unsupervised)
    lora, optimizer = AdapterConfig("lora"), OptimizerConfig(warmup_steps=10)
    adapted = dataclasses.replace(optimizer, groups=adapter_groups(lora))
    mixed = task._replace(objective=mix(task.objective, task.objective, 0.5))
    apart = both._replace(objective=mix(unsupervised.objective, task.objective, 0.5))
    together = both._replace(objective=shared_objective(ctc, pretext, tokenizer, 0.5))
    steps = [
        Step("plain", task, optimizer),
        Step("mixed", mixed, optimizer, both=True),
        Step("lora", with_adapters(task, lora), adapted),
        Step("apart", apart, optimizer, both=True),
        Step("together", together, optimizer),
    ]
    for step in steps:
        step.seconds()  # warm-up
    times: dict[str, list[float]] = {step.name: [] for step in steps} | {"gradient": []}
    for number in range(args.rounds):
        for step in steps:
            times[step.name].append(step.seconds())
        times["gradient"].append(steps[0].gradient_seconds())
        print(f"round {number}: " + "  ".join(f"{name} {t[-1]:.2f} s" for name, t in times.items()), flush=True)
    expected = [plain + gradient for plain, gradient in zip(times["plain"], times["gradient"], strict=True)]
    print()
    print(
        Ratio(
            "L_pre + L_task, against a plain step and one more forward and backward pass", times["mixed"], expected
        ).line()
    )
    print(
        Ratio(
            "BEST-RQ as L_pre on the same audio, one forward pass against two", times["together"], times["apart"]
        ).line()
    )
    print(Ratio("LoRA of rank 8 on q, k, v, against all parameters", times["lora"], times["plain"]).line())
    for step in (steps[0], steps[2]):
        program, state = step.megabytes()
        moved = num_params(step.state.params["adapter"] if step.name == "lora" else step.state.params)
        print(f"{step.name}: {moved:,} parameters trained; program {program:.0f} MB, state {state:.0f} MB")


if __name__ == "__main__":
    run_front_door(main)
