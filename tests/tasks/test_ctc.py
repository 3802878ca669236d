"""The recognition task: padding, bucket and batch mates change nothing; one device or eight give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.audio.config import AugmentConfig
from speech_jax.core.placement import put_batch
from speech_jax.core.types import Bucket
from speech_jax.models.config import ConformerConfig, CRNNConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import ctc_task
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import train_tokenizer
from speech_jax.training.config import MeshConfig
from speech_jax.training.sharding import make_mesh

TOKENIZER = train_tokenizer(["the quick brown fox jumps over a lazy dog"], TokenizerConfig())
CONFORMER = ConformerConfig(
    width=16, layers=2, heads=2, kernel_size=5, subsampling="dw_striding", subsampling_channels=8
)
CRNN = CRNNConfig(width=16, layers=1, subsampling="dw_striding", subsampling_channels=8)


def make_batch(seed: int, lengths, *, samples: int, labels: int = 6) -> dict:
    """Noise bursts of the given lengths with random labels, zero padding; a length of 0 is a filler row."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    audio = np.zeros((rows, samples), np.float32)
    for row, length in enumerate(lengths):
        audio[row, :length] = 0.1 * np.random.default_rng(seed + row).standard_normal(length)
    real = np.asarray(lengths) > 0
    return {
        "audio": audio,
        "audio_lengths": np.asarray(lengths, np.int32),
        "labels": rng.integers(1, TOKENIZER.vocab_size, (rows, labels)).astype(np.int32),
        "label_lengths": np.where(real, labels - np.arange(rows) % 2, 0).astype(np.int32),
        "index": np.where(real, np.arange(rows), -1).astype(np.int32),
    }


@pytest.fixture(scope="module", params=["conformer", "crnn"])
def made(request):
    """A task with its parameters, moved away from their initial values so that no bias or scale is trivial."""
    config = CTCTaskConfig(model=CONFORMER if request.param == "conformer" else CRNN)
    task = ctc_task(config, TOKENIZER)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), task.batch_spec(Bucket(2, 8000, 6)))
    params, model_state = jax.jit(task.model.init)(jax.random.key(0), zeros)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return task, jax.tree.unflatten(tree, leaves), model_state


def scores(made, batch):
    task, params, model_state = made
    outputs, _ = jax.jit(lambda p, m, b: task.model.apply(p, m, b))(params, model_state, batch)
    return np.asarray(jax.nn.log_softmax(outputs["logits"])), np.asarray(outputs["mask"])


def test_bucket_batch_mates_and_garbage_in_the_padding_change_nothing(made):
    alone = make_batch(3, [7000], samples=8000)
    expected, mask = scores(made, alone)
    frames = mask[0].sum()
    assert 0 < frames < mask.shape[1] + 1
    mates = make_batch(3, [7000, 12000, 500], samples=12800)
    mates["audio"][0, 7000:] = np.nan
    found, found_mask = scores(made, mates)
    assert found_mask[0].sum() == frames
    np.testing.assert_allclose(found[0, :frames], expected[0, :frames], atol=1e-5)


def test_filler_rows_weigh_nothing_in_loss_and_gradient(made):
    task, params, model_state = made
    full = make_batch(5, [7000, 6000], samples=8000)
    filled = make_batch(5, [7000, 6000, 0, 0], samples=8000)
    filled = {name: np.concatenate([full[name], filled[name][2:]]) for name in full}
    filled["audio"][2:] = np.nan

    def loss(params, batch):  # evaluation mode: dropout would draw other numbers for another batch shape
        outputs, _ = task.model.apply(params, model_state, batch)
        from speech_jax.tasks.ctc_task import _losses

        total, labels, rows, _ = _losses(outputs, batch)
        return total / labels, rows

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (expected, rows), expected_gradient = value_and_grad(params, full)
    (found, found_rows), gradient = value_and_grad(params, filled)
    assert rows == found_rows == 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected_gradient))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_one_device_and_eight_agree(made):
    task, params, model_state = made
    batch = make_batch(7, [8000, 7000, 6000, 5000, 4000, 3000, 2500, 0], samples=8000, labels=3)

    def loss(params, batch):
        out = task.objective(params, model_state, batch, jax.random.key(2), jnp.zeros((), jnp.int32))
        return out.value, out.weight

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    results = []
    for mesh in (make_mesh(MeshConfig(), jax.devices()[:1]), make_mesh(MeshConfig(), jax.devices()[:8])):
        results.append(jax.device_get(value_and_grad(params, put_batch(batch, mesh))))
    (one, one_gradient), (eight, eight_gradient) = results
    assert one[1] == eight[1] > 0
    np.testing.assert_allclose(one[0], eight[0], rtol=1e-5)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(one_gradient)))
    difference = jax.tree.map(lambda a, b: a - b, one_gradient, eight_gradient)
    assert np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(difference))) <= 1e-5 * norm


def test_labels_that_do_not_fit_are_counted_and_the_loss_stays_finite(made):
    task, params, model_state = made
    batch = make_batch(9, [8000, 600], samples=8000)  # 600 samples are one encoder frame: five labels cannot fit
    out = jax.jit(task.objective)(params, model_state, batch, jax.random.key(0), 0)
    misfits, rows = out.metrics["labels_do_not_fit"]
    assert (misfits, rows) == (1, 2)
    assert out.weight == batch["label_lengths"][0]
    assert np.isfinite(out.value)


def test_a_recognizer_that_outputs_only_blanks_is_counted_and_named(made):
    task, params, model_state = made
    batch = make_batch(13, [7000, 6000, 0], samples=8000)
    objective = jax.jit(task.objective)
    frames, labels = objective(params, model_state, batch, jax.random.key(0), 0).metrics["nonblank"]
    assert frames > 0 and labels == batch["label_lengths"][:2].sum()
    head = params["head"]
    blank = params | {"head": head | {"bias": head["bias"].at[0].set(100.0)}}
    assert objective(blank, model_state, batch, jax.random.key(0), 0).metrics["nonblank"] == (0, labels)
    report = task.evaluate(blank, model_state, [batch])
    assert report.metrics["wer"] == 1 and report.notes == ("all transcripts are empty",)
    no_text = batch | {"label_lengths": np.zeros_like(batch["label_lengths"])}
    assert task.evaluate(blank, model_state, [no_text]).notes == ()


def test_augmentation_draws_by_step_and_utterance_only():
    config = CTCTaskConfig(model=CONFORMER, augment=AugmentConfig(speed=(0.9, 1.1), freq_masks=2, time_masks=2))
    task = ctc_task(config, TOKENIZER)
    batch = make_batch(11, [8000, 7000], samples=8000)
    params, model_state = jax.jit(task.model.init)(jax.random.key(0), batch)
    objective = jax.jit(task.objective)
    values = [float(objective(params, model_state, batch, jax.random.key(k), 0).value) for k in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_evaluation_reports_error_rates_and_transcripts(made):
    task, params, model_state = made
    batch = make_batch(13, [7000, 6000, 0], samples=8000)
    report = task.evaluate(params, model_state, [batch])
    assert set(report.metrics) == {"loss", "wer", "cer"} == set(task.metrics)
    assert np.isfinite(list(report.metrics.values())).all()
    assert [e["reference"] for e in report.examples] == [
        TOKENIZER.decode(batch["labels"][row, : batch["label_lengths"][row]]) for row in (0, 1)
    ]
    assert report.images["features"].shape[0] == 80 and report.notes == ()
