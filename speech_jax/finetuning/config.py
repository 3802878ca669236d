"""Settings of adapters and of starting from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from speech_jax.core.config_dict import new_field


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters that are trained instead of the whole network.

    Example:
        >>> from speech_jax.finetuning.config import AdapterConfig
        >>> config = AdapterConfig("lora", rank=4, targets=("self_attn/linear_[qv]/kernel$",))
        >>> config.kind, config.rank, config.train
        ('lora', 4, ('^head/',))
    """

    kind: Literal["none", "lora", "bottleneck"] = "none"
    """lora: a low-rank update A B of each target kernel. bottleneck: a linear low-rank layer behind each target. none:
    trains the network itself."""
    rank: int = 8
    """Rank of an adapter: columns of A and rows of B."""
    scale: float = 2.0
    """Factor on A B (LoRA's alpha / rank)."""
    targets: tuple[str, ...] = (r"self_attn/linear_[qkv]/kernel$",)
    """Regular expressions of the kernels that get an adapter."""
    train: tuple[str, ...] = (r"^head/",)
    """Regular expressions of the network's parameters that are trained together with the adapters."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        names = ("rank", "scale", "targets", "train")
        return dict.fromkeys(names, "with {kind}") if self.kind == "none" else {}


@dataclass(frozen=True)
class StartConfig:
    """Parameters, tokenizer and speakers that are taken from the checkpoint in `init_from`."""

    which: Literal["best", "last"] = "best"
    """Checkpoint of the run to start from."""
    fresh: tuple[str, ...] = ()
    """Regular expressions of parameters to reinitialize even if the checkpoint has them: "^head/" for a new head,
    "layers_1[67]/" for extra layers on top."""
    drop: tuple[str, ...] = ()
    """Regular expressions of the checkpoint's parameters that the model does not have. Others left over are an
    error."""
    tokenizer: Literal["keep", "new"] = "keep"
    """keep: the checkpoint's tokenizer. new: one made from the texts of `data`, and of `pre` with the weight alpha, as
    `task.tokenizer` says (without a task as the checkpoint's does, in the language of the rows of `data`); the head
    keeps the weights of tokens that both have, new tokens are initialized."""
    speakers: Literal["add", "keep", "new"] = new_field("add")
    """Speakers of a voice whose `task.speakers` is "data". add: the checkpoint's, and new ones of the recordings. keep:
    the checkpoint's only. new: those of the recordings only. A speaker of both keeps its embedding; a new one starts
    with the mean of the old ones."""
