"""The programs in which a model is used, run on what compile lowers by its shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.core.types import Bucket
from speech_jax.models.config import ConformerConfig, Tacotron2Config, WaveNetConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig

BUCKET = Bucket(rows=2, samples=16000, labels=8)
TASKS = {
    "recognition": CTCTaskConfig(
        model=ConformerConfig(width=16, layers=1, heads=2, kernel_size=3, subsampling_channels=4, conv_norm="layer")
    ),
    "speech": Tacotron2TaskConfig(
        model=Tacotron2Config(embedding=8, encoder_width=8, prenet=8, attention_rnn=8, decoder_rnn=8, postnet=8)
    ),
    "waveform": WaveNetTaskConfig(
        model=WaveNetConfig(layers=4, cycles=2, kernel_size=2, residual=8, gate=16, skip=8, head=8)
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_each_is_a_function_of_weights_and_rows(name):
    use = TASKS[name].program(BUCKET, 12)
    assert use.name.startswith(name)
    assert {leaf.shape[0] for leaf in use.batch.values()} == {BUCKET.rows}
    found = jax.eval_shape(use.function, use.weights, use.batch)
    assert all(leaf.shape[0] == BUCKET.rows for leaf in jax.tree.leaves(found))


def test_the_waveform_is_drawn_from_its_condition():
    use = TASKS["waveform"].program(BUCKET, 0)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), use.weights)
    batch = {
        "condition": jnp.asarray(rng.standard_normal(use.batch["condition"].shape), jnp.float32),
        "seeds": jnp.asarray([[0, 1], [0, 2]], jnp.uint32),
    }
    audio = np.asarray(jax.jit(use.function)(weights, batch))
    other = np.asarray(jax.jit(use.function)(weights, batch | {"condition": -batch["condition"]}))
    assert np.isfinite(audio).all() and np.abs(audio).max() <= 1
    assert audio.std() > 0 and not np.allclose(audio[0], audio[1]) and not np.allclose(audio, other)


def test_what_only_trains_is_refused():
    with pytest.raises(UserError, match="PretrainTaskConfig: found a task that only trains"):
        PretrainTaskConfig().program(BUCKET, 12)
