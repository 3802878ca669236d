"""Pre-training on acted English (Amazon Queen) and synthetic voices: a small Conformer-CTC for two CPU cores."""

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, StepConfig, TrainerConfig

DATA = "data/real"


def manifest(*names: str) -> tuple[SourceConfig, ...]:
    return tuple(SourceConfig(path=f"{DATA}/{name}.jsonl") for name in names)


config = TrainConfig(
    out_dir="runs/real_speech/pretrain",
    data=DataConfig(
        sources=manifest("queen/train", "synth/train"),
        plan=PlanConfig(num_buckets=5, seconds_per_batch=64, row_multiple=4, max_seconds=12),
    ),
    task=CTCTaskConfig(
        model=ConformerConfig(
            width=128,
            layers=6,
            heads=4,
            kernel_size=15,
            conv_norm="layer",  # batch statistics follow the new domain alone, and would misjudge the old one
            subsampling="dw_striding",
            subsampling_factor=4,
            subsampling_channels=32,
            dropout=0.05,
            dropout_pre_encoder=0.05,
            dropout_att=0.05,
        ),
        augment=AugmentConfig(freq_masks=2, freq_width=15, time_masks=2),
        tokenizer=TokenizerConfig(kind="char"),
    ),
    evaluate=(
        EvalConfig("queen", DataConfig(sources=manifest("queen/dev"), plan=PlanConfig(num_buckets=2))),
        EvalConfig("asterisk", DataConfig(sources=manifest("asterisk/dev"), plan=PlanConfig(num_buckets=2))),
    ),
    optimizer=OptimizerConfig(schedule="wsd", peak_lr=2e-3, warmup_steps=300, decay_steps=2500, weight_decay=1e-2),
    trainer=TrainerConfig(
        steps=8000,
        step=StepConfig(ema=0.999),
        checkpoint=CheckpointConfig(every=500, metric="queen/wer"),
        eval_every=1000,
        log_every=50,
    ),
)
