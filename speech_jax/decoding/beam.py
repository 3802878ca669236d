"""CTC prefix beam search with a word language model, on the host, one utterance at a time.

Hannun et al. 2014 (arXiv 1408.2873): a prefix carries the probability of all its paths, apart for those that end in a
blank and those that do not. The language model is asked whenever a word is complete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from speech_jax.core.errors import UserError
from speech_jax.decoding.ctc import BestPath
from speech_jax.text.ngram import END, START, UNKNOWN, NGramModel
from speech_jax.text.tokenizer import WORD_START, Tokenizer


@dataclass(frozen=True)
class BeamConfig:
    """How text is looked for in the scores."""

    width: int = 0
    """Prefixes that are kept; 0 takes the best path, without a language model."""
    lm: str = ""
    """A language model of words in ARPA format (`python -m speech_jax.lm` makes one); empty for none."""
    lm_weight: float = 0.5
    """Weight of its log-probabilities."""
    word_bonus: float = 1.0
    """Added for every word, against the language model's liking for few."""
    unknown: float = -3.0
    """Added for every word that the language model does not know."""
    least: float = -7.0
    """Tokens of a frame whose log-probability is below this are not followed."""

    def __post_init__(self) -> None:
        if not 0 <= self.width <= 4096:
            raise UserError(f"beam.width: found {self.width}, expected 0 to 4096")
        if self.lm and not self.width:
            raise UserError("beam.lm: found a language model with beam.width 0, expected a width, for example 32")


class _Prefix:
    """A sequence of tokens, as a node of a tree. `lm` is the language model's part of its score."""

    __slots__ = ("parent", "token", "children", "words", "part", "lm", "blank", "token_score", "new", "new_token")

    def __init__(self, parent: _Prefix | None, token: int, words: tuple[str, ...], part: str, lm: float):
        self.parent, self.token, self.children = parent, token, {}
        self.words, self.part, self.lm = words, part, lm
        self.blank = self.token_score = self.new = self.new_token = -math.inf


def _add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


class BeamSearch:
    """A search over the scores of one tokenizer's network."""

    def __init__(self, tokenizer: Tokenizer, config: BeamConfig, lm: NGramModel | None = None):
        self._config, self._lm = config, lm
        self._pieces = [piece.replace(WORD_START, "") for piece in tokenizer.texts]
        if tokenizer.kind == "char":
            self._starts = [piece.isspace() for piece in tokenizer.pieces]
            self._pieces = ["" if space else piece for piece, space in zip(self._pieces, self._starts, strict=True)]
        else:
            self._starts = [piece.startswith(WORD_START) for piece in tokenizer.pieces]

    def search(self, log_probs: Float[np.ndarray, "time vocab"]) -> list[int]:
        """The tokens of the best prefix, blanks (token 0) and repeats removed."""
        root = _Prefix(None, 0, (START,), "", 0.0)
        root.blank = 0.0
        beam = [root]
        width, least = self._config.width, self._config.least
        for frame in log_probs:
            blank = float(frame[0])
            tokens = [(int(k), float(frame[k])) for k in np.flatnonzero(frame > least) if k]
            touched: list[_Prefix] = []

            def reach(prefix: _Prefix, touched=touched) -> None:
                if prefix.new == prefix.new_token == -math.inf:
                    touched.append(prefix)

            for prefix in beam:
                both = _add(prefix.blank, prefix.token_score)
                reach(prefix)
                prefix.new = _add(prefix.new, both + blank)
                for token, score in tokens:
                    if token == prefix.token:
                        prefix.new_token = _add(prefix.new_token, prefix.token_score + score)
                        arriving = prefix.blank + score
                    else:
                        arriving = both + score
                    if arriving == -math.inf:
                        continue
                    child = prefix.children.get(token)
                    if child is None:
                        child = prefix.children[token] = self._extend(prefix, token)
                    reach(child)
                    child.new_token = _add(child.new_token, arriving)
            for prefix in beam:
                prefix.blank = prefix.token_score = -math.inf
            for prefix in touched:
                prefix.blank, prefix.token_score = prefix.new, prefix.new_token
                prefix.new = prefix.new_token = -math.inf
            touched.sort(key=lambda p: _add(p.blank, p.token_score) + p.lm, reverse=True)
            for prefix in touched[width:]:
                prefix.blank = prefix.token_score = -math.inf
            beam = touched[:width]
        best = max(beam, key=lambda p: _add(p.blank, p.token_score) + self._finished(p))
        found = []
        while best.parent is not None:
            found.append(best.token)
            best = best.parent
        return found[::-1]

    def _extend(self, prefix: _Prefix, token: int) -> _Prefix:
        words, part, lm = prefix.words, prefix.part, prefix.lm
        if self._starts[token] and part:
            lm, words, part = lm + self._word(words, part), self._after(words, part), ""
        return _Prefix(prefix, token, words, part + self._pieces[token], lm)

    def _word(self, words: tuple[str, ...], word: str) -> float:
        bonus = self._config.word_bonus
        if self._lm is None:
            return bonus
        unknown = 0.0 if self._lm.knows(word) else self._config.unknown
        return bonus + unknown + self._config.lm_weight * self._lm.score(words, word)

    def _after(self, words: tuple[str, ...], word: str) -> tuple[str, ...]:
        if self._lm is None:
            return words
        return (*words, word if self._lm.knows(word) else UNKNOWN)[-max(self._lm.order - 1, 1) :]

    def _finished(self, prefix: _Prefix) -> float:
        words, lm = prefix.words, prefix.lm
        if prefix.part:
            lm, words = lm + self._word(words, prefix.part), self._after(words, prefix.part)
        return lm if self._lm is None else lm + self._config.lm_weight * self._lm.score(words, END)


