"""Settings of adapters and of the start from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.config_dict import new_field


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained instead of the whole network."""

    kind: Literal["none", "lora", "bottleneck"] = "none"
    """none trains the network itself."""
    rank: int = 8
    """Columns of A and rows of B."""
    scale: float = 2.0
    """Factor on A B (LoRA's alpha / rank)."""
    targets: tuple[str, ...] = (r"self_attn/linear_[qkv]/kernel$",)
    """Patterns of the kernels that get an adapter."""
    train: tuple[str, ...] = (r"^head/",)
    """Patterns of the network's own parameters that are trained with them."""


@dataclass(frozen=True)
class StartConfig:
    """What a run takes from the checkpoint in `init_from`."""

    which: Literal["best", "last"] = "best"
    """Which of the run's checkpoints."""
    fresh: tuple[str, ...] = ()
    """Patterns of parameters that are initialized anew, whatever the checkpoint has: "^head/" for a new head,
    "layers_1[67]/" for extra layers on top."""
    drop: tuple[str, ...] = ()
    """Patterns of the checkpoint's parameters that the new model does without. What is left over otherwise is an
    error."""
    tokenizer: Literal["keep", "new"] = "keep"
    """keep: the checkpoint's. new: made from the recordings' texts as `task.tokenizer` says; what the head learned for
    a token stays with its string, new tokens are initialized."""
    speakers: Literal["add", "keep", "new"] = new_field("add")
    """Of a voice whose `task.speakers` is "data". add: the checkpoint's, and those of the recordings that it lacks.
    keep: the checkpoint's alone. new: those of the recordings alone. What was learned for a speaker stays with the
    name, a new one begins as the mean of the old ones."""
