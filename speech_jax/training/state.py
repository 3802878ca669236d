"""Initialize the training state directly with its sharding."""

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
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import Model, PyTree, TrainState
from speech_jax.training.config import MeshConfig, Rules
from speech_jax.training.sharding import param_shardings, state_shardings

INIT_STREAM = 0xFFFFFFFF  # no step has this number

# (params, model_state) to start from, or a function that makes them; None: the model's initial ones
Init = tuple[PyTree, PyTree] | Callable[[], tuple[PyTree, PyTree]] | None


class OptState(NamedTuple):
    """Optimizer state and counts of skipped steps.

    Attributes:
        inner: state of the optax transformation.
        skipped: steps skipped so far because a number was not finite.
        skipped_in_a_row: of those, the ones since the last good step.
    """

    inner: PyTree
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def new_state(params: PyTree, model_state: PyTree, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Return the state at step 0. The moving average, if `ema`, starts at the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=OptState(optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def init_shapes(model: Model, batch_spec: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    """Return the shapes of (params, model_state), without computing anything."""
    return jax.eval_shape(lambda: _init(model, batch_spec, seed))


def init_values(model: Model, batch_spec: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    """Return the initial (params, model_state) of a run with this seed."""
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
    init: Init = None,
    rules: Rules = (),
) -> tuple[Callable[[], TrainState], TrainState, TrainState]:
    """Prepare the training state: its shapes, its shardings, and a function that makes it.

    The function is jitted with the shardings of its outputs, so that no device ever holds the whole of a sharded array.
    Nothing is computed before it is called; a resumed run never calls it.

    Args:
        model: the network.
        batch_spec: shapes of a batch to initialize the model with.
        make_optimizer: parameters or their shapes -> optimizer.
        mesh: from `make_mesh`.
        mesh_config: rules of the sharding.
        seed: seed of the initialization.
        ema: keep a moving average of the parameters.
        init: (params, model_state) to start from instead of random ones, or a function that makes them; host or device
            arrays.
        rules: the model's sharding rules, see `param_shardings`.

    Returns:
        The function that makes the state, the state's shapes with their shardings, and the shardings alone.

    Raises:
        UserError: if `init` does not fit the model, naming the parameter and both shapes.
    """
    shapes = init_shapes(model, batch_spec, seed)
    if init is not None and not callable(init):
        _check_init(init, shapes)
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
        build = jax.jit(lambda p, m: new_state(p, m, optimizer, ema=ema), out_shardings=shardings)
        return build(*start_values(model, batch_spec, seed, init, struct))

    return make, struct, shardings


def start_values(
    model: Model, batch_spec: PyTree, seed: int, init: Init, struct: TrainState
) -> tuple[PyTree, PyTree]:
    """Return (params, model_state) that a run starts from, placed as in its state, without the rest of the state.

    Args:
        model: the network.
        batch_spec: shapes of a batch to initialize the model with.
        seed: seed of the initialization.
        init: as in `make_state`.
        struct: the state's shapes with their shardings.

    Raises:
        UserError: if `init` does not fit the model, naming the parameter and both shapes.
    """
    like = struct.params, struct.model_state
    if init is None:
        return jax.jit(lambda: _init(model, batch_spec, seed), out_shardings=jax.tree.map(lambda s: s.sharding, like))()
    values = init() if callable(init) else init
    _check_init(values, like)
    return jax.tree.map(_place, values, like)


def _check_init(init: tuple[PyTree, PyTree], like: tuple[PyTree, PyTree]) -> None:
    check_shapes(init[0], like[0], "the parameters to start from")
    check_shapes(init[1], like[1], "the model state to start from")


def _place(x: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    host = np.asarray(x).astype(like.dtype)
    return jax.make_array_from_callback(host.shape, like.sharding, lambda index: host[index])


def check_shapes(tree: PyTree, expected: PyTree, what: str) -> None:
    """Check that two trees have the same leaves with the same shapes.

    Args:
        tree: arrays or shapes.
        expected: arrays or shapes.
        what: name of `tree` in the message.

    Raises:
        UserError: naming the first leaf that is missing, is left over or has another shape.
    """
    leaves, expected_leaves = named_leaves(tree), named_leaves(expected)
    for name, leaf in expected_leaves.items():
        if name not in leaves:
            raise UserError(f"{what}: found no {name!r}, expected it with shape {tuple(leaf.shape)}: another model?")
        if tuple(leaves[name].shape) != tuple(leaf.shape):
            raise UserError(
                f"{what}: found {name!r} with shape {tuple(leaves[name].shape)}, "
                f"expected {tuple(leaf.shape)}: another model?"
            )
    for name in leaves:
        if name not in expected_leaves:
            raise UserError(
                f"{what}: found {name!r} with shape {tuple(leaves[name].shape)}, which the model does not have"
            )


def num_params(params: PyTree) -> int:
    """Return the number of elements in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
