"""CTC prefix beam search with a word language model, on the host, one utterance at a time.

Hannun et al. 2014 (arXiv 1408.2873): a prefix carries the probability of all its paths, apart for those that end in a
blank and those that do not. The language model scores each word once it is complete: at a space, or, for a model over
signs of a script without spaces, at the next sign.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.ctc import BestPath
from speech_jax.decoding.language_model import counts_signs
from speech_jax.text.ngram import END, START, UNKNOWN, NGramModel
from speech_jax.text.scripts import split_words
from speech_jax.text.tokenizer import WORD_START, Tokenizer


class _Prefix:
    """A token sequence, as a node of a prefix tree.

    Attributes:
        words: completed words, at most as many as the language model needs as context.
        partial: letters of the word that is not complete yet.
        lm_score: word bonuses and weighted language-model score of the completed words.
        blank: log-probability of the paths that end in a blank.
        token_score: log-probability of the paths that end in `token`.
        new_blank: `blank` after the current frame.
        new_token: `token_score` after the current frame.
    """

    __slots__ = (
        "parent",
        "token",
        "children",
        "words",
        "partial",
        "lm_score",
        "blank",
        "token_score",
        "new_blank",
        "new_token",
    )

    def __init__(self, parent: _Prefix | None, token: int, words: tuple[str, ...], partial: str, lm_score: float):
        self.parent, self.token, self.children = parent, token, {}
        self.words, self.partial, self.lm_score = words, partial, lm_score
        self.blank = self.token_score = self.new_blank = self.new_token = -math.inf


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


class BeamSearch:
    """CTC prefix beam search for one tokenizer, optionally with a word language model.

    Args:
        tokenizer: the network's vocabulary; token 0 is the blank.
        config: search settings; `config.width` must be at least 1.
        lm: word n-gram model (`speech_jax.text.ngram.read_arpa`), or None.

    Example:
        >>> import numpy as np
        >>> from speech_jax.decoding.beam import BeamSearch
        >>> from speech_jax.decoding.config import BeamConfig
        >>> from speech_jax.text.tokenizer import BLANK, Tokenizer
        >>> search = BeamSearch(Tokenizer("char", (BLANK, "a", "b")), BeamConfig(width=4))
        >>> probabilities = np.array([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])  # [time, vocab]
        >>> search.search(np.log(probabilities))
        [1, 2]
    """

    def __init__(self, tokenizer: Tokenizer, config: BeamConfig, lm: NGramModel | None = None):
        self._config, self._lm = config, lm
        self._signs = lm is not None and counts_signs(lm, tokenizer)
        self._pieces = [piece.replace(WORD_START, "") for piece in tokenizer.texts]
        if tokenizer.kind == "char":
            self._starts = [piece.isspace() for piece in tokenizer.pieces]
            self._pieces = ["" if space else piece for piece, space in zip(self._pieces, self._starts, strict=True)]
        else:
            self._starts = [piece.startswith(WORD_START) for piece in tokenizer.pieces]

    def search(self, log_probs: Float[np.ndarray, "time vocab"]) -> list[int]:
        """Return the token ids of the best prefix, blanks (token 0) and repeats removed.

        Args:
            log_probs: natural log-probabilities of one utterance, without padding.
        """
        root = _Prefix(None, 0, (START,), "", 0.0)
        root.blank = 0.0
        beam = [root]
        width, min_logp = self._config.width, self._config.token_min_logp
        for frame in log_probs:
            blank = float(frame[0])
            tokens = [(int(k), float(frame[k])) for k in np.flatnonzero(frame > min_logp) if k]
            touched: list[_Prefix] = []

            def reach(prefix: _Prefix, touched=touched) -> None:
                if prefix.new_blank == prefix.new_token == -math.inf:
                    touched.append(prefix)

            for prefix in beam:
                both = _log_add(prefix.blank, prefix.token_score)
                reach(prefix)
                prefix.new_blank = _log_add(prefix.new_blank, both + blank)
                for token, score in tokens:
                    if token == prefix.token:
                        prefix.new_token = _log_add(prefix.new_token, prefix.token_score + score)
                        arriving = prefix.blank + score
                    else:
                        arriving = both + score
                    if arriving == -math.inf:
                        continue
                    child = prefix.children.get(token)
                    if child is None:
                        child = prefix.children[token] = self._extend(prefix, token)
                    reach(child)
                    child.new_token = _log_add(child.new_token, arriving)
            for prefix in beam:
                prefix.blank = prefix.token_score = -math.inf
            for prefix in touched:
                prefix.blank, prefix.token_score = prefix.new_blank, prefix.new_token
                prefix.new_blank = prefix.new_token = -math.inf
            touched.sort(key=lambda p: _log_add(p.blank, p.token_score) + p.lm_score, reverse=True)
            for prefix in touched[width:]:
                prefix.blank = prefix.token_score = -math.inf
            beam = touched[:width]
        best = max(beam, key=lambda p: _log_add(p.blank, p.token_score) + self._final_lm_score(p))
        tokens = []
        while best.parent is not None:
            tokens.append(best.token)
            best = best.parent
        return tokens[::-1]

    def _extend(self, prefix: _Prefix, token: int) -> _Prefix:
        words, partial, lm_score = prefix.words, prefix.partial, prefix.lm_score
        if self._starts[token] and partial:
            lm_score += self._word_score(words, partial)
            words, partial = self._append_word(words, partial), ""
        partial += self._pieces[token]
        if self._signs and len(partial) > 1:
            *complete, partial = split_words(partial) or [""]
            for word in complete:
                lm_score += self._word_score(words, word)
                words = self._append_word(words, word)
        return _Prefix(prefix, token, words, partial, lm_score)

    def _word_score(self, words: tuple[str, ...], word: str) -> float:
        if self._lm is None:  # no bonus either: it would only add words
            return 0.0
        unknown = 0.0 if self._lm.has_word(word) else self._config.unk_score
        return self._config.word_insertion_bonus + unknown + self._config.lm_weight * self._lm.score(words, word)

    def _append_word(self, words: tuple[str, ...], word: str) -> tuple[str, ...]:
        if self._lm is None:
            return words
        return (*words, word if self._lm.has_word(word) else UNKNOWN)[-max(self._lm.order - 1, 1) :]

    def _final_lm_score(self, prefix: _Prefix) -> float:
        words, lm_score = prefix.words, prefix.lm_score
        if prefix.partial:
            lm_score += self._word_score(words, prefix.partial)
            words = self._append_word(words, prefix.partial)
        return lm_score if self._lm is None else lm_score + self._config.lm_weight * self._lm.score(words, END)


def forced_align(log_probs: Float[np.ndarray, "time vocab"], tokens: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the frames of each token on the most probable CTC path that spells `tokens`.

    Viterbi over blank, token, blank, … (Graves et al. 2006).

    Args:
        log_probs: natural log-probabilities of one utterance; token 0 is the blank.
        tokens: token ids without blanks.

    Returns:
        The first frame of each token, one past the last frame of each token, and the path's log-probability.

    Raises:
        ValueError: there are too few frames for the tokens.
    """
    frames, states = len(log_probs), 2 * len(tokens) + 1
    labels = np.zeros(states, np.int64)
    labels[1::2] = tokens
    skips = np.zeros(states, bool)  # the blank between two different tokens may be skipped
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    scores = np.full(states, -np.inf)
    scores[: 2 if tokens else 1] = log_probs[0, labels[: 2 if tokens else 1]] if frames else 0.0
    steps = np.zeros((frames, states), np.int8)
    for t in range(1, frames):
        from_previous = np.concatenate([[-np.inf], scores[:-1]])
        from_second = np.where(skips, np.concatenate([[-np.inf, -np.inf], scores[:-2]])[:states], -np.inf)
        choices = np.stack([scores, from_previous, from_second])
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
        token_frames = np.flatnonzero(path == 2 * i + 1)
        starts[i], ends[i] = token_frames[0], token_frames[-1] + 1
    return starts, ends, total


