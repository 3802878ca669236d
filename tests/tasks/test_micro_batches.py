"""Micro-batches equal the whole batch, for every objective and mixture. Trained batch norms are the exception."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from speech_jax.objectives.mix import terms
from speech_jax.training.config import StepConfig
from speech_jax.training.frozen import NEVER
from speech_jax.training.step import make_gradient
from tests.support.every_task import TASKS, initial


@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_equal_the_whole_batch(name):
    task, batch = TASKS[name]()
    params, model_state = initial(task, batch)
    everything = jax.tree.map(lambda _: True, params)
    held = jax.tree.map(lambda _: NEVER, model_state)  # no batch statistics
    for term in terms(task.objective):
        outs = []
        for parts in (1, 4):
            gradient = jax.jit(make_gradient(term, everything, StepConfig(accumulate=parts), moving_state=held))
            outs.append(gradient(params, model_state, jnp.int32(0), term.select(batch), jax.random.key(0)))
        whole, split = jax.device_get(outs)
        np.testing.assert_allclose(split.value, whole.value, rtol=1e-6)
        difference = optax.tree.norm(optax.tree.sub(split.gradient, whole.gradient))
        assert difference <= 5e-6 * optax.tree.norm(whole.gradient)
        np.testing.assert_allclose(optax.tree.norm(split.gradient), optax.tree.norm(whole.gradient), rtol=3e-6)
        assert float(optax.tree.norm(whole.gradient)) > 0
        assert set(split.metrics) == set(whole.metrics)
        for metric, (total, count) in whole.metrics.items():
            # A contrastive loss among others is logged with the penalty of each micro-batch's own choices.
            if metric.endswith(("loss", "ctc", "nll", "teacher", "teacher_hidden")) and "contrastive in" not in name:
                np.testing.assert_allclose(split.metrics[metric], (total, count), rtol=2e-5)
