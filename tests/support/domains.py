"""Two toy domains of tones (one tone a letter), a tiny Conformer-CTC trained on the first, and fine-tunings of it.

`start_model` trains the start once per session; `finetune` returns the config of a run on the second domain.
"""

import contextlib
import dataclasses
import io
import json
import logging
from pathlib import Path

import numpy as np
import soundfile

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.core.rules import named_leaves
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.runs.train import train
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig

replace = dataclasses.replace
PITCH = {"a": 300, "b": 500, "c": 800, "d": 1200, "e": 1800, " ": 0}


def record(folder: Path, domain: str, count: int, seed: int) -> list[dict]:
    """Write `count` recordings of random words, and return their manifest rows."""
    rng, rows = np.random.default_rng(seed), []
    shift = 1.0 if domain == "A" else 1.3
    for number in range(count):
        words = ("".join(rng.choice(list("abcde"), rng.integers(1, 5))) for _ in range(rng.integers(1, 4)))
        text = " ".join(words)
        wave = np.concatenate([0.3 * np.sin(2 * np.pi * PITCH[c] * shift * np.arange(2400) / 16000) for c in text])
        wave = (wave + 0.01 * rng.standard_normal(len(wave))).astype(np.float32)
        name = f"{domain}{seed}-{number}"
        soundfile.write(folder / f"{name}.wav", wave, 16000)
        rows.append({"id": name, "audio": f"{name}.wav", "text": text, "seconds": len(wave) / 16000})
    return rows


def write_manifest(folder: Path, name: str, rows: list[dict]) -> None:
    """Write folder/NAME.jsonl."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_corpus(folder: Path) -> Path:
    """Write A-train, A-dev, B-train and B-dev, 24 and 8 recordings each."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in "AB":
        for split, count, seed in (("train", 24, 0), ("dev", 8, 1)):
            write_manifest(folder, f"{domain}-{split}", record(folder, domain, count, seed))
    return folder


def part(corpus: Path, name: str, rows: int = 8) -> DataConfig:
    """Return the config of one set, in batches of `rows`."""
    plan = PlanConfig(num_buckets=1, rows=rows, row_multiple=1)
    return DataConfig(sources=(SourceConfig(path=str(corpus / f"{name}.jsonl")),), plan=plan)


def base(corpus: Path, out: Path, norm: str = "layer") -> TrainConfig:
    """Return the config of the start model: 40 steps on A. No dropout, no augmentation."""
    model = ConformerConfig(
        width=32, layers=2, heads=2, kernel_size=5, conv_norm=norm, subsampling="dw_striding", subsampling_factor=4,
        subsampling_channels=16, dropout=0.0, dropout_pre_encoder=0.0, dropout_att=0.0,
    )  # fmt: skip
    return TrainConfig(
        out_dir=str(out),
        data=part(corpus, "A-train"),
        task=CTCTaskConfig(
            model=model,
            audio=AudioConfig(dither=0.0),
            augment=AugmentConfig(freq_masks=0, time_masks=0),
            tokenizer=TokenizerConfig(kind="char"),
        ),
        evaluate=(EvalConfig("A", part(corpus, "A-dev")), EvalConfig("B", part(corpus, "B-dev"))),
        optimizer=OptimizerConfig(schedule="constant", peak_lr=3e-3, warmup_steps=5),
        trainer=TrainerConfig(
            steps=40, eval_every=0, log_every=1, tensorboard=False, checkpoint=CheckpointConfig(every=40)
        ),
    )


def finetune(start: TrainConfig, out: Path, *, steps: int = 4, **changes) -> TrainConfig:
    """Return the config of a plain fine-tuning of `start` on B; `changes` are fields of TrainConfig."""
    corpus = Path(start.data.sources[0].path).parent
    config = replace(
        start,
        out_dir=str(out),
        init_from=start.out_dir,
        task=None,
        data=part(corpus, "B-train"),
        optimizer=replace(start.optimizer, peak_lr=1e-3, warmup_steps=1),
        trainer=replace(start.trainer, steps=steps, checkpoint=CheckpointConfig(every=steps)),
    )
    return replace(config, **changes)


def run(config: TrainConfig):
    """Train; return (result or None after a UserError, everything that was logged or printed)."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("speech_jax")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
            try:
                return train(config), text.getvalue()
            except UserError as error:
                text.write(f"error: {error}\n")
                return None, text.getvalue()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def logged(config: TrainConfig, kind: str = "train") -> list[dict]:
    """Return the lines of one kind of the run's metrics.jsonl."""
    lines = map(json.loads, (Path(config.out_dir) / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def distance(a, b, only: str = "") -> float:
    """Return the largest difference of two trees' leaves whose names contain `only`."""
    a, b = named_leaves(a), named_leaves(b)
    pairs = ((np.asarray(a[n], np.float64), np.asarray(b[n], np.float64)) for n in a if only in n)
    return max(float(np.abs(x - y).max()) for x, y in pairs)
