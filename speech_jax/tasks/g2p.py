"""Letters to phonemes, trained on a dictionary: words → network → CTC, and phoneme error rates on held-out words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from speech_jax.audio.rows import place_key
from speech_jax.core.placement import run_sharded
from speech_jax.core.types import Batch, Bucket, LossOut, Model, PyTree, Report, Task
from speech_jax.data.config import PlanConfig
from speech_jax.data.plan import Plan, eval_plan, make_plan
from speech_jax.decoding.ctc import greedy_decode
from speech_jax.evaluation.wer import ErrorCounts, count_errors, empty_transcripts
from speech_jax.models.g2p import G2PConfig, letter_to_sound
from speech_jax.objectives.ctc import count_nonblank, ctc_loss
from speech_jax.text.dictionary import Pronunciation
from speech_jax.text.letters import CLASSES, LETTERS, class_ids, is_pronounceable, letter_ids

EXAMPLES = 8  # words of an evaluation that go to the logs


class Entry(NamedTuple):
    """Word with one of its pronunciations.

    Attributes:
        word: The spelling.
        phones: The phonemes, with stress.
    """

    word: str
    phones: Pronunciation


def part_of(word: str) -> str:
    """Return the split of a word by its hash: "test" (5 %), "dev" (1 %) or "train", whatever other words there are."""
    number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % 100
    return "test" if number < 5 else "dev" if number == 5 else "train"


def entries(dictionary: Mapping[str, Sequence[Pronunciation]], part: str) -> list[Entry]:
    """Return the words of one split that the network can read.

    Args:
        dictionary: Pronunciations of each word.
        part: "train", "dev" or "test"; see `part_of`.

    Returns:
        An entry per pronunciation for "train", per word (its first pronunciation) otherwise.
    """
    result = []
    for word, pronunciations in dictionary.items():
        if is_pronounceable(word) and part_of(word) == part:
            chosen = pronunciations if part == "train" else pronunciations[:1]
            result += [Entry(word, phones) for phones in chosen]
    return result


# ---- Batches


def word_plan(words: Sequence[Entry], *, rows: int, seed: int = 0, shuffle: bool = True) -> Plan:
    """Return a plan of batches of words, made as data/plan.py makes one of recordings.

    Args:
        words: The entries.
        rows: Words per batch.
        seed: Shuffle seed.
        shuffle: Shuffle and repeat, for training; False plans each word once.

    Returns:
        A plan whose buckets count letters as samples and phonemes as labels.
    """
    letters = np.array([len(entry.word) for entry in words], np.float64)
    labels = np.array([len(entry.phones) for entry in words], np.int64)
    config = PlanConfig(
        rows=rows, row_multiple=1, num_buckets=5, seconds_multiple=1.0, min_seconds=1.0, label_multiple=4
    )
    if shuffle:
        return make_plan(letters, labels, config, seed=seed, sample_rate=1)
    return eval_plan(letters, labels, config, sample_rate=1)


def word_batches(words: Sequence[Entry], plan: Plan, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield the plan's batches from step `start`.

    Each holds int32 arrays: letters [rows, letters], letter_lengths [rows], labels [rows, phonemes], label_lengths
    [rows], index [rows] (-1 for a row that only fills the batch).
    """
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
    """Return the shapes and types of a batch of `bucket`, whose samples are letters."""
    rows, letters, labels = bucket
    shapes = {"letters": (rows, letters), "letter_lengths": (rows,), "labels": (rows, labels), "label_lengths": (rows,)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in (shapes | {"index": (rows,)}).items()}


# ---- The task


