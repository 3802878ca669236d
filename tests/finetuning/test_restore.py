"""Starting from a checkpoint: what fits is taken as it is, what is new is initialized, what does not fit is named."""

import dataclasses

import jax
import numpy as np
import pytest

from speech_jax.artifacts.voice import load_voice_parts
from speech_jax.core.errors import UserError
from speech_jax.core.types import Model
from speech_jax.finetuning.restore import start_from
from speech_jax.finetuning.vocabulary import compare_vocabularies, move_tokens
from speech_jax.tasks.tacotron2_task import network_shapes
from speech_jax.training.state import init_shapes, init_values
from tests.inference.test_audio_output import voice  # noqa: F401
from tests.support import toy


@pytest.fixture(name="run", scope="module")
def make_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, toy.train(folder, steps=3).state


SPEC = toy.batch_spec(toy.BUCKETS[0])


def test_a_model_that_fits_is_taken_bit_for_bit(run):
    folder, state = run
    params_like, model_state_like = init_shapes(toy.MODEL, SPEC, 0)
    params, model_state = start_from(folder, params_like, model_state_like, ema=False)[:2]
    assert toy.digest(params) == toy.digest(state.params)
    assert toy.digest(model_state) == toy.digest(state.model_state)
    average = start_from(folder / "checkpoints" / "3", params_like, model_state_like).params
    assert toy.digest(average) == toy.digest(state.ema) != toy.digest(state.params)


def changed(change):
    def init(key, batch):
        params, model_state = toy.init(key, batch)
        change(params, model_state)
        return params, model_state

    return init_shapes(Model(init, toy.apply), SPEC, 0)


def wider(params, _):
    params["head"]["kernel"] = params["head"]["kernel"][:, :1].repeat(7, axis=1)


def more(params, _):
    params["adapter"] = params["head"]


def less(params, _):
    del params["encoder"]["hidden"]


def other_statistics(_, model_state):
    model_state["stats"]["mean"] = model_state["stats"]["mean"][:5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, r"the parameters: found 'head/kernel' with shape \(16, 1\), expected \(16, 7\)"),
        (more, r"the parameters: found no 'adapter/bias', expected it with shape \(1,\)"),
        (less, r"the parameters: found 'encoder/hidden/bias' with shape \(16,\), which the model does not have"),
        (other_statistics, r"the model state: found 'stats/mean' with shape \(16,\), expected \(5,\)"),
    ],
)
def test_what_does_not_fit_is_named_with_both_shapes(run, change, message):
    folder, _ = run
    with pytest.raises(UserError, match=message) as error:
        start_from(folder, *changed(change))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="found no checkpoint"):
        start_from(tmp_path, *init_shapes(toy.MODEL, SPEC, 0))


def model_of(change):
    def init(key, batch):
        params, model_state = toy.init(key, batch)
        change(params, model_state)
        return params, model_state

    return Model(init, toy.apply)


def start(folder, change, **options):
    model = model_of(change)
    values = init_values(model, SPEC, 7)
    found = start_from(folder, *init_shapes(model, SPEC, 7), init=lambda: values, ema=False, **options)
    return found, values


def test_new_layers_and_a_new_head_are_initialized_and_the_rest_is_taken(run):
    folder, state = run

    def change(params, _):
        wider(params, _)
        more(params, _)

    found, (fresh, _) = start(folder, change, fresh=("^head/", "^adapter/"))
    assert toy.digest(found.params["encoder"]) == toy.digest(state.params["encoder"])
    for part in ("head", "adapter"):
        assert toy.digest(found.params[part]) == toy.digest(fresh[part])
    assert set(found.fresh) == {"head/kernel", "head/bias", "adapter/kernel", "adapter/bias"}
    assert not found.dropped and found.vocabulary is None
    assert "reinitialized" in "\n".join(found.describe())


def test_what_the_checkpoint_has_too_much_is_left_behind_by_name_only(run):
    folder, _ = run
    found, _ = start(folder, less, drop=("^encoder/hidden/",))
    assert found.dropped == ("encoder/hidden/bias", "encoder/hidden/kernel") and "hidden" not in found.params["encoder"]


@pytest.mark.parametrize("option", ["fresh", "drop"])
def test_a_pattern_that_fits_nothing_is_refused(run, option):
    folder, _ = run
    message = f"start.{option}: found '.haed/', which fits no parameter; did you mean '.head/'"
    with pytest.raises(UserError, match=message):
        start(folder, lambda *_: None, **{option: ("^haed/",)})
    with pytest.raises(UserError, match="expected a regular expression"):
        start(folder, lambda *_: None, **{option: ("(",)})


def test_tokens_move_by_their_string():
    rng = np.random.default_rng(0)
    old, new = ("<blank>", "a", "b", "c"), ("<blank>", "c", "x", "a", "y")
    learned, fresh = rng.normal(size=(3, 4)), rng.normal(size=(3, 5))
    found = move_tokens(learned, fresh, old, new)
    np.testing.assert_array_equal(found, np.stack(
        [learned[:, 0], learned[:, 3], fresh[:, 2], learned[:, 1], fresh[:, 4]], axis=1))  # fmt: skip
    change = compare_vocabularies(old, new)
    assert change == (("<blank>", "c", "a"), ("x", "y"), ("b",))
    assert change.describe() == "vocabulary: 3 kept, 2 new ('x' 'y'), 1 dropped ('b')"
    with pytest.raises(UserError, match="expected as many"):
        move_tokens(learned, fresh, old[:3], new)


def test_a_head_of_the_same_size_but_other_tokens_is_not_taken_by_number(run):
    """Where a toolkit goes by the size alone, the new head starts as garbage."""
    folder, state = run
    found, (fresh, _) = start(folder, lambda *_: None, tokens=(("a",), ("b",)))
    assert toy.digest(found.params["head"]) == toy.digest(fresh["head"]) != toy.digest(state.params["head"])
    assert toy.digest(found.params["encoder"]) == toy.digest(state.params["encoder"])
    found, _ = start(folder, lambda *_: None, tokens=(("a",), ("a",)))
    assert toy.digest(found.params) == toy.digest(jax.device_get(state.params))


def test_speakers_keep_their_vectors_and_new_ones_begin_as_the_mean(voice):  # noqa: F811
    old = load_voice_parts(voice)
    names = ("joe", "zoe", "pat")
    task = dataclasses.replace(old.task, model=dataclasses.replace(old.task.model, speakers=len(names)))
    shapes = network_shapes(task, old.front_end.vocab_size)

    def init():
        return jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0, np.float32), shapes)

    found = start_from(voice, *shapes, init=init, speakers=(old.speakers, names))
    vectors = np.asarray(old.params["speakers"])
    np.testing.assert_array_equal(found.params["speakers"][0], vectors[old.speakers.index("joe")])
    for row in (1, 2):
        np.testing.assert_allclose(found.params["speakers"][row], vectors.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.params["embedding"], old.params["embedding"])
    assert found.speakers == (("joe",), ("zoe", "pat"), ("ann",))
    assert found.describe()[-1] == "speakers: 1 kept, 2 new ('zoe' 'pat'), 1 dropped ('ann')"
    same = start_from(voice, *network_shapes(old.task, old.front_end.vocab_size), speakers=(old.speakers,) * 2)
    assert same.speakers is None
    np.testing.assert_array_equal(same.params["speakers"], vectors)
