"""The runtime type checker of `SPEECH_JAX_TYPECHECK=1`: beartype, through jaxtyping's import hook."""

import typing

import beartype
import jax
import jaxtyping
import numpy as np

ROOMS = ("audio", "decoding", "evaluation", "kernels", "models", "objectives")


def install() -> None:
    """Check every call of the rooms' functions against their annotations, shapes included.

    Modules that are imported later are checked; those that are loaded already are not.
    """
    jaxtyping.Array = typing.Union[jax.Array, np.ndarray]  # noqa: UP007 - JAX's functions take both, and tests use it
    jaxtyping.install_import_hook([f"speech_jax.{room}" for room in ROOMS], f"{__name__}.check")


check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float
