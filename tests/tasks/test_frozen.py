"""What is frozen stays bit for bit and computes as in evaluation, for every kind of task, adapter and rule list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.rules import named_leaves
from speech_jax.core.types import OWN, TEACHER
from speech_jax.finetuning.adapters import adapter_groups
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.training.config import OptimizerConfig, StepConfig
from speech_jax.training.frozen import NEVER, count_params, first_steps, hold_statistics, moving_state
from speech_jax.training.optimizer import make_optimizer, trainable
from speech_jax.training.state import new_state
from tests.support.every_task import TASKS, initial
from tests.support.single_step import make_step

ENCODER = (("^encoder/", None), ("", 1.0))
CASES = {
    "ctc, batch norm": {
        "the encoder": (ENCODER, ()),
        "its lower layer": ((("^encoder/(subsampling|layers_0)/", None), ("", 1.0)), ()),
        "the norms alone": ((("norm", None), ("", 1.0)), ()),
        "all but a norm": ((("layers_1/conv/norm/scale", 1.0), ("^encoder/", None), ("", 1.0)), ()),
        "held for two steps": (((".*", 1.0),), (("^encoder/", 2),)),
    },
    "ctc of a plain conformer": {"the encoder": (ENCODER, ())},
    "ctc of a crnn": {"a layer": ((("layers_0|subsampling", None), ("", 1.0)), ())},
    "ctc with a teacher, batch norm": {
        "the encoder": (ENCODER, ()),
        "held for two steps": (((".*", 1.0),), (("^encoder/", 2),)),
    },
    "best_rq, batch norm": {"the encoder": (ENCODER, ())},
    "ctc mixed with best_rq, batch norm": {"the encoder": (ENCODER, ())},
    "lora, batch norm": {
        "the base": (adapter_groups(AdapterConfig("lora", rank=2)), ()),
        "all but the norms": (adapter_groups(AdapterConfig("lora", rank=2, train=("^encoder/.*norm/",))), ()),
    },
    "bottleneck": {"the base": (adapter_groups(AdapterConfig("bottleneck", rank=2)), ())},
    "tacotron2": {
        "encoder and postnet": ((("^(encoder|postnet)/", None), ("", 1.0)), ()),
        "held for two steps": (((".*", 1.0),), (("^(encoder|postnet)/", 2),)),
    },
    "wavenet": {"a layer": ((("layers_1|layers/1|condition", None), ("", 1.0)), ())},
    "g2p": {"the embedding": ((("embed", None), ("", 1.0)), ())},
}


def bits(tree) -> dict[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in named_leaves(tree).items()}


@pytest.mark.parametrize(("name", "rules"), [(name, rules) for name in CASES for rules in CASES[name]])
def test_what_is_frozen_stays_bit_for_bit(name, rules):
    """Parameters, batch statistics and moving average, with weight decay on; what is held moves from its step on."""
    task, batch = TASKS[name]()
    params, model_state = initial(task, batch)
    groups, hold = CASES[name][rules]
    config = OptimizerConfig(
        peak_lr=1e-2, warmup_steps=0, schedule="constant", weight_decay=0.5, groups=groups, hold=hold
    )
    optimizer, moving = make_optimizer(config, params, 10), moving_state(config, params, model_state)
    trained = trainable(config, params)
    step = jax.jit(make_step(task.objective, optimizer, trained, StepConfig(ema=0.9), seed=0, moving_state=moving))
    first, statistics = first_steps(config, params), named_leaves(moving)
    assert 0 in first.values() and len(set(first.values())) == 2
    state = new_state(params, model_state, optimizer, ema=True)
    before = {part: bits(getattr(state, part)) for part in ("params", "ema", "model_state")}
    for number in range(3):
        state, _, finite = step(state, batch)
        assert finite.all()
        for part, steps in (("params", first), ("ema", first), ("model_state", statistics)):
            now = bits(getattr(state, part))
            changed = {leaf for leaf in now if now[leaf] != before[part][leaf]}
            due = {leaf for leaf in now if 0 <= steps[leaf] <= number}
            assert changed <= due and bool(changed) == bool(due)


def test_statistics_follow_the_parameters_of_their_norm():
    task, batch = TASKS["ctc with a teacher, batch norm"]()
    params, model_state = initial(task, batch)
    config = OptimizerConfig(groups=(("layers_0/conv/norm/scale", 1.0), ("^encoder/", None), ("", 1.0)))
    moving = moving_state(config, params, model_state)
    assert set(jax.tree.leaves(moving[TEACHER])) == {NEVER}
    layers = moving[OWN]["batch_stats"]["encoder"]
    assert (layers["layers_0"]["conv"]["norm"]["mean"], layers["layers_1"]["conv"]["norm"]["var"]) == (0, NEVER)


def outputs_of(task, params, model_state, batch):
    outputs, _ = jax.jit(lambda p, m, b: task.model.apply(p, m, b, key=jax.random.key(1), train=True))(
        params, model_state, batch
    )
    return outputs


@pytest.mark.parametrize(
    ("name", "output", "mask"),
    [
        ("ctc, batch norm", "logits", "mask"),
        ("ctc of a plain conformer", "logits", "mask"),
        ("lora, batch norm", "logits", "mask"),
        ("best_rq, batch norm", "encoded", "mask"),
        ("tacotron2", "mel_post", "mel_mask"),
    ],
)
def test_the_output_of_what_is_frozen_does_not_depend_on_batch_mates(name, output, mask):
    """In training, too; with the batch's statistics it does."""
    task, batch = TASKS[name]()
    params, model_state = initial(task, batch)
    never = jax.tree.map(lambda _: NEVER, model_state)
    mates = {key: value.copy() for key, value in batch.items()}
    mates["audio"][1:] = 0.3 * np.random.default_rng(5).standard_normal(mates["audio"][1:].shape)
    held = hold_statistics(model_state, never, jnp.int32(0))
    [one, other] = (outputs_of(task, params, held, rows) for rows in (batch, mates))
    valid = np.asarray(one[mask])[0]
    np.testing.assert_allclose(one[output][0][valid], other[output][0][valid], atol=1e-5)
    [one, other] = (outputs_of(task, params, model_state, rows) for rows in (batch, mates))
    assert np.abs(one[output][0][valid] - other[output][0][valid]).max() > 1e-3


def test_the_parameters_are_counted_by_what_happens_to_them():
    task, batch = TASKS["lora, batch norm"]()
    params, _ = initial(task, batch)
    sizes = {name: leaf.size for name, leaf in named_leaves(params).items()}
    config = OptimizerConfig(groups=adapter_groups(AdapterConfig("lora", rank=2)))
    trained = sum(size for name, size in sizes.items() if name.startswith("adapter/") or "/head/" in name)
    total, adapted = sum(sizes.values()), 2 * 3 * 16 * 16  # queries, keys and values of two layers
    expected = f"{total:,} parameters ({trained:,} trained, {total - trained:,} frozen, {adapted:,} of these adapted)"
    assert count_params(config, params) == expected
    task, batch = TASKS["ctc, batch norm"]()
    params, _ = initial(task, batch)
    config = OptimizerConfig(groups=(("^head/", None), ("", 1.0)), hold=(("layers_1", 3),))
    sizes = {name: leaf.size for name, leaf in named_leaves(params).items()}
    head, held = (sum(size for name, size in sizes.items() if part in name) for part in ("head/", "layers_1"))
    trained = sum(sizes.values()) - head - held
    assert f"({trained:,} trained, {held:,} held at first, {head:,} frozen)" in count_params(config, params)
