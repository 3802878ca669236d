"""Letters to phonemes, learned from a dictionary: words → network → CTC, and phoneme error rates on words held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from speech_jax.core.placement import run_sharded
from speech_jax.core.types import Batch, Bucket, LossOut, Model, PyTree, Report, Task
from speech_jax.data.config import PlanConfig
from speech_jax.data.plan import Plan, eval_plan, make_plan
from speech_jax.decoding.ctc import greedy_decode
from speech_jax.evaluation.wer import ErrorCounts, count_errors
from speech_jax.models.g2p import G2PConfig, letter_to_sound
from speech_jax.objectives.ctc import ctc_loss
from speech_jax.text.dictionary import Pronunciation
from speech_jax.text.letters import CLASSES, LETTERS, class_ids, is_pronounceable, letter_ids

EXAMPLES = 8  # words of an evaluation that go to the logs


class Entry(NamedTuple):
    """A word with one of its pronunciations."""

    word: str
    phones: Pronunciation


def part_of(word: str) -> str:
    """ "test" (5 %), "dev" (1 %) or "train", by the word's hash: for ever the same, whatever else is in the list."""
    number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % 100
    return "test" if number < 5 else "dev" if number == 5 else "train"


def entries(dictionary: Mapping[str, Sequence[Pronunciation]], part: str) -> list[Entry]:
    """The words of one part that the network can read: to train on, every pronunciation is an entry; elsewhere the
    first one stands for the word."""
    found = []
    for word, ways in dictionary.items():
        if is_pronounceable(word) and part_of(word) == part:
            found += [Entry(word, phones) for phones in (ways if part == "train" else ways[:1])]
    return found


# ---- Batches


def word_plan(words: Sequence[Entry], *, rows: int, seed: int = 0, shuffle: bool = True) -> Plan:
    """data/plan.py over words: a letter is what a second is there. Bucket.samples counts letters, labels phonemes."""
    letters = np.array([len(entry.word) for entry in words], np.float64)
    labels = np.array([len(entry.phones) for entry in words], np.int64)
    config = PlanConfig(
        rows=rows, row_multiple=1, num_buckets=5, seconds_multiple=1.0, min_seconds=1.0, label_multiple=4
    )
    if shuffle:
        return make_plan(letters, labels, config, seed=seed, sample_rate=1)
    return eval_plan(letters, labels, config, sample_rate=1)


