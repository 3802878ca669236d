"""Settings of beam search and of Tacotron 2's decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError

Dtype = Literal["float32", "bfloat16", "int8"]
Cores = Literal[1, 2]


@dataclass(frozen=True)
class BeamConfig:
    """Beam search over CTC scores.

    Example:
        >>> from speech_jax.decoding.config import BeamConfig
        >>> beam = BeamConfig(width=32, lm="lm.arpa", lm_weight=0.7)  # for load_recognizer(folder, beam=beam)
        >>> beam.word_insertion_bonus
        1.0
    """

    width: int = 0
    """Number of prefixes kept per frame; 0 decodes greedily, without a language model."""
    lm: str = ""
    """Word n-gram language model in ARPA format (`python -m speech_jax.lm` trains one); empty for none."""
    lm_weight: Annotated[float, Range(0, 100)] = 0.5
    """Weight of the language model's log-probabilities (natural logarithm)."""
    word_insertion_bonus: Annotated[float, Range(-100, 100)] = 1.0
    """Log-score added per word; offsets the language model's preference for short texts. Without `lm`
    it is 0."""
    unk_score: Annotated[float, Range(-1000, 100)] = -3.0
    """Log-score added per word that is not in the language model's vocabulary."""
    token_min_logp: Annotated[float, Range(-1000, 0)] = -7.0
    """Prune tokens whose log-probability in a frame is below this."""
    lm_fold_case: bool = False
    """Read the language model's words in the tokenizer's case, for example a model in capitals."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        of_model = ["lm_weight", "unk_score", "lm_fold_case"]
        if self.word_insertion_bonus:  # 0 is what a search without a model takes anyway
            of_model.append("word_insertion_bonus")
        if not self.width:
            return dict.fromkeys([*of_model, "token_min_logp"], "with {width}")
        return {} if self.lm else dict.fromkeys(of_model, "without {lm}")

    def __post_init__(self) -> None:
        if not 0 <= self.width <= 4096:
            raise UserError(f"beam.width: found {self.width}, expected 0 to 4096")
        if self.lm and not self.width:
            raise UserError("beam.lm: found a language model with beam.width 0, expected a width such as 32")


@dataclass(frozen=True)
class DecodeConfig:
    """Tacotron 2 decoding: end of an utterance, attention window."""

    stop_threshold: float = 0.5
    """Stop-token probability above which a frame is the last one."""
    saturated_frames: int = 25
    """End the utterance once the attention has been on the last symbol for this many frames; 0 disables this. The
    default is about 0.3 s."""
    frames_per_symbol: float = 14.0
    """Frames per symbol in the length limit, frames_per_symbol · symbols + frames_more. English has 5 to 7 frames of
    11.6 ms per letter."""
    frames_more: int = 100
    """Constant number of frames in the length limit."""
    window_back: int = -1
    """Symbols that the attention may move backward per step; -1 for no limit."""
    window_forward: int = -1
    """Symbols that the attention may move forward per step; -1 for no limit."""
    reduction: int = 0
    """Mel frames per decoder step; 0 takes the model's reduction factor."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("stop_threshold", self.stop_threshold, 1e-6, 1),
            ("saturated_frames", self.saturated_frames, 0, 10_000),
            ("frames_per_symbol", self.frames_per_symbol, 0.01, 200),
            ("frames_more", self.frames_more, 0, 10_000),
            ("window_back", self.window_back, -1, 10_000),
            ("window_forward", self.window_forward, -1, 10_000),
            ("reduction", self.reduction, 0, 100),
        ):
            if not low <= value <= high:
                raise UserError(f"decode.{name}: found {value}, expected {low} to {high}")
