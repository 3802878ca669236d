"""A voice from an hour of acted speech: the hero of Flight of the Amazon Queen, a Tacotron 2 for two CPU cores.

What makes an hour on two cores enough, if anything does: phonemes, an attention that can only go forward, the guided
loss, three frames a step, and 62.5 frames a second. The table of speakers has one name, so that more can be
added in fine-tuning.
"""

import dataclasses

from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import AttentionConfig, Tacotron2Config
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.training.config import CheckpointConfig, TrainerConfig
from speech_jax.training.presets import tacotron2_paper

DATA = "data/real_voice"  # experiments/real_voice/prepare.py
AUDIO = dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, fmax=7_600.0)  # hop 256: 62.5 frames a second


def recordings(name: str, **plan) -> DataConfig:
    """A part of what experiments/real_voice/prepare.py writes."""
    return DataConfig(sources=(SourceConfig(path=f"{DATA}/{name}.jsonl"),), plan=PlanConfig(**plan))


config = TrainConfig(
    out_dir="runs/real_voice/joe",
    data=recordings("joe/train", num_buckets=3, seconds_per_batch=36, row_multiple=4, min_seconds=0.3, max_seconds=6),
    task=Tacotron2TaskConfig(
        model=Tacotron2Config(
            embedding=256,
            encoder_width=256,
            prenet=128,
            attention_rnn=320,
            decoder_rnn=320,
            attention=AttentionConfig(kind="forward", width=128),
            postnet=256,
            reduction=3,
        ),
        audio=AUDIO,
        frontend=FrontEndConfig(units="arpabet"),
        frames="l1",
        guided=1.0,
        speakers="data",
        speak=8,
    ),
    evaluate=(EvalConfig("joe", recordings("joe/dev", num_buckets=1)),),
    optimizer=dataclasses.replace(
        tacotron2_paper(hold_steps=3_000, decay_steps=0), warmup_steps=100, clip_norm=1.0
    ),  # the decay takes what is left of the run
    trainer=TrainerConfig(
        steps=4_500, eval_every=500, log_every=50, checkpoint=CheckpointConfig(every=500, metric="joe/loss")
    ),
)