MAX_FRAMES = 2000  # searched at a time: the alignment's memory grows with the square


def search_batch(search: BeamSearch, log_probs: Float[np.ndarray, "batch time vocab"], frames: np.ndarray) -> BestPath:
    """Return the `BestPath` of each row by beam search; `decoding.ctc.best_path` is the greedy counterpart.

    A row of more than MAX_FRAMES frames is split where the blank is most probable; the language model's context is
    empty after each split.

    Args:
        search: the beam search.
        log_probs: natural log-probabilities.
        frames: int [batch], frames of each row that are not padding.
    """
    rows, time = log_probs.shape[:2]
    ids, starts, ends = (np.zeros((rows, time), np.int32) for _ in range(3))
    confidence, lengths = np.zeros((rows, time), np.float32), np.zeros(rows, np.int32)
    for row, count in enumerate(frames):
        for first, last in _split_at_blanks(log_probs[row, :count, 0]):
            scores = log_probs[row, first:last].astype(np.float64)
            tokens = search.search(scores)
            if not tokens:
                continue
            done, n = lengths[row], lengths[row] + len(tokens)
            first_frames, end_frames, _ = forced_align(scores, tokens)
            ids[row, done:n], starts[row, done:n], ends[row, done:n] = tokens, first_frames + first, end_frames + first
            for i, (token, a, b) in enumerate(zip(tokens, first_frames, end_frames, strict=True)):
                confidence[row, done + i] = np.exp(scores[a:b, token].mean())
            lengths[row] = n
    return BestPath(ids, lengths, starts, ends, confidence)


def _split_at_blanks(blank: np.ndarray) -> list[tuple[int, int]]:
    """Return (begin, end) frames of pieces; each but the last ends at the most probable blank in its second half."""
    cuts = [0]
    while len(blank) - cuts[-1] > MAX_FRAMES:
        half = cuts[-1] + MAX_FRAMES // 2
        cuts.append(half + 1 + int(np.argmax(blank[half : cuts[-1] + MAX_FRAMES - 1])))
    return list(zip(cuts, [*cuts[1:], len(blank)], strict=True))
