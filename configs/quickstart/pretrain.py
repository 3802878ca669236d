"""The quickstart's first run: a very small Conformer-CTC learns domain A of the synthetic corpus from scratch."""

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig


def corpus(name: str, rows: int) -> DataConfig:
    """One part of the corpus that `python -m speech_jax.prepare synthetic --out runs/quickstart/data` makes."""
    source = SourceConfig(path=f"runs/quickstart/data/{name}.jsonl")
    return DataConfig(sources=(source,), plan=PlanConfig(num_buckets=1, rows=rows))


config = TrainConfig(
    out_dir="runs/quickstart/pretrained",
    data=corpus("A/train", rows=32),
    task=CTCTaskConfig(
        model=ConformerConfig(
            width=96,
            layers=4,
            heads=4,
            kernel_size=9,
            conv_norm="layer",  # batch statistics follow the new domain alone, and would misjudge the old one
            subsampling="dw_striding",
            subsampling_factor=4,
            subsampling_channels=32,
            dropout=0.05,
            dropout_pre_encoder=0.05,
            dropout_att=0.05,
        ),
        augment=AugmentConfig(freq_masks=2, freq_width=15, time_masks=2),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=96),
    ),
    evaluate=(EvalConfig("A", corpus("A/dev", rows=40)), EvalConfig("B", corpus("B/dev", rows=40))),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=3e-3, warmup_steps=100),
    trainer=TrainerConfig(
        steps=400, eval_every=200, log_every=20, checkpoint=CheckpointConfig(every=200, metric="A/wer")
    ),
)
