"""Search over a decoder's own tokens: the rules against their plain statement, the searches against plain loops."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.decoding.autoregressive import (
    TokenRules,
    add_tokens,
    apply_rules,
    no_history,
    search_beam,
    search_greedily,
)
from speech_jax.interop.conformer_names import import_tensors
from speech_jax.interop.whisper_names import whisper_mappings
from speech_jax.models.config import WhisperConfig
from speech_jax.models.whisper import encode, whisper, whisper_decoder

GOLDEN = Path(__file__).parents[1] / "models/golden/whisper.npz"
CONFIG = WhisperConfig(
    num_features=7, width=20, heads=5, encoder_layers=3, decoder_layers=2, hidden=28, audio_positions=13,
    text_positions=11,
)  # fmt: skip
VOCABULARY, LIMIT = 53, 8
END, TIME = 2, 40
PLAIN = TokenRules(end=END, never=(0, 1), not_first=(END, 7))
TIMES = TokenRules(end=30, never=(39,), not_first=(30, 7), first_time=TIME, latest_start=4)


def plain_rules(logits, chosen, rules):
    """The rules as openai/whisper states them, one row, in lists."""
    logits = np.array(logits, float)
    logits[list(rules.never)] = -np.inf
    if not chosen:
        logits[list(rules.not_first)] = -np.inf
    if rules.first_time is None:
        return logits
    begin = rules.first_time
    last_is_time = len(chosen) >= 1 and chosen[-1] >= begin
    second_is_time = len(chosen) < 2 or chosen[-2] >= begin
    if last_is_time and second_is_time:
        logits[begin:] = -np.inf
    elif last_is_time:
        logits[: rules.end] = -np.inf
    times = [token for token in chosen if token >= begin]
    if times:
        lowest = times[-1] if last_is_time and not second_is_time else times[-1] + 1
        logits[begin:lowest] = -np.inf
    if not chosen:
        logits[:begin] = -np.inf
        if rules.latest_start is not None:
            logits[begin + rules.latest_start + 1 :] = -np.inf
    with np.errstate(divide="ignore"):
        if np.log(np.exp(logits[begin:]).sum()) > logits[:begin].max():
            logits[:begin] = -np.inf
    return logits


@pytest.mark.parametrize("rules", [PLAIN, TIMES, TIMES._replace(latest_start=None)])
def test_rules_are_those_of_whisper(rules):
    rng = np.random.default_rng(0)
    for _ in range(60):
        chosen = rng.choice([5, 9, 30, 41, 42, 43, 45, 50], rng.integers(0, 6))
        logits = rng.normal(size=VOCABULARY) * 4
        history = no_history(1)
        for token in chosen:
            history = add_tokens(history, jnp.array([token]), rules)
        ours = apply_rules(jnp.asarray(logits[None], jnp.float32), history, rules)[0]
        np.testing.assert_allclose(ours, plain_rules(logits, chosen.tolist(), rules), rtol=1e-5)


@pytest.fixture(scope="module")
def network():
    """(step, select, state and logits after the prefix, next_logits(row, tokens)) of the golden Whisper, three rows."""
    arrays = dict(np.load(GOLDEN))
    params, _, _ = import_tensors(dict(arrays), whisper_mappings(CONFIG), str(GOLDEN))
    prefix = np.array([[4, 5], [0, 6], [7, 8]])
    mask = np.array([[True, True], [False, True], [True, True]])
    features = np.concatenate([arrays["features"], -arrays["features"][:1]])
    lengths = np.array([26, 26, 15])
    inputs = {"features": features, "mask": np.arange(26) < lengths[:, None]}

    @jax.jit
    def logits_of(tokens, token_mask):
        batch = inputs | {"tokens": tokens, "token_mask": token_mask}
        return jax.nn.log_softmax(whisper(CONFIG, VOCABULARY).apply(params, {}, batch)[0]["logits"])

    def next_logits(row, tokens):
        text = [*prefix[row][mask[row]], *tokens]
        padded = np.zeros((3, 11), int)
        padded[row, : len(text)] = text
        return np.asarray(logits_of(padded, np.arange(11)[None] < np.full((3, 1), len(text))))[row, len(text) - 1]

    decoder = whisper_decoder(CONFIG)
    state = decoder.start(params, *encode(CONFIG, params, inputs), 11)
    logits, state = decoder.step(params, state, prefix, mask)

    def step(state, tokens):
        logits, state = decoder.step(params, state, tokens, jnp.ones(tokens.shape, bool))
        return logits[:, -1], state

    return step, decoder.select, state, logits[:, -1], next_logits


def plain_greedy(next_logits, row, rules, limit):
    chosen, total = [], 0.0
    while len(chosen) < limit:
        allowed = plain_rules(next_logits(row, chosen), chosen, rules)
        log_probs = allowed - np.log(np.exp(allowed).sum())
        token = int(np.argmax(log_probs))
        total += log_probs[token]
        if token == rules.end:
            return chosen, total, True
        chosen.append(token)
    return chosen, total, False


def plain_beam(next_logits, row, rules, beams, limit, patience, penalty):
    """Beam search of openai/whisper, one row, with dictionaries."""
    enough = round(beams * patience)
    running, ended = {(): 0.0}, {}
    for _ in range(limit):
        candidates = {}
        for text, score in running.items():
            allowed = plain_rules(next_logits(row, text), list(text), rules)
            log_probs = allowed - np.log(np.exp(allowed).sum())
            for token in np.argsort(-log_probs, kind="stable")[: beams + 1]:
                candidates[(*text, int(token))] = score + log_probs[token]
        running, new = {}, {}
        for text in sorted(candidates, key=candidates.get, reverse=True):
            if text[-1] == rules.end:
                new[text] = candidates[text]
            else:
                running[text] = candidates[text]
                if len(running) == beams:
                    break
        for text in sorted(new, key=new.get, reverse=True):
            if len(ended) < enough and new[text] > -np.inf:
                ended[text] = new[text]
        if len(ended) >= enough:
            break
    for text in sorted(running, key=running.get, reverse=True):
        if len(ended) < beams:
            ended[text] = running[text]

    def rank(text):
        length = len(text) - (text[-1] == rules.end)
        return ended[text] / (max(length, 1) if penalty is None else ((5 + length) / 6) ** penalty)

    best = max(ended, key=rank)
    return [t for t in best if t != rules.end], ended[best], best[-1] == rules.end


def same(texts, row, expected):
    chosen, total, ended = expected
    assert texts.tokens[row, : texts.lengths[row]].tolist() == chosen
    assert (np.asarray(texts.tokens[row, texts.lengths[row] :]) == 0).all()
    assert bool(texts.ended[row]) == ended
    np.testing.assert_allclose(texts.log_probs[row], total, atol=2e-4)
    np.testing.assert_allclose(texts.mean_log_probs[row], total / (len(chosen) + 1), atol=2e-4)


@pytest.mark.parametrize(("rules", "limit"), [(PLAIN, 1), (PLAIN, LIMIT), (TIMES, 3), (TIMES, LIMIT)])
def test_greedy_search_is_the_plain_loop(network, rules, limit):
    step, _, state, logits, next_logits = network
    texts = jax.jit(lambda state, logits: search_greedily(step, state, logits, rules, limit=limit))(state, logits)
    for row in range(3):
        same(texts, row, plain_greedy(next_logits, row, rules, limit))


@pytest.mark.parametrize(
    ("rules", "beams", "patience", "penalty"),
    [(PLAIN, 1, 1.0, None), (PLAIN, 4, 1.5, 0.6), (TIMES, 3, 1.0, None), (TIMES, 5, 0.6, 1.0)],
)
def test_beam_search_is_the_plain_one(network, rules, beams, patience, penalty):
    step, select, state, logits, next_logits = network
    options = dict(beams=beams, limit=LIMIT, patience=patience, length_penalty=penalty)
    texts = jax.jit(lambda state, logits: search_beam(step, select, state, logits, rules, **options))(state, logits)
    for row in range(3):
        same(texts, row, plain_beam(next_logits, row, rules, beams, LIMIT, patience, penalty))


def test_a_wide_beam_finds_the_most_probable_text():
    """A decoder whose next token depends on the last one, small enough to list all its texts."""
    rng = np.random.default_rng(7)
    table = np.log(rng.dirichlet(np.full(4, 0.7), size=4)).astype(np.float32)
    rules, limit = TokenRules(end=3), 5

    def step(state, tokens):
        return jnp.asarray(table)[tokens[:, 0]], state

    def texts(text=(), last=0, score=0.0):
        yield text, score + table[last, 3]
        if len(text) < limit - 1:
            for token in range(3):
                yield from texts((*text, token), token, score + table[last, token])

    start = jnp.asarray(table)[jnp.zeros(1, int)]
    options = dict(beams=3, limit=limit, patience=40, length_penalty=0.0)
    found = search_beam(step, lambda state, numbers: state, None, start, rules, **options)
    best = max(texts(), key=lambda t: t[1])
    greedy = search_greedily(step, None, start, rules, limit=limit)
    assert found.tokens[0, : found.lengths[0]].tolist() == list(best[0])
    assert float(found.log_probs[0]) == pytest.approx(best[1], abs=1e-5) and bool(found.ended[0])
    assert float(greedy.log_probs[0]) < best[1] - 0.1  # the comparison can fail


def test_samples_follow_the_probabilities_and_belong_to_their_rows():
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    rules = TokenRules(end=2)

    def draw(rows, seed, temperature):
        def step(state, tokens):
            return jnp.broadcast_to(logits, (tokens.shape[0], 3)), state

        first = jnp.broadcast_to(logits, (rows, 3))
        key = jax.random.key(seed)
        return search_greedily(step, None, first, rules, limit=4, temperature=temperature, key=key)

    texts = draw(4000, 0, 1.0)
    ended_at_once = np.asarray(texts.lengths == 0).mean()
    assert abs(ended_at_once - 0.7) < 0.03
    cold = np.asarray(draw(4000, 0, 0.5).lengths == 0).mean()
    assert abs(cold - 0.49 / (0.01 + 0.04 + 0.49)) < 0.03
    np.testing.assert_array_equal(draw(7, 0, 1.0).tokens, texts.tokens[:7])
    assert not np.array_equal(draw(4000, 1, 1.0).tokens, texts.tokens)
    token = int(np.argmax(np.asarray(texts.lengths) == 1))
    expected = math.log([0.1, 0.2, 0.7][int(texts.tokens[token, 0])]) + math.log(0.7)
    assert float(texts.log_probs[token]) == pytest.approx(expected, abs=1e-4)  # at temperature 1, whatever was drawn


def test_a_search_ends_with_its_last_row():
    """Steps are counted: the longest text and its end, not the limit."""
    count = 0

    def step(state, tokens):
        def add(_):
            nonlocal count
            count += 1

        jax.debug.callback(add, state)
        return jnp.eye(4)[jnp.minimum(state, 3)] * 10, state + 1

    first = jnp.eye(4)[jnp.array([1, 2])] * 10
    texts = search_greedily(step, jnp.array([2, 3]), first, TokenRules(end=3), limit=100)
    jax.effects_barrier()
    assert texts.lengths.tolist() == [2, 1] and count == 2


def test_what_is_wrong_is_refused():
    logits = jnp.zeros((1, 4))
    for options in ({"limit": 0}, {"limit": 3, "temperature": 0.5}, {"limit": 3, "temperature": -1.0}):
        with pytest.raises(ValueError, match="search_greedily: found limit"):
            search_greedily(lambda s, t: (logits, s), None, logits, TokenRules(end=3), **options)
    for options in ({"beams": 0, "limit": 3}, {"beams": 4, "limit": 3}, {"beams": 2, "limit": 3, "patience": 0.1}):
        with pytest.raises(ValueError, match="search_beam: found beams"):
            search_beam(lambda s, t: (logits, s), lambda s, n: s, None, logits, TokenRules(end=3), **options)
