"""What follows from the seed, and what does not: each line of docs/explanations/exact_resume.md."""

import jax
import numpy as np
import pytest

from speech_jax.audio.config import AugmentConfig
from speech_jax.audio.rows import row_keys
from speech_jax.core.rules import named_leaves
from speech_jax.finetuning.config import AdapterConfig, StartConfig
from speech_jax.models.config import ConformerConfig
from speech_jax.objectives.config import AlphaConfig
from speech_jax.runs.prepare import prepare
from speech_jax.tasks.pretrain import BestRQConfig
from speech_jax.tasks.pretrain_best_rq import make
from speech_jax.tasks.pretrain_task import MaskedBatch
from speech_jax.training.feed import PairedBatches
from speech_jax.training.state import init_values
from tests.support import domains
from tests.support.domains import distance, replace


@pytest.fixture(name="mixed", scope="module")
def make_mixed(tmp_path_factory):
    """Return a function: seed (and changes) -> prepared run on both streams, with dropout and augmentation."""
    folder = tmp_path_factory.mktemp("seeds")
    corpus = domains.make_corpus(folder / "data")
    base = domains.base(corpus, folder / "run")
    task = replace(
        base.task, model=replace(base.task.model, dropout=0.2), augment=AugmentConfig(freq_masks=1, time_masks=1)
    )
    config = replace(
        base, task=task, data=domains.part(corpus, "B-train", 4), pre=domains.part(corpus, "A-train", 4),
        alpha=AlphaConfig(start=0.5),
    )  # fmt: skip

    def mixed(seed, **seeds):
        streams = {name: replace(getattr(config, name), seed=value) for name, value in seeds.items()}
        return prepare(replace(config, seed=seed, **streams))

    return mixed


def order(run, stream):
    """Return the rows of the first eight batches of a stream: an epoch and a part of the next one."""
    return np.concatenate([run.streams[stream].plan.batch(step)[1] for step in range(8)]).tolist()


def test_the_order_of_both_streams_follows_the_seed_unless_they_have_their_own(mixed):
    zero, again, one = mixed(0), mixed(0), mixed(1)
    fixed = mixed(1, data=0)
    for stream in ("task", "pre"):
        assert zero.streams[stream].plan.seed == 0  # as before the run's seed had a say
        assert order(zero, stream) == order(again, stream) != order(one, stream)
        assert sorted(order(zero, stream)[:24]) == sorted(order(one, stream)[:24]) == list(range(24))
    assert order(fixed, "task") == order(zero, "task") and order(fixed, "pre") == order(one, "pre")
    assert order(mixed(0, pre=1), "pre") == order(one, "pre")

    # evaluations: the same utterances in the same order, whatever the seed
    for name, stream in zero.eval_streams.items():
        assert stream.plan.fingerprint() == one.eval_streams[name].plan.fingerprint()
        assert stream.plan.fingerprint() == mixed(1, data=5).eval_streams[name].plan.fingerprint()


def test_initialization_dropout_and_augmentation_of_both_losses_follow_the_seed(mixed):
    run = mixed(0)
    spec = run.task.batch_spec(run.feed.buckets[0]["task"])
    params, state = init_values(run.task.model, spec, 0)
    assert distance(params, init_values(run.task.model, spec, 0)[0]) == 0
    assert distance(params, init_values(run.task.model, spec, 1)[0], "kernel") > 0

    assert isinstance(run.feed, PairedBatches)
    batch = next(run.feed)
    run.feed.close()
    batch = jax.tree.map(np.asarray, batch)

    @jax.jit
    def losses(seed, step):
        key = jax.random.fold_in(jax.random.key(seed), step)
        metrics = run.task.objective(params, state, batch, key, step).metrics
        return {name: metrics[f"{name}/loss"][0] / metrics[f"{name}/loss"][1] for name in ("pre", "task")}

    first, again, other_seed, other_step = losses(0, 3), losses(0, 3), losses(1, 3), losses(0, 4)
    for name in ("pre", "task"):
        assert first[name] == again[name] and first[name] not in (other_seed[name], other_step[name])


def test_augmentation_draws_for_an_utterance_and_not_for_its_place_in_the_batch():
    key = jax.random.key(0)
    one, two = (np.asarray(jax.random.key_data(row_keys(key, 2, np.array(rows), 1))) for rows in ([5, 9], [9, 5]))
    np.testing.assert_array_equal(one, two[::-1])
    assert (one[0] != one[1]).any()


def test_new_parts_of_a_start_model_and_adapters_follow_the_seed(start_models, tmp_path):
    plain = domains.finetune(start_models(), tmp_path / "run")

    def init(seed, **changes):
        return prepare(replace(plain, seed=seed, **changes)).init[0]

    fresh = {"start": StartConfig(fresh=("^head/",))}
    zero, again, one = init(0, **fresh), init(0, **fresh), init(1, **fresh)
    assert distance(zero, again) == 0 and distance(zero, one, "head/kernel") > 0
    kept = {name: leaf for name, leaf in named_leaves(zero).items() if not name.startswith("head/")}
    assert all(np.array_equal(leaf, named_leaves(one)[name]) for name, leaf in kept.items())  # from the checkpoint
    adapter = {"adapter": AdapterConfig("lora", rank=2)}
    zero, again, one = init(0, **adapter), init(0, **adapter), init(1, **adapter)
    assert distance(zero, again) == 0 and distance(zero, one, "adapter/") > 0


def test_the_codebook_of_best_rq_has_a_seed_of_its_own():
    """A pre-training's targets stay the same in a run with another `seed`, such as one that starts from it."""
    mask = np.ones((1, 8), bool)
    masked = MaskedBatch(
        features=jax.random.normal(jax.random.key(3), (1, 32, 80)), feature_mask=np.ones((1, 32), bool),
        encoded=np.ones((1, 8, 8), np.float32), mask=mask, hidden=mask, keys=None,
    )  # fmt: skip
    params = {"codes": {"kernel": np.eye(8, dtype=np.float32), "bias": np.arange(8, dtype=np.float32)}}

    def value(seed):
        _, loss = make(BestRQConfig(codes=8, width=4, seed=seed), ConformerConfig(subsampling_factor=4, width=8))
        return float(loss(params, None, masked, 0)[0].value)

    assert value(0) == value(0) != value(1)
