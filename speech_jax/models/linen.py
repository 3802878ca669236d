"""Conversion of Flax Linen modules to `types.Model`, so that nothing outside models/ depends on Flax."""

from __future__ import annotations

import flax.linen as nn
import jax

from speech_jax.core.types import Batch, Model, PyTree


def as_model(module: nn.Module) -> Model:
    """Return the pure functions `init` and `apply` of a module that is called as `module(batch, train=…)`.

    `params` is the collection of that name; `model_state` holds the others, for example {"batch_stats": …}, or is {}.
    With train=False, `apply` returns the model state unchanged and needs no key; with train=True its key is that of the
    "dropout" stream.
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
