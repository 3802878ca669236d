"""Checks of a run with differential privacy, before it begins; the mechanism is in training/private_step.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.data.manifest import listed_twice
from speech_jax.data.plan import Plan
from speech_jax.data.utterances import Utterance, Utterances
from speech_jax.runs.resolve import resumes
from speech_jax.training.privacy import Accountant

FLAG = "trainer.step.privacy"


def private_run(config: TrainConfig, streams: Mapping[str, tuple[Sequence[Utterance], Plan]]) -> Accountant | None:
    """Check a private run and return its accountant.

    Args:
        config: The run.
        streams: (recordings, plan) of "task" and "pre"; the recordings of both are protected.

    Returns:
        The accountant; None for a run without privacy.

    Raises:
        UserError: If a setting would break the guarantee, or epsilon would exceed `max_epsilon`.
    """
    privacy = config.trainer.step.privacy
    if not privacy.on:
        return None
    check_private_settings(config)
    check_recordings(config, streams)
    accountant = Accountant(privacy, {name: plan.steps() for name, (_, plan) in streams.items()})
    spent = accountant.epsilon(config.trainer.steps)
    if privacy.max_epsilon is not None and spent > privacy.max_epsilon:
        raise UserError(
            f"{FLAG}.max_epsilon: found epsilon {spent:.4g} after {config.trainer.steps} steps, expected at most "
            f"{privacy.max_epsilon}: fewer steps, larger batches (fewer steps per epoch) or more noise"
        )
    return accountant


def describe(accountant: Accountant, steps: int) -> str:
    """Return the privacy budget of the whole run as one line for the log."""
    c = accountant.config
    return (
        f"privacy: epsilon {accountant.epsilon(steps):.4g} at delta {c.delta:g} for any one utterance after {steps} "
        f"steps, {accountant.participations(steps)} of which see it at most; noise {c.noise_multiplier:g} x clip norm "
        f"{c.clip_norm:g}; no amplification by sampling is counted"
    )


def check_private_settings(config: TrainConfig) -> None:
    """Raise UserError for a setting that leaks recordings past the noise, or makes the accounting wrong."""
    task, pretext = config.task, config.pre_task
    kept = bool(config.init_from) and config.start.tokenizer == "keep"
    tokenizer = getattr(task, "tokenizer", None)
    public = kept or tokenizer is None or bool(tokenizer.alphabet) or resumes(config)
    model = next((t.model for t in (task, pretext) if getattr(t and t.model, "conv_norm", "") == "batch"), None)
    refused = (
        (model is not None, "task.model.conv_norm: found 'batch'", "'layer' or 'group': batch norm mixes utterances"),
        (config.optimizer.ewc > 0, f"optimizer.ewc: found {config.optimizer.ewc}",
         "0: the Fisher information is computed from the recordings without noise"),
        (any(data is not None and data.plan.join.share for data in (config.data, config.pre)),
         "data.plan.join.share or pre.plan.join.share: found joined utterances",
         "0: each row is clipped as one utterance, and each utterance is counted once per epoch"),
        (not public, "task.tokenizer: found one to be trained on the transcripts",
         "that of init_from, or an alphabet: a vocabulary reveals transcripts"),
        (config.trainer.force_resume, "trainer.force_resume: found True",
         "False: with another order of the data the epochs cannot be counted"),
    )  # fmt: skip
    for wrong, found, expected in refused:
        if wrong:
            raise UserError(f"{found} with {FLAG}, expected {expected}")


def check_recordings(config: TrainConfig, streams: Mapping[str, tuple[Sequence[Utterance], Plan]]) -> None:
    """Raise UserError if an utterance occurs twice, batches differ in rows, or delta is too large to mean anything."""
    twice = listed_twice([Utterances.of(utterances) for utterances, _ in streams.values()])
    if twice is not None:
        one, other = twice
        raise UserError(
            f"{other.audio}: found 2 times among the recordings ({one.where} and {other.where}), expected once with "
            f"{FLAG}"
        )
    rows = {name: sorted({b.rows for b in plan.buckets}) for name, (_, plan) in streams.items()}
    if len(rows) > 1 and any(sizes != rows["task"] or len(sizes) > 1 for sizes in rows.values()):
        raise UserError(
            f"data.plan.rows: found batches of {rows['task']} rows and of {rows['pre']} in pre, expected one number "
            f"with {FLAG}, set by plan.rows in both: row i of one and row i of the other are clipped together"
        )
    largest = max(len(list_) for list_, _ in streams.values())
    if config.trainer.step.privacy.delta * largest >= 1:
        raise UserError(
            f"{FLAG}.delta: found {config.trainer.step.privacy.delta:g} with {largest} utterances, expected less than "
            f"{1 / largest:.1e}"
        )