def word_batches(words: Sequence[Entry], plan: Plan, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """The plan's batches from step `start`: letters i32[rows, L], letter_lengths, labels i32[rows, N], label_lengths,
    index i32[rows] (-1 for filler rows)."""
    step = start
    while plan.total_steps is None or step < plan.total_steps:
        bucket, chosen = plan.batch(step)
        batch = {name: np.zeros(spec.shape, spec.dtype) for name, spec in batch_spec(bucket).items()}
        batch["index"][:] = chosen
        for place, row in enumerate(chosen):
            if row >= 0:
                letters, labels = letter_ids(words[row].word), class_ids(words[row].phones)
                batch["letters"][place, : len(letters)] = letters
                batch["letter_lengths"][place] = len(letters)
                batch["labels"][place, : len(labels)] = labels
                batch["label_lengths"][place] = len(labels)
        yield batch
        step += 1


def batch_spec(bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and types of one batch of `bucket`, whose "samples" are letters."""
    rows, letters, labels = bucket
    shapes = {"letters": (rows, letters), "letter_lengths": (rows,), "labels": (rows, labels), "label_lengths": (rows,)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in (shapes | {"index": (rows,)}).items()}


# ---- The task


def g2p_task(config: G2PConfig, words: Sequence[Entry], dictionary: Mapping[str, Sequence[Pronunciation]]) -> Task:
    """The task that training/ is handed. `words` are those that evaluation batches point into; `dictionary` has all
    their pronunciations, of which the nearest counts."""
    network = letter_to_sound(config, len(LETTERS), len(CLASSES))

    def inputs(batch: Batch) -> dict[str, jax.Array]:
        mask = jnp.arange(batch["letters"].shape[1])[None] < batch["letter_lengths"][:, None]
        return {"letters": batch["letters"], "mask": mask}

    def apply(params, model_state, batch, *, key=None, train=False):
        return network.apply(params, model_state, inputs(batch), key=key, train=train)

    def losses(outputs, batch):
        real = batch["index"] >= 0
        nll, fits = ctc_loss(outputs["logits"], outputs["mask"], batch["labels"], batch["label_lengths"], row_mask=real)
        labels = jnp.sum(jnp.where(real & fits, batch["label_lengths"], 0)).astype(jnp.float32)
        return jnp.sum(nll), labels, jnp.sum(real & ~fits).astype(jnp.float32), jnp.sum(real).astype(jnp.float32)

    def objective(params, model_state, batch, key, step) -> LossOut:
        """CTC loss in nats per phoneme."""
        outputs, model_state = apply(params, model_state, batch, key=key, train=True)
        total, labels, misfits, rows = losses(outputs, batch)
        metrics = {"ctc": (total, labels), "labels_do_not_fit": (misfits, rows)}
        return LossOut(total / jnp.maximum(labels, 1.0), labels, model_state, metrics)

    @jax.jit
    def read(params, model_state, batch):
        outputs, _ = apply(params, model_state, batch)
        return *greedy_decode(outputs["logits"], outputs["mask"]), losses(outputs, batch)[:2]

    def evaluate(params, model_state, batches: Iterable[Batch]) -> Report:
        said: dict[str, Pronunciation] = {}
        total = labels = 0.0
        for batch in batches:
            ids, lengths, found = run_sharded(read, params, model_state, batch=batch)
            total, labels = total + float(found[0]), labels + float(found[1])
            for row in np.flatnonzero(np.asarray(batch["index"]) >= 0):
                said[words[batch["index"][row]].word] = tuple(CLASSES[i] for i in ids[row, : lengths[row]])
        shown = list(said.items())[:EXAMPLES]
        examples = [
            {"id": word, "reference": " ".join(dictionary[word][0]), "hypothesis": " ".join(phones)}
            for word, phones in shown
        ]
        return Report({"loss": total / max(labels, 1.0)} | error_rates(said, dictionary), examples)

    return Task(Model(lambda key, batch: network.init(key, inputs(batch)), apply), objective, batch_spec, evaluate)


def error_rates(
    said: Mapping[str, Pronunciation], dictionary: Mapping[str, Sequence[Pronunciation]]
) -> dict[str, float]:
    """Phoneme and word error rates of what was said for each word, against the nearest of its pronunciations: "per" and
    "wer" without stress, as the literature counts, "per_stress" and "wer_stress" with it."""
    found = {}
    for name, strip in (("", True), ("_stress", False)):
        pairs = [(word, way) for word in said for way in dictionary[word]]
        references = [plain(way) if strip else way for _, way in pairs]
        hypotheses = [plain(said[word]) if strip else said[word] for word, _ in pairs]
        best: dict[str, ErrorCounts] = {}
        for (word, _), counts in zip(pairs, count_errors(references, hypotheses), strict=True):
            if word not in best or (counts.errors, counts.rate) < (best[word].errors, best[word].rate):
                best[word] = counts
        total = sum(best.values(), ErrorCounts())
        found |= {f"per{name}": total.rate, f"wer{name}": total.sentence_rate}
    return found


def plain(phones: Sequence[str]) -> Pronunciation:
    """Phonemes without their stress."""
    return tuple(phone.rstrip("012") for phone in phones)


def network_bytes(params: PyTree) -> bytes:
    """The parameters as text/letter_to_sound.py reads them: one safetensors file, float16, "layers_0/input/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(params))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return safetensors.numpy.save({name: np.asarray(leaf, np.float16) for name, leaf in sorted(named.items())})
