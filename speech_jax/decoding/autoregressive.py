"""Search of a decoder that reads its own tokens: the best token, a sample, or a beam; Whisper's rules for time tokens.

Everything has static shapes, so that a search is one compiled program, and ends as soon as all of its rows have ended.
A row's result does not depend on the other rows. Rules, order and ties of the beam are those of openai/whisper's
decoding.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from speech_jax.core.types import PyTree

# (state, tokens [rows, 1]) -> (logits [rows, vocab] of the token that follows, state)
Step = Callable[[PyTree, Int[Array, "rows 1"]], tuple[Float[Array, "rows vocab"], PyTree]]


class TokenRules(NamedTuple):
    """Tokens that may follow others.

    Attributes:
        end: token that ends a text.
        never: tokens that are never chosen.
        not_first: tokens that are not chosen as the first one.
        first_time: lowest id of the time tokens, which are all ids from it on. They come in pairs except directly
            before the end, do not decrease, and one is chosen wherever all of them together are more probable than each
            other token; so a text begins with one. None: no rules for times.
        latest_start: number of time steps up to which a text may begin; None is no limit.
    """

    end: int
    never: tuple[int, ...] = ()
    not_first: tuple[int, ...] = ()
    first_time: int | None = None
    latest_start: int | None = None


class History(NamedTuple):
    """The part of the chosen tokens that the rules read; -1 stands for none.

    Attributes:
        last: last token.
        before: the one before it.
        time: last time token.
        count: number of tokens.
    """

    last: Int[Array, " rows"]
    before: Int[Array, " rows"]
    time: Int[Array, " rows"]
    count: Int[Array, " rows"]


class Texts(NamedTuple):
    """Result of a search.

    Attributes:
        tokens: chosen tokens, without the end; zeros after them.
        lengths: number of these tokens.
        log_probs: sum of the log-probabilities in nats, after the rules, of the tokens and of the end.
        ended: False where the limit came before the end.
    """

    tokens: Int[Array, "rows limit"]
    lengths: Int[Array, " rows"]
    log_probs: Float[Array, " rows"]
    ended: Bool[Array, " rows"]

    @property
    def mean_log_probs(self) -> Float[Array, " rows"]:
        """Mean log-probability per token in nats, the end counted."""
        return self.log_probs / (self.lengths + 1)


def no_history(rows: int) -> History:
    """Return the history of rows without tokens."""
    none = jnp.full(rows, -1, jnp.int32)
    return History(none, none, none, jnp.zeros(rows, jnp.int32))


def add_tokens(history: History, tokens: Int[Array, " rows"], rules: TokenRules) -> History:
    """Return the history with one more token in each row."""
    tokens = tokens.astype(jnp.int32)
    time = history.time if rules.first_time is None else jnp.where(tokens >= rules.first_time, tokens, history.time)
    return History(tokens, history.last, time, history.count + 1)


def apply_rules(logits: Float[Array, "rows vocab"], history: History, rules: TokenRules) -> Float[Array, "rows vocab"]:
    """Return the logits with -inf for all tokens that may not follow.

    Args:
        logits: of the next token.
        history: what was chosen so far.
        rules: the rules.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.decoding.autoregressive import TokenRules, apply_rules, no_history
        >>> rules = TokenRules(end=3, never=(0,), not_first=(3,))
        >>> apply_rules(jnp.zeros((1, 5)), no_history(1), rules).tolist()
        [[-inf, 0.0, 0.0, -inf, 0.0]]
    """
    ids = jnp.arange(logits.shape[1])
    first = (history.count == 0)[:, None]
    barred = _one_of(ids, rules.never)[None] | (first & _one_of(ids, rules.not_first)[None])
    if rules.first_time is None:
        return jnp.where(barred, -jnp.inf, logits)
    begin = rules.first_time
    is_time, is_text = (ids >= begin)[None], (ids < rules.end)[None]
    after_time = (history.last >= begin)[:, None]
    after_pair = after_time & ((history.before >= begin) | (history.count < 2))[:, None]
    barred |= after_pair & is_time
    barred |= after_time & ~after_pair & is_text
    # A time that opens a segment may equal the one that closed the segment before; all others have to be later.
    opens = after_time & ~after_pair
    earliest = history.time[:, None] + jnp.where(opens, 0, 1)
    barred |= (history.time >= 0)[:, None] & is_time & (ids[None] < earliest)
    barred |= first & ~is_time
    if rules.latest_start is not None:
        barred |= first & (ids > begin + rules.latest_start)[None]
    logits = jnp.where(barred, -jnp.inf, logits)
    times = jax.nn.logsumexp(jnp.where(is_time, logits, -jnp.inf), axis=1, keepdims=True)
    other = jnp.max(jnp.where(is_time, -jnp.inf, logits), axis=1, keepdims=True)
    return jnp.where((times > other) & ~is_time, -jnp.inf, logits)


def _one_of(ids: Int[Array, " vocab"], tokens: tuple[int, ...]) -> Bool[Array, " vocab"]:
    return jnp.zeros(ids.shape, bool).at[jnp.asarray(tokens, jnp.int32)].set(True)


def search_greedily(
    step: Step,
    state: PyTree,
    logits: Float[Array, "rows vocab"],
    rules: TokenRules,
    *,
    limit: int,
    temperature: float = 0.0,
    key: jax.Array | None = None,
) -> Texts:
    """Choose the best token, or a sample, again and again.

    Args:
        step: reads the chosen tokens.
        state: state of the decoder after the prefix.
        logits: of the first token.
        rules: tokens that may follow.
        limit: most tokens of a text, the end counted.
        temperature: 0 takes the best token; a larger number draws from the probabilities to the power of 1 /
            temperature.
        key: random key of the draws; row i draws from fold_in(key, i).

    Returns:
        The texts. The log-probabilities are those at temperature 1.

    Raises:
        ValueError: a temperature above 0 without a key, or below 0; or a limit below 1.
    """
    rows = logits.shape[0]
    if limit < 1 or temperature < 0 or (temperature > 0 and key is None):
        raise ValueError(
            f"search_greedily: found limit {limit}, temperature {temperature} and {'a' if key is not None else 'no'} "
            f"key, expected at least 1, at least 0, and a key to draw with"
        )
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0) if key is None else key))(jnp.arange(rows))

    def choose(number: Array, logits: Array, texts: Texts, history: History) -> tuple[Array, Texts, History]:
        allowed = apply_rules(logits, history, rules)
        if temperature > 0:
            draws = jax.vmap(partial(jax.random.fold_in, data=number))(keys)
            token = jax.vmap(jax.random.categorical)(draws, allowed / temperature)
        else:
            token = jnp.argmax(allowed, axis=1)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(allowed), token[:, None], axis=1)[:, 0]
        ends = token == rules.end
        more = ~texts.ended & ~ends
        tokens = lax.dynamic_update_slice_in_dim(
            texts.tokens, jnp.where(more, token, 0).astype(jnp.int32)[:, None], number, axis=1
        )
        texts = Texts(
            tokens,
            texts.lengths + more,
            texts.log_probs + jnp.where(texts.ended, 0.0, log_prob),
            texts.ended | ends,
        )
        return token, texts, add_tokens(history, token, rules)

    def body(carry: tuple) -> tuple:
        number, state, token, texts, history = carry
        logits, state = step(state, token[:, None])
        return number + 1, state, *choose(number, logits, texts, history)

    empty = jnp.zeros((rows, limit), jnp.int32)
    texts = Texts(empty, jnp.zeros(rows, jnp.int32), jnp.zeros(rows), jnp.zeros(rows, bool))
    carry: Any = (jnp.ones((), jnp.int32), state, *choose(jnp.zeros((), jnp.int32), logits, texts, no_history(rows)))
    return lax.while_loop(lambda c: (c[0] < limit) & ~c[3].ended.all(), body, carry)[3]


class _Beam(NamedTuple):
    """State of a beam search: running texts, and ended ones in the order in which they ended."""

    tokens: Int[Array, "rows beams limit"]
    scores: Float[Array, "rows beams"]
    history: History  # of rows · beams
    ended_tokens: Int[Array, "rows ended limit"]
    ended_lengths: Int[Array, "rows ended"]
    ended_scores: Float[Array, "rows ended"]
    ended: Int[Array, " rows"]


def search_beam(
    step: Step,
    select: Callable[[PyTree, Int[Array, " many"]], PyTree],
    state: PyTree,
    logits: Float[Array, "rows vocab"],
    rules: TokenRules,
    *,
    beams: int,
    limit: int,
    patience: float = 1.0,
    length_penalty: float | None = None,
) -> Texts:
    """Search for the most probable text with the best `beams` beginnings of each row.

    A row ends when round(beams · patience) texts have ended; without as many, its running texts count too. The best one
    has the greatest log-probability divided by its length, or by ((5 + length) / 6) ^ length_penalty.

    Args:
        step: reads the chosen tokens of rows · beams texts, the beams of a row side by side.
        select: (state, numbers of its rows) -> state of these rows, for repeating and exchanging beams.
        state: state of the decoder after the prefix, of `rows` rows.
        logits: of the first token.
        rules: tokens that may follow.
        beams: number of running texts per row.
        limit: most tokens of a text, the end counted.
        patience: see above.
        length_penalty: see above; None divides by the length.

    Returns:
        The best text of each row.

    Raises:
        ValueError: beams, limit or the number of texts to end is below 1, or there are not more tokens than beams.
    """
    (rows, vocab), enough = logits.shape, round(beams * patience)
    if min(beams, limit, enough) < 1 or vocab <= beams:
        raise ValueError(
            f"search_beam: found beams {beams}, limit {limit}, patience {patience} for {vocab} tokens, expected at "
            f"least 1 of each, one text to end, and more tokens than beams"
        )

    def expand(number: Array, logits: Array, beam: _Beam) -> tuple[_Beam, Array, Array]:
        """Return (the beams with one more token, the row of `state` that each continues, their last tokens)."""
        log_probs = jax.nn.log_softmax(apply_rules(logits, beam.history, rules))
        best, tokens = lax.top_k(log_probs, beams + 1)
        scores = (beam.scores.reshape(-1, 1) + best).reshape(rows, -1)
        order = jnp.argsort(-scores, axis=1, stable=True)
        scores, tokens = (jnp.take_along_axis(x.reshape(rows, -1), order, axis=1) for x in (scores, tokens))
        source = order // (beams + 1)
        ends = tokens == rules.end
        running = jnp.cumsum(~ends, axis=1)
        kept = jnp.argsort(~(~ends & (running <= beams)), axis=1, stable=True)[:, :beams]
        new = ends & (running < beams) & (scores > -jnp.inf)  # an end that is worse than all kept texts does not count

        place = beam.ended[:, None] + jnp.cumsum(new, axis=1) - 1
        place = jnp.where(new & (place < enough), place, enough)  # beyond the array: dropped
        row = jnp.arange(rows)[:, None]
        texts = jnp.take_along_axis(beam.tokens, source[..., None], axis=1)
        ended_tokens = beam.ended_tokens.at[row, place].set(texts, mode="drop")
        ended_lengths = beam.ended_lengths.at[row, place].set(number, mode="drop")
        ended_scores = beam.ended_scores.at[row, place].set(scores, mode="drop")
        ended = jnp.minimum(beam.ended + new.sum(axis=1), enough)

        source, scores, tokens = (jnp.take_along_axis(x, kept, axis=1) for x in (source, scores, tokens))
        texts = jnp.take_along_axis(beam.tokens, source[..., None], axis=1)
        texts = lax.dynamic_update_slice_in_dim(texts, tokens[..., None], number, axis=2)
        flat = (jnp.arange(rows)[:, None] * beams + source).reshape(-1)
        history = jax.tree.map(lambda x: x[flat], beam.history)
        history = add_tokens(history, tokens.reshape(-1), rules)
        beam = _Beam(texts, scores, history, ended_tokens, ended_lengths, ended_scores, ended)
        return beam, flat, tokens.reshape(-1, 1)

    def body(carry: tuple) -> tuple:
        number, state, source, token, beam = carry
        logits, state = step(select(state, source), token)
        beam, source, token = expand(number, logits, beam)
        return number + 1, state, source, token, beam

    beam = _Beam(
        tokens=jnp.zeros((rows, beams, limit), jnp.int32),
        scores=jnp.full((rows, beams), -jnp.inf).at[:, 0].set(0.0),  # one text, not `beams` equal ones
        history=no_history(rows * beams),
        ended_tokens=jnp.zeros((rows, enough, limit), jnp.int32),
        ended_lengths=jnp.zeros((rows, enough), jnp.int32),
        ended_scores=jnp.full((rows, enough), -jnp.inf),
        ended=jnp.zeros(rows, jnp.int32),
    )
    repeated = jnp.repeat(jnp.arange(rows), beams)
    beam, source, token = expand(jnp.zeros((), jnp.int32), logits[repeated], beam)
    carry: Any = (jnp.ones((), jnp.int32), select(state, repeated), source, token, beam)
    carry = lax.while_loop(lambda c: (c[0] < limit) & (c[4].ended < enough).any(), body, carry)
    return _best(carry[4], carry[0], rules, beams, length_penalty)


def _best(beam: _Beam, number: Array, rules: TokenRules, beams: int, length_penalty: float | None) -> Texts:
    """Return the best text of each row; where fewer than `beams` have ended, the best running ones count too."""
    rows = beam.ended.shape[0]
    order = jnp.argsort(-beam.scores, axis=1, stable=True)
    scores = jnp.take_along_axis(beam.scores, order, axis=1)
    running = jnp.take_along_axis(beam.tokens, order[..., None], axis=1)
    counts = beam.ended[:, None] + jnp.arange(beams)[None] < beams
    scores = jnp.where(counts, scores, -jnp.inf)
    tokens = jnp.concatenate([beam.ended_tokens, running], axis=1)
    lengths = jnp.concatenate([beam.ended_lengths, jnp.broadcast_to(number, (rows, beams))], axis=1)
    scores = jnp.concatenate([beam.ended_scores, scores], axis=1)
    divisor = jnp.maximum(lengths, 1) if length_penalty is None else ((5 + lengths) / 6) ** length_penalty
    best = jnp.argmax(scores / divisor, axis=1)
    row = jnp.arange(rows)
    length = lengths[row, best]
    chosen = jnp.where(jnp.arange(tokens.shape[2])[None] < length[:, None], tokens[row, best], 0)
    return Texts(chosen, length, scores[row, best], best < beam.ended_scores.shape[1])
