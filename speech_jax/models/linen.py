"""The one door between Flax and the rest: a Linen module as a `types.Model`."""

from __future__ import annotations

import flax.linen as nn
import jax

from speech_jax.core.types import Batch, Model, PyTree


def as_model(module: nn.Module) -> Model:
    """A module called as `module(batch, train=…)` as a pair of pure functions.

    `params` is the collection of that name; `model_state` holds the others, for example {"batch_stats": …}, and is {}
    where there are none. With train=False the model state comes back as it was and no key is needed.
    """

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        variables = dict(module.init({"params": key}, batch, train=False))
        return variables.pop("params"), variables

    def apply(
        params: PyTree, model_state: PyTree, batch: Batch, *, key: jax.Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, batch, train=False), model_state
        rngs = None if key is None else {"dropout": key}
        outputs, new = module.apply(variables, batch, train=True, rngs=rngs, mutable=list(model_state))
        return outputs, {**model_state, **new}

    return Model(init, apply)
