"""A task of the tests' own, plugged in without a line changed in speech_jax/: which of a few words a frame is from."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.features import extract_features, num_features
from speech_jax.core.placement import run_sharded
from speech_jax.core.types import LossOut, Model, Report, Task, TaskConfig
from speech_jax.tasks.ctc_task import batch_spec
from speech_jax.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


@dataclasses.dataclass(frozen=True)
class FrameTaskConfig(TaskConfig):
    """A linear classifier of frames: the first letter of the transcript."""

    audio: AudioConfig = AudioConfig()
    """Waveform to features."""

    def make_reader(self, texts):
        return train_tokenizer(texts(), TokenizerConfig())

    def load_reader(self, value):
        return Tokenizer.from_json(value)

    def placeholder_reader(self, vocab_size):
        return Tokenizer("char", ("<blank>", *(chr(0x4E00 + n) for n in range(vocab_size - 1))))

    def build(self, reader, teacher=None):
        width, classes = num_features(self.audio), reader.vocab_size

        def init(key, batch):
            return {"head": {"kernel": 0.01 * jax.random.normal(key, (width, classes)), "bias": jnp.zeros(classes)}}, {}

        def apply(params, model_state, batch, *, key=None, train=False):
            features, mask = extract_features(batch["audio"], batch["audio_lengths"], self.audio)
            features = jnp.where(mask[..., None], features, 0.0)
            logits = features @ params["head"]["kernel"] + params["head"]["bias"][None, None]
            return {"logits": logits, "mask": mask & (batch["index"] >= 0)[:, None]}, model_state

        def objective(params, model_state, batch, key, step):
            outputs, model_state = apply(params, model_state, batch, key=key, train=True)
            scores = jax.nn.log_softmax(outputs["logits"])
            target = jnp.take_along_axis(scores, batch["labels"][:, :1, None], axis=2)[..., 0]
            count = jnp.sum(outputs["mask"]).astype(jnp.float32)
            total = -jnp.sum(jnp.where(outputs["mask"], target, 0.0))
            return LossOut(total / jnp.maximum(count, 1.0), count, model_state, {"frames": (total, count)})

        score = jax.jit(lambda params, state, batch: objective(params, state, batch, None, 0)[:2])

        def evaluate(params, model_state, batches):
            pairs = [run_sharded(score, params, model_state, batch=batch) for batch in batches]
            count = sum(weight for _, weight in pairs)
            return Report({"loss": float(sum(value * weight for value, weight in pairs) / count)})

        return Task(Model(init, apply), objective, batch_spec, evaluate)
