"""The training state: how it is born, already sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from speech_jax.core.errors import UserError
from speech_jax.core.placement import replicated
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import Model, PyTree, TrainState
from speech_jax.training.sharding import MeshConfig, Rules, param_shardings, state_shardings

INIT_STREAM = 0xFFFFFFFF  # no step has this number


class OptState(NamedTuple):
    """The optimizer's state and how many steps were skipped because of a bad number."""

    inner: PyTree
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def new_state(params: PyTree, model_state: PyTree, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Step 0. The average starts at the parameters themselves."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=OptState(optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def init_shapes(model: Model, batch_spec: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    """(params, model_state) as shapes, without computing anything."""
    return jax.eval_shape(lambda: _init(model, batch_spec, seed))


def init_values(model: Model, batch_spec: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    """(params, model_state) as a run with this seed would be born with."""
    return jax.jit(lambda: _init(model, batch_spec, seed))()


def _init(model: Model, batch_spec: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    key = jax.random.fold_in(jax.random.key(seed), INIT_STREAM)
    return model.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), batch_spec))


def make_state(
    model: Model,
    batch_spec: PyTree,
    make_optimizer: Callable[[PyTree], optax.GradientTransformation],
    mesh: Mesh,
    mesh_config: MeshConfig,
    *,
    seed: int,
    ema: bool,
    init: tuple[PyTree, PyTree] | None = None,
    rules: Rules = (),
) -> tuple[Callable[[], TrainState], TrainState, TrainState]:
    """(a function that makes the state, the state's shapes with their shardings, the same shardings alone).

    Shapes first, then shardings, then one jitted function whose outputs are born where they belong: no device ever
    holds the whole of what is split. Nothing is computed until the function is called, so a resumed run does not make
    a state in vain.

    init: (params, model_state) to start from instead of random ones; host arrays or device arrays.
    rules: the model's own, see `param_shardings`.
    Raises UserError if `init` does not fit the model, naming the leaf and both shapes.
    """
    shapes = init_shapes(model, batch_spec, seed)
    if init is not None:
        check_shapes(init[0], shapes[0], "the parameters to start from")
        check_shapes(init[1], shapes[1], "the model state to start from")
    optimizer = make_optimizer(shapes[0])
    abstract = jax.eval_shape(lambda p, m: new_state(p, m, optimizer, ema=ema), *shapes)
    placed = param_shardings(shapes[0], mesh, mesh_config, rules)
    shardings = state_shardings(abstract, shapes[0], placed, mesh)
    struct = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), abstract, shardings)

    def make() -> TrainState:
        if init is None:
            return jax.jit(
                lambda: new_state(*_init(model, batch_spec, seed), optimizer, ema=ema), out_shardings=shardings
            )()
        params = jax.tree.map(_place, init[0], shapes[0], placed)
        model_state = jax.tree.map(lambda x, s: _place(x, s, replicated(mesh)), init[1], shapes[1])
        build = jax.jit(lambda p, m: new_state(p, m, optimizer, ema=ema), out_shardings=shardings)
        return build(params, model_state)

    return make, struct, shardings


def _place(x: Any, like: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
    host = np.asarray(x).astype(like.dtype)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def check_shapes(found: PyTree, expected: PyTree, what: str) -> None:
    """Raises UserError unless both trees have the same leaves with the same shapes; names the first that does not
    fit."""
    have, want = named_leaves(found), named_leaves(expected)
    for name, leaf in want.items():
        if name not in have:
            raise UserError(f"{what}: found no {name!r}, expected it with shape {tuple(leaf.shape)}: another model?")
        if tuple(have[name].shape) != tuple(leaf.shape):
            raise UserError(
                f"{what}: found {name!r} with shape {tuple(have[name].shape)}, "
                f"expected {tuple(leaf.shape)}: another model?"
            )
    for name in have:
        if name not in want:
            raise UserError(
                f"{what}: found {name!r} with shape {tuple(have[name].shape)}, which the model does not have"
            )


def num_params(params: PyTree) -> int:
    """How many numbers there are in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
