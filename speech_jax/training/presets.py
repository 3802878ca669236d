"""Optimizer configs of published recipes; change a field with `dataclasses.replace`."""

from __future__ import annotations

from speech_jax.training.config import OptimizerConfig

_DECAY_ALL = ()  # no_decay: PyTorch's weight decay and the papers' regularization apply to every parameter


def tacotron2_paper(hold_steps: int = 50_000, decay_steps: int = 100_000) -> OptimizerConfig:
    """Return the optimizer of the Tacotron 2 paper (Shen et al. 2018, section 3.1).

    Adam (0.9, 0.999, 1e-6) with L2 of 1e-6; the learning rate is 1e-3, and decays exponentially to 1e-5 from step
    50,000 on.

    Args:
        hold_steps: steps before the decay.
        decay_steps: length of the decay, which the paper does not give.
    """
    return OptimizerConfig(
        name="adam",
        schedule="tri_stage",
        peak_lr=1e-3,
        end_lr=1e-5,
        warmup_steps=0,
        hold_steps=hold_steps,
        decay_steps=decay_steps,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.0,
        l2=1e-6,
        no_decay=_DECAY_ALL,
        clip_norm=None,
    )


def tacotron2_nvidia() -> OptimizerConfig:
    """Return the optimizer of NVIDIA/tacotron2 (hparams.py and train.py).

    Adam with PyTorch's defaults, a constant learning rate of 1e-3, weight decay 1e-6, gradient norm clipped to 1.
    """
    return OptimizerConfig(
        name="adam",
        schedule="constant",
        peak_lr=1e-3,
        warmup_steps=0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.0,
        l2=1e-6,
        no_decay=_DECAY_ALL,
        clip_norm=1.0,
    )


def tacotron2_deep_learning_examples(steps_per_epoch: int) -> OptimizerConfig:
    """Return the optimizer of NVIDIA/DeepLearningExamples, PyTorch/SpeechSynthesis/Tacotron2.

    As `tacotron2_nvidia`, with the learning rate divided by 10 at epochs 500, 1,000 and 1,500
    (--anneal-steps 500 1000 1500 --anneal-factor 0.1).
    """
    nvidia = vars(tacotron2_nvidia())
    falls = tuple(epoch * steps_per_epoch for epoch in (500, 1000, 1500))
    return OptimizerConfig(**nvidia | {"schedule": "steps", "falls": falls, "fall_factor": 0.1})
