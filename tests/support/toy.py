"""A small task that is no speech: per-point MLP with dropout and batch statistics, masked mean, regression.

Run as a program it trains in a folder, for tests that send it signals: python -m tests.support.toy FOLDER STEPS
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.core.types import Bucket, LossOut, Model, Report, Task
from speech_jax.objectives.mix import mix
from speech_jax.training.config import CheckpointConfig, MeshConfig, OptimizerConfig, StepConfig, TrainerConfig
from speech_jax.training.feed import PairedBatches, ResumableBatches
from speech_jax.training.loop import FitResult, fit

WIDTH = 16
BUCKETS = (Bucket(8, 12, 1), Bucket(8, 20, 1))


def batch_spec(bucket):
    rows, points = bucket.rows, bucket.samples
    return {
        "x": jax.ShapeDtypeStruct((rows, points), jnp.float32),
        "length": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "y": jax.ShapeDtypeStruct((rows,), jnp.float32),
        "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }


def init(key, batch):
    del batch
    k1, k2, k3 = jax.random.split(key, 3)
    params = {
        "encoder": {
            "in": {"kernel": jax.random.normal(k1, (1, WIDTH)), "bias": jnp.zeros((WIDTH,))},
            "hidden": {"kernel": 0.3 * jax.random.normal(k2, (WIDTH, WIDTH)), "bias": jnp.zeros((WIDTH,))},
        },
        "head": {"kernel": 0.3 * jax.random.normal(k3, (WIDTH, 1)), "bias": jnp.zeros((1,))},
    }
    return params, {"stats": {"mean": jnp.zeros((WIDTH,))}}


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def apply(params, model_state, batch, *, key, train):
    mask = jnp.arange(batch["x"].shape[1])[None, :] < batch["length"][:, None]
    h = jnp.tanh(dense(params["encoder"]["in"], batch["x"][..., None]))
    h = jnp.tanh(dense(params["encoder"]["hidden"], h))
    if train:
        h = h * jax.random.bernoulli(key, 0.9, h.shape) / 0.9
    weights = mask[..., None].astype(jnp.float32)
    pooled = (h * weights).sum(1) / jnp.maximum(weights.sum(1), 1.0)
    real = (batch["index"] >= 0).astype(jnp.float32)[:, None]
    mean = model_state["stats"]["mean"]
    if train:
        now = (pooled * real).sum(0) / jnp.maximum(real.sum(), 1.0)
        mean = 0.9 * mean + 0.1 * now
    out = dense(params["head"], pooled - jax.lax.stop_gradient(mean)[None, :])[:, 0]
    return out, {"stats": {"mean": mean}}


MODEL = Model(init, apply)


def make_objective(train=True, scale=1.0):
    def objective(params, model_state, batch, key, step):
        del step
        out, model_state = apply(params, model_state, batch, key=key, train=train)
        real = (batch["index"] >= 0).astype(jnp.float32)
        count = real.sum()
        error = jnp.where(real > 0, (out - scale * batch["y"]) ** 2, 0.0)
        loss = error.sum() / jnp.maximum(count, 1.0)
        return LossOut(loss, count, model_state, {"abs_error": (jnp.sqrt(error).sum(), count)})

    return objective


def evaluate(params, model_state, batches):
    total = count = 0.0
    for batch in batches:
        out, _ = apply(params, model_state, batch, key=None, train=False)
        real = batch["index"] >= 0
        total += float(np.sum((np.asarray(out) - batch["y"])[real] ** 2))
        count += int(real.sum())
    return Report(
        metrics={"mse": total / max(count, 1)},
        examples=[{"id": "a", "reference": "x | y", "hypothesis": "z"}],
        images={"picture": np.arange(12.0).reshape(3, 4)},
        audio={"tone": (np.sin(np.arange(800) / 5).astype(np.float32), 8000)},
    )


def make_task(objective=None):
    return Task(MODEL, objective or make_objective(), batch_spec, evaluate)


def make_batch(index, seed=0, buckets=BUCKETS, fillers=1):
    """Batch `index` of an endless stream: a pure function of its number."""
    rng = np.random.default_rng([seed, index])
    bucket = buckets[int(rng.integers(len(buckets)))]
    x = rng.normal(size=(bucket.rows, bucket.samples)).astype(np.float32)
    length = rng.integers(bucket.samples // 2, bucket.samples + 1, bucket.rows).astype(np.int32)
    rows = rng.integers(0, 1000, bucket.rows).astype(np.int32)
    if fillers:
        rows[-fillers:], length[-fillers:] = -1, 0
    mask = np.arange(bucket.samples)[None] < length[:, None]
    y = 1 + 2 * (np.sin(x) * mask).sum(1) / np.maximum(length, 1)
    return {"x": x, "length": length, "y": y.astype(np.float32), "index": rows}


def feed(seed=0, buckets=BUCKETS, wrap=None, seen=None):
    def stream(start):
        index = start
        while True:
            if seen is not None:
                seen.append(index)
            batch = make_batch(index, seed, buckets)
            yield wrap(index, batch) if wrap else batch
            index += 1

    return ResumableBatches(stream, buckets)


def units(batch):
    if "pre" in batch:
        return tuple(map(sum, zip(units(batch["pre"]), units(batch["task"]), strict=True)))
    return float(batch["length"].sum()), float(batch["x"].size)


def digest(tree) -> str:
    """One hash over the bytes of every leaf and its name."""
    h = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        h.update(jax.tree_util.keystr(path).encode())
        h.update(np.asarray(leaf).tobytes())
    return h.hexdigest()


def train(
    out_dir, *, steps=12, alpha=None, data=None, task=None, every=4, ema=0.9, mesh=None, eval_sets=None, **config
) -> FitResult:
    if data is None:
        data = feed() if alpha is None else PairedBatches(feed(seed=1), feed(seed=2))
    if task is None:
        task = make_task(None if alpha is None else mix(make_objective(scale=-1.0), make_objective(), alpha))
    known = ("init", "fisher", "pipeline", "assets", "seed", "optimizer", "epsilon")
    fit_options = {name: config.pop(name) for name in known if name in config}
    checkpoint = config.pop("checkpoint", None) or CheckpointConfig(every=every)
    step = config.pop("step", None) or StepConfig(ema=ema)
    return fit(
        task,
        data,
        config=TrainerConfig(steps=steps, checkpoint=checkpoint, step=step, **({"log_every": 2} | config)),
        optimizer=fit_options.pop("optimizer", OptimizerConfig(peak_lr=1e-2, warmup_steps=5, weight_decay=1e-2)),
        mesh=mesh or MeshConfig(),
        out_dir=out_dir,
        assets=fit_options.pop("assets", {"kind": "toy"}),
        eval_sets=eval_sets,
        units=units,
        unit_name="points",
        **fit_options,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds a batch takes to come")
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--progress", type=float, default=10.0, help="seconds between lines")
    parser.add_argument("--eval-every", type=int, default=0)
    parser.add_argument("--process", type=int, default=0, help="number of this process out of two; with --port")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    rows = slice(None)
    if options.port:  # two processes, each with its half of the rows
        jax.distributed.initialize(f"127.0.0.1:{options.port}", 2, options.process)
        rows = slice(4 * options.process, 4 * options.process + 4)

    def slow(index, batch):
        time.sleep(options.sleep)
        if index % 5 == 0:
            print(f"batch {index}", flush=True)
        return mine(index, batch)

    def mine(index, batch):
        return {name: value[rows] for name, value in batch.items()}

    seen: list[int] = []
    data = PairedBatches(feed(seed=1, wrap=slow, seen=seen), feed(seed=2, wrap=mine))
    result = train(
        options.folder,
        steps=options.steps,
        alpha=lambda step: 0.5 - 0.4 * step / 100,
        data=data,
        every=options.every,
        eval_every=options.eval_every,
        progress_seconds=options.progress,
        mesh=MeshConfig(data=1) if jax.device_count() == 1 else None,
    )
    state = jax.device_get(result.state)
    print(
        json.dumps({"step": int(state.step), "stopped": result.stopped, "hash": digest(state), "seen": seen}),
        flush=True,
    )


if __name__ == "__main__":
    main()
