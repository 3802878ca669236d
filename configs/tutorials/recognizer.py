"""A recognizer that learns simple sentences in about half a minute on two CPU cores, for the notebooks.

python -m speech_jax.prepare synthetic --out data --train-a 1200 --train-b 300 --voices 1 --words-per-minute 160 180 \\
    --sample-rate 8000
python -m speech_jax.train --config tutorials/recognizer
"""

from speech_jax.audio.config import AudioConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig


def recordings(name: str, rows: int) -> DataConfig:
    """One part of the corpus, in batches of `rows` utterances of at most 3.6 seconds, longer than all that are made.

    With the same shape for all sets, each function is compiled once.
    """
    plan = PlanConfig(bucket_seconds=(3.6,), bucket_labels=(48,), rows=rows)
    return DataConfig(sources=(SourceConfig(path=f"data/{name}.jsonl"),), plan=plan)


config = TrainConfig(
    out_dir="runs/recognizer",
    data=recordings("A/train", rows=8),
    task=CTCTaskConfig(
        model=ConformerConfig(
            num_features=40,
            width=96,
            layers=2,
            heads=4,
            kernel_size=9,
            conv_norm="layer",
            subsampling="dw_striding",
            subsampling_factor=4,
            subsampling_channels=32,
            dropout=0.05,
            dropout_pre_encoder=0.0,
            dropout_att=0.0,
        ),
        audio=AudioConfig(sample_rate=8000, window=200, hop=80, n_fft=256, num_mels=40),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=64),
    ),
    evaluate=(EvalConfig("old", recordings("A/dev", rows=64)),),
    optimizer=OptimizerConfig(schedule="cosine", peak_lr=6e-3, warmup_steps=50),
    trainer=TrainerConfig(steps=450, eval_every=150, log_every=10, checkpoint=CheckpointConfig(every=0)),
)