def g2p_task(config: G2PConfig, words: Sequence[Entry], dictionary: Mapping[str, Sequence[Pronunciation]]) -> Task:
    """Return the letter-to-sound task.

    Args:
        config: The network.
        words: Entries that the index of evaluation batches refers to.
        dictionary: All pronunciations of these words; the nearest one is the reference.

    Returns:
        The task, as training/ takes it.
    """
    network = letter_to_sound(config, len(LETTERS), len(CLASSES))

    def inputs(batch: Batch) -> dict[str, jax.Array]:
        mask = jnp.arange(batch["letters"].shape[1])[None] < batch["letter_lengths"][:, None]
        return {"letters": batch["letters"], "mask": mask}

    def apply(params, model_state, batch, *, key=None, train=False):
        key = key if key is None else place_key(key, batch)
        return network.apply(params, model_state, inputs(batch), key=key, train=train)

    def losses(outputs, batch):
        real = batch["index"] >= 0
        nll, fits = ctc_loss(outputs["logits"], outputs["mask"], batch["labels"], batch["label_lengths"], row_mask=real)
        labels = jnp.sum(jnp.where(real & fits, batch["label_lengths"], 0)).astype(jnp.float32)
        return jnp.sum(nll), labels, jnp.sum(real & ~fits).astype(jnp.float32), jnp.sum(real).astype(jnp.float32)

    def objective(params, model_state, batch, key, step) -> LossOut:
        """Return the CTC loss in nats per phoneme."""
        outputs, model_state = apply(params, model_state, batch, key=key, train=True)
        total, labels, misfits, rows = losses(outputs, batch)
        nonblank = count_nonblank(outputs["logits"], outputs["mask"] & (batch["index"] >= 0)[:, None])
        metrics = {"ctc": (total, labels), "labels_do_not_fit": (misfits, rows), "nonblank": (nonblank, labels)}
        return LossOut(total / jnp.maximum(labels, 1.0), labels, model_state, metrics)

    @jax.jit
    def transcribe(params, model_state, batch):
        outputs, _ = apply(params, model_state, batch)
        return *greedy_decode(outputs["logits"], outputs["mask"]), losses(outputs, batch)[:2]

    def evaluate(params, model_state, batches: Iterable[Batch]) -> Report:
        hypotheses: dict[str, Pronunciation] = {}
        total = labels = 0.0
        for batch in batches:
            ids, lengths, sums = run_sharded(transcribe, params, model_state, batch=batch)
            total, labels = total + float(sums[0]), labels + float(sums[1])
            for row in np.flatnonzero(np.asarray(batch["index"]) >= 0):
                hypotheses[words[batch["index"][row]].word] = tuple(CLASSES[i] for i in ids[row, : lengths[row]])
        shown = list(hypotheses.items())[:EXAMPLES]
        examples = [
            {"id": word, "reference": " ".join(dictionary[word][0]), "hypothesis": " ".join(phones)}
            for word, phones in shown
        ]
        rates = {"loss": total / max(labels, 1.0)} | error_rates(hypotheses, dictionary)
        return Report(rates, examples, notes=empty_transcripts(hypotheses, hypotheses.values()))

    model = Model(lambda key, batch: network.init(key, inputs(batch)), apply)
    names = ("loss", "per", "wer", "per_stress", "wer_stress")
    return Task(model, objective, batch_spec, evaluate, metrics=dict.fromkeys(names, "min"))


def error_rates(
    hypotheses: Mapping[str, Pronunciation], dictionary: Mapping[str, Sequence[Pronunciation]]
) -> dict[str, float]:
    """Return phoneme and word error rates against the nearest pronunciation of each word.

    Args:
        hypotheses: Phonemes predicted for each word.
        dictionary: Reference pronunciations.

    Returns:
        "per" and "wer" without stress, as in the literature, and "per_stress" and "wer_stress" with it.
    """
    rates = {}
    for name, strip in (("", True), ("_stress", False)):
        pairs = [(word, phones) for word in hypotheses for phones in dictionary[word]]
        references = [plain(phones) if strip else phones for _, phones in pairs]
        predictions = [plain(hypotheses[word]) if strip else hypotheses[word] for word, _ in pairs]
        best: dict[str, ErrorCounts] = {}
        for (word, _), counts in zip(pairs, count_errors(references, predictions), strict=True):
            if word not in best or (counts.errors, counts.rate) < (best[word].errors, best[word].rate):
                best[word] = counts
        total = sum(best.values(), ErrorCounts())
        rates |= {f"per{name}": total.rate, f"wer{name}": total.sentence_rate}
    return rates


def plain(phones: Sequence[str]) -> Pronunciation:
    """Return phonemes without stress marks."""
    return tuple(phone.rstrip("012") for phone in phones)


def network_bytes(params: PyTree) -> bytes:
    """Return the parameters as bytes of a safetensors file in float16, which text/letter_to_sound.py reads."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(params))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return safetensors.numpy.save({name: np.asarray(leaf, np.float16) for name, leaf in sorted(named.items())})
