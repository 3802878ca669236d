"""Starting from a checkpoint: what fits is taken as it is, what does not is named."""

import pytest

from speech_jax.errors import UserError
from speech_jax.finetuning.restore import start_from
from speech_jax.training.state import init_shapes
from speech_jax.types import Model
from tests.training import toy


@pytest.fixture(name="run", scope="module")
def make_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, toy.train(folder, steps=3).state


SPEC = toy.batch_spec(toy.BUCKETS[0])


def test_a_model_that_fits_is_taken_bit_for_bit(run):
    folder, state = run
    params_like, model_state_like = init_shapes(toy.MODEL, SPEC, 0)
    params, model_state = start_from(folder, params_like, model_state_like, ema=False)
    assert toy.digest(params) == toy.digest(state.params)
    assert toy.digest(model_state) == toy.digest(state.model_state)
    average, _ = start_from(folder / "checkpoints" / "3", params_like, model_state_like)
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
