"""NeMo's Conformer-CTC large on a pod slice, LibriSpeech's 960 hours: bfloat16, one row of 16 s a chip and more.

`python -m speech_jax.compile --config configs/pods/conformer_large.py --topology v5e:16x16 --bucket 4096x16x256
--vocab-size 1024` says what it takes on the chips; the batch is chosen there (experiments/pods).
"""

from speech_jax.audio.config import AugmentConfig
from speech_jax.config import EvalConfig, TrainConfig
from speech_jax.data.config import DataConfig, JoinConfig, PlanConfig, SourceConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.text.config import TokenizerConfig
from speech_jax.training.config import CheckpointConfig, OptimizerConfig, TrainerConfig


def manifest(*names: str) -> tuple[SourceConfig, ...]:
    return tuple(SourceConfig(path=f"data/librispeech/{name}.jsonl") for name in names)


config = TrainConfig(
    out_dir="runs/pods/conformer_large",
    data=DataConfig(
        sources=manifest("train-clean-100", "train-clean-360", "train-other-500"),
        plan=PlanConfig(
            num_buckets=6,
            seconds_per_batch=65536,
            row_multiple=1024,
            seconds_multiple=1.28,
            max_seconds=17.92,
            join=JoinConfig(share=0.02, seconds=17.92),  # pauses, and the next sentence: for long recordings
        ),
    ),
    task=CTCTaskConfig(
        model=ConformerConfig(
            width=512,
            layers=18,
            heads=8,
            dtype="bfloat16",
            scan_layers=True,
            attention_fused=True,
            remat=True,
            remat_keeps="products",
        ),
        augment=AugmentConfig(freq_masks=2, freq_width=27, time_masks=10),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=1024),
    ),
    evaluate=(EvalConfig("dev-other", DataConfig(sources=manifest("dev-other"), plan=PlanConfig(rows=256))),),
    optimizer=OptimizerConfig(schedule="noam", peak_lr=2e-3, warmup_steps=5000, weight_decay=1e-3),
    trainer=TrainerConfig(
        steps=50_000, eval_every=1000, checkpoint=CheckpointConfig(every=1000, metric="dev-other/wer")
    ),
)
