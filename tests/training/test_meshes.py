"""Every model and every pre-training task on meshes of eight fake devices: the numbers are those of one."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from speech_jax.audio.config import AugmentConfig
from speech_jax.audio.presets import nvidia_tacotron2, waveform
from speech_jax.core.placement import put_batch
from speech_jax.core.rules import named_leaves
from speech_jax.core.types import Bucket
from speech_jax.models.config import (
    AttentionConfig,
    ConformerConfig,
    CRNNConfig,
    PlainConformerConfig,
    Tacotron2Config,
    Wav2Vec2Config,
)
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.pretrain import PretrainTaskConfig
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.training.config import MeshConfig, OptimizerConfig, StepConfig
from speech_jax.training.optimizer import learning_rate, make_optimizer, trainable
from speech_jax.training.sharding import make_mesh
from speech_jax.training.state import init_shapes, make_state
from tests.support.single_step import make_step

STEPS = 5
CONFORMER = ConformerConfig(
    width=16, layers=2, heads=2, kernel_size=3, subsampling_channels=8, dropout=0.1, conv_norm="batch"
)
FAST = dataclasses.replace(CONFORMER, subsampling="dw_striding", subsampling_factor=8, conv_norm="layer")
AUGMENT = AugmentConfig(freq_masks=1, freq_width=8, time_masks=1)
VOICE = Tacotron2TaskConfig(
    model=Tacotron2Config(
        embedding=8, encoder_layers=1, encoder_width=8, prenet=8, attention_rnn=12, decoder_rnn=12, postnet_layers=2,
        postnet=8, attention=AttentionConfig(kind="location", width=8), reduction=2,
    ),
    audio=dataclasses.replace(nvidia_tacotron2(), sample_rate=16_000, num_mels=20, hop=320),
    guided=1.0,
)  # fmt: skip
TASKS = {
    "conformer": CTCTaskConfig(model=CONFORMER, augment=AUGMENT),
    "fastconformer": CTCTaskConfig(model=FAST, augment=AUGMENT),
    "scanned": CTCTaskConfig(model=dataclasses.replace(CONFORMER, scan_layers=True, remat=True)),
    "crnn": CTCTaskConfig(model=CRNNConfig(width=8, layers=2, subsampling_channels=4)),
    "plain_conformer": CTCTaskConfig(
        model=PlainConformerConfig(width=16, layers=1, heads=2, kernel_size=3, projection=True)
    ),
    "wav2vec2": CTCTaskConfig(
        model=Wav2Vec2Config(
            width=16, layers=1, heads=2, hidden=32, conv_width=(8,) * 7, position_kernel=4, position_groups=2
        ),
        audio=waveform(),
    ),
    "best_rq": PretrainTaskConfig(method="best_rq", model=CONFORMER),
    "autoencoder": PretrainTaskConfig(method="autoencoder", model=CONFORMER),
    "contrastive": PretrainTaskConfig(method="contrastive", model=CONFORMER),
    "tacotron2": VOICE,
}
MESHES = {
    "1x1x1": MeshConfig(data=1), "8x1x1": MeshConfig(data=8), "2x4x1": MeshConfig(data=2, fsdp=4, min_shard=1),
    "2x2x2": MeshConfig(data=2, fsdp=2, tensor=2, min_shard=1),
}  # fmt: skip


def a_task(name):
    config = TASKS[name]
    return config.build(config.placeholder_reader(16))  # 16 with the blank: tensor divides it


def a_batch(task, rows=8, seconds=0.8, labels=6):
    """Noise, and random labels: padded rows of different lengths."""
    rng = np.random.default_rng(1)
    spec = task.batch_spec(Bucket(rows, int(16_000 * seconds), labels))
    lengths = rng.integers(6000, spec["audio"].shape[1] + 1, rows).astype(np.int32)
    batch = {name: np.zeros(s.shape, s.dtype) for name, s in spec.items()}
    batch["audio"] = 0.1 * rng.normal(size=spec["audio"].shape).astype(np.float32)
    batch["audio"] *= np.arange(spec["audio"].shape[1])[None] < lengths[:, None]
    batch["audio_lengths"], batch["index"] = lengths, np.arange(rows, dtype=np.int32)
    if "labels" in batch:
        batch["labels"] = rng.integers(1, 12, spec["labels"].shape).astype(np.int32)
        batch["label_lengths"] = rng.integers(2, labels + 1, rows).astype(np.int32)
    return batch


@functools.cache
def outcome(name, mesh_name):
    """(losses of five steps, norm of the gradient at each, parameters after them, how the state lies)."""
    config = MESHES[mesh_name]
    mesh = make_mesh(config, jax.devices()[: 1 if mesh_name == "1x1x1" else 8])
    task = a_task(name)
    host = a_batch(task)
    spec = task.batch_spec(Bucket(*host["audio"].shape, 6))
    params, _ = init_shapes(task.model, spec, 0)
    # A large eps: a bias before a norm has no gradient but rounding, which Adam would otherwise blow up to whole steps.
    settings = OptimizerConfig(peak_lr=1e-3, warmup_steps=2, eps=1e-3)
    make, _, shardings = make_state(
        task.model, spec, lambda p: make_optimizer(settings, p, 100), mesh, config, seed=0, ema=False,
        rules=task.sharding,
    )  # fmt: skip
    step = make_step(
        task.objective, make_optimizer(settings, params, 100), trainable(settings, params), StepConfig(), seed=0,
        mesh=mesh, rate=learning_rate(settings, 100),
    )  # fmt: skip
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None, None))
    state, losses, norms = make(), [], []
    lying = {leaf: x.sharding.shard_shape(x.shape) for leaf, x in named_leaves(state.params).items()}
    batch = put_batch(host, mesh)
    for _ in range(STEPS):
        state, logs, finite = jitted(state, batch)
        assert bool(finite.all())
        losses.append(float(logs["loss"][0]))
        norms.append(float(logs["grad_norm"][0]))
    return losses, norms, jax.device_get(state.params), lying


@pytest.mark.parametrize("mesh", [m for m in MESHES if m != "1x1x1"])
@pytest.mark.parametrize("name", TASKS)
def test_five_steps_are_those_of_one_device(name, mesh):
    losses, norms, params, _ = outcome(name, "1x1x1")
    found_losses, found_norms, found, lying = outcome(name, mesh)
    np.testing.assert_allclose(found_losses[0], losses[0], rtol=1e-5)
    np.testing.assert_allclose(found_norms[0], norms[0], rtol=1e-4)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-4)
    assert min(norms) > 0 and losses[-1] != losses[0]
    for leaf, expected in named_leaves(params).items():
        far = np.mean(np.abs(named_leaves(found)[leaf] - expected))
        assert far <= 1e-5 + 1e-3 * np.mean(np.abs(expected)), leaf
    if mesh != "8x1x1":
        whole = sum(x.size for x in jax.tree.leaves(params))
        held = sum(math.prod(shape) for shape in lying.values())
        assert held < 0.6 * whole  # nothing large is whole on any device


def test_tensor_splits_heads_feed_forward_and_vocabulary():
    *_, params, lying = outcome("conformer", "2x2x2")
    shapes = {name: x.shape for name, x in named_leaves(params).items()}
    split = {
        "encoder/layers_0/self_attn/linear_q/kernel": (8, 8),
        "encoder/layers_0/self_attn/linear_out/kernel": (8, 8),
        "encoder/layers_0/self_attn/pos_bias_u": (1, 8),
        "encoder/layers_0/feed_forward1/linear1/kernel": (8, 32),
        "encoder/layers_0/feed_forward2/linear2/kernel": (32, 8),
        "head/kernel": (8, 8),
    }
    for name, shape in split.items():
        assert lying[name] == shape, (name, shapes[name])
