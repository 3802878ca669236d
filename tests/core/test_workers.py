"""Work in child processes: the order of the results, errors, and children that die."""

import os
import sys

import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.workers import parallel_map


def square(number, parent):
    """The work of a job; some jobs print, fail or kill their process."""
    print("noise")
    if number == 5 and parent < 0:
        raise UserError("m.jsonl:5: found five")
    if number == 6 and parent < 0:
        raise KeyError("six")
    if number == 3 and os.getpid() != parent > 0:
        os._exit(1)
    return number * number, "jax" in sys.modules


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    results = parallel_map(square, ((n, 0) for n in range(40)), workers=workers)
    assert [square for square, _ in results] == [n * n for n in range(40)]


def test_children_do_not_import_jax():
    assert not any(imported for _, imported in parallel_map(square, ((n, 0) for n in range(4)), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_is_raised(workers):
    with pytest.raises(UserError, match="m.jsonl:5: found five"):
        list(parallel_map(square, ((n, -1) for n in range(40)), workers=workers))
    with pytest.raises((KeyError, RuntimeError), match="six"):
        list(parallel_map(square, ((n, -1) for n in (6, 5)), workers=workers))


def test_what_a_dead_child_left_is_done_here():
    results = parallel_map(square, ((n, os.getpid()) for n in range(8)), workers=2)
    assert [square for square, _ in results] == [n * n for n in range(8)]


def test_an_abandoned_map_ends_its_children():
    results = parallel_map(square, ((n, 0) for n in range(1000)), workers=2)
    assert next(results)[0] == 0
    results.close()
