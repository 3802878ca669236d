"""A small recognizer of your own recordings, for two CPU cores: an old set, and a new one to learn without losing it.

Each set is a manifest of recordings with their texts, as `prepare` writes it from a folder with a CSV file of texts:

    python -m speech_jax.prepare folder --source my_old_recordings --dev 0.1 --out data/old
    python -m speech_jax.prepare folder --source my_new_recordings --dev 0.1 --out data/new
    python -m speech_jax.train --config my_data

This trains from scratch on both sets. Flags make it something else:

    --init-from RUN --task None                         fine-tune the recognizer in the folder RUN
    --init-from RUN --task None --alpha.start 0         the same without old recordings: shows what is forgotten
    --pre None --alpha.start 0 --evaluate.0 None        there is no old set
    --data.sources.1.path M.jsonl                       one more manifest of new recordings
    --trainer.steps 4000                                a longer training
"""

import dataclasses

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, JoinConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig


def recordings(manifest: str, max_seconds: float = 30.0, join: float = 0.0) -> DataConfig:
    """The recordings of a manifest, in batches of about a minute of short or of long ones.

    Training leaves out those longer than `max_seconds`. With `join`, so many joined ones per recording are added, with
    pauses between them: they make the recognizer of use for recordings that are longer than those of the training set.
    """
    plan = PlanConfig(num_buckets=2, seconds_per_batch=64, row_multiple=4, max_seconds=max_seconds)
    if join:
        plan = dataclasses.replace(plan, join=JoinConfig(share=join, seconds=12.0))
    return DataConfig(sources=(SourceConfig(path=manifest),), plan=plan)


config = TrainConfig(
    out_dir="runs/my_data",
    init_from="",  # a checkpoint folder to start from; empty starts from scratch
    data=recordings("data/new/train.jsonl", max_seconds=20, join=0.05),
    pre=recordings("data/old/train.jsonl", max_seconds=20),
    alpha=AlphaConfig(start=0.3),  # the loss is 0.3 of the old recordings' and 0.7 of the new ones'
    task=CTCTaskConfig(
        model=ConformerConfig(
            width=96,
            layers=4,
            heads=4,
            kernel_size=9,
            conv_norm="layer",  # batch statistics follow the new recordings alone, and would misjudge the old ones
            subsampling="dw_striding",
            subsampling_factor=4,
            subsampling_channels=32,
            dropout=0.05,
            dropout_pre_encoder=0.05,
            dropout_att=0.05,
        ),
        augment=AugmentConfig(freq_masks=2, freq_width=15, time_masks=2),
        # Characters work with a handful of texts. For other languages than English, change `language`, and leave out
        # `alphabet`: the characters are then those of the training texts. With hours of speech, kind="bpe" and
        # vocab_size=256 give shorter label sequences.
        tokenizer=TokenizerConfig(kind="char", language="en", alphabet=" 'abcdefghijklmnopqrstuvwxyz"),
    ),
    evaluate=(  # the word error rates are called old/wer and new/wer
        EvalConfig("old", recordings("data/old/dev.jsonl")),
        EvalConfig("new", recordings("data/new/dev.jsonl")),
    ),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=3e-3, warmup_steps=100),
    trainer=TrainerConfig(
        steps=800,  # each takes a batch of both sets
        eval_every=200,
        log_every=20,
        checkpoint=CheckpointConfig(every=200, metric="new/wer"),  # the best checkpoint is the one with the lowest
    ),
)