def align(log_probs: Float[np.ndarray, "time vocab"], tokens: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the tokens lie on the best path that spells them: (first frame, one past the last frame) of each, and the
    path's log-probability.

    Viterbi over blank, token, blank, … (Graves et al. 2006). Raises ValueError if they do not fit into the frames.
    """
    frames, states = len(log_probs), 2 * len(tokens) + 1
    labels = np.zeros(states, np.int64)
    labels[1::2] = tokens
    skips = np.zeros(states, bool)  # from two states before: onto a token that is not the one before it
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    scores = np.full(states, -np.inf)
    scores[: 2 if tokens else 1] = log_probs[0, labels[: 2 if tokens else 1]] if frames else 0.0
    steps = np.zeros((frames, states), np.int8)
    for t in range(1, frames):
        one = np.concatenate([[-np.inf], scores[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf, -np.inf], scores[:-2]])[:states], -np.inf)
        choices = np.stack([scores, one, two])
        steps[t] = choices.argmax(0)
        scores = choices.max(0) + log_probs[t, labels]
    state = states - 1 if not tokens or scores[-1] >= scores[-2] else states - 2
    if not np.isfinite(scores[state]) or (tokens and not frames):
        raise ValueError(f"{len(tokens)} tokens do not fit into {frames} frames")
    total = float(scores[state])
    path = np.zeros(frames, np.int64)
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state -= int(steps[t, state])
    starts, ends = np.zeros(len(tokens), np.int64), np.zeros(len(tokens), np.int64)
    for i in range(len(tokens)):
        places = np.flatnonzero(path == 2 * i + 1)
        starts[i], ends[i] = places[0], places[-1] + 1
    return starts, ends, total


LONGEST = 2000  # frames that are searched at a time: the alignment's memory grows with their square


def search_batch(search: BeamSearch, log_probs: Float[np.ndarray, "batch time vocab"], frames: np.ndarray) -> BestPath:
    """`BestPath` of every row, as `decoding.ctc.best_path` gives it, but of the searched tokens.

    A row of more than LONGEST frames is cut where blank is surest; the language model begins anew there.
    """
    rows, time = log_probs.shape[:2]
    ids, starts, ends = (np.zeros((rows, time), np.int32) for _ in range(3))
    confidence, lengths = np.zeros((rows, time), np.float32), np.zeros(rows, np.int32)
    for row, count in enumerate(frames):
        for first, last in _pieces(log_probs[row, :count, 0]):
            scores = log_probs[row, first:last].astype(np.float64)
            tokens = search.search(scores)
            if not tokens:
                continue
            done, n = lengths[row], lengths[row] + len(tokens)
            where_from, where_to, _ = align(scores, tokens)
            ids[row, done:n], starts[row, done:n], ends[row, done:n] = tokens, where_from + first, where_to + first
            for i, (token, a, b) in enumerate(zip(tokens, where_from, where_to, strict=True)):
                confidence[row, done + i] = np.exp(scores[a:b, token].mean())
            lengths[row] = n
    return BestPath(ids, lengths, starts, ends, confidence)


def _pieces(blank: np.ndarray) -> list[tuple[int, int]]:
    """Frames from and to, each piece ending where blank is likeliest in its last half."""
    cuts = [0]
    while len(blank) - cuts[-1] > LONGEST:
        half = cuts[-1] + LONGEST // 2
        cuts.append(half + 1 + int(np.argmax(blank[half : cuts[-1] + LONGEST - 1])))
    return list(zip(cuts, [*cuts[1:], len(blank)], strict=True))
