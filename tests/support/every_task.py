"""Every task, tiny and without dropout, with a batch of uneven rows: for properties that all of them must have."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.audio.presets import nvidia_tacotron2
from speech_jax.core.types import Task
from speech_jax.finetuning.adapters import with_adapters
from speech_jax.finetuning.config import AdapterConfig
from speech_jax.models.config import (
    AttentionConfig,
    ConditionConfig,
    ConformerConfig,
    CRNNConfig,
    PlainConformerConfig,
    Tacotron2Config,
    WaveNetConfig,
)
from speech_jax.models.g2p import G2PConfig
from speech_jax.objectives.mix import mix
from speech_jax.tasks.ctc import CTCTaskConfig, TeacherConfig
from speech_jax.tasks.ctc_task import Teacher, build_model, ctc_task
from speech_jax.tasks.g2p import Entry, g2p_task, word_batches, word_plan
from speech_jax.tasks.pretrain import BestRQConfig, ContrastiveConfig, PretrainTaskConfig
from speech_jax.tasks.pretrain_task import pretrain_task, shared_objective, with_pretext
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import make_front_end
from speech_jax.text.tokenizer import BLANK, Tokenizer

ROWS = 8
TOKENIZER = Tokenizer("char", (BLANK, *"abcde"))
NO_AUGMENT = AugmentConfig(freq_masks=0, time_masks=0)
NO_DROPOUT = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_att": 0.0}
CONFORMER = ConformerConfig(
    width=16, layers=2, heads=2, kernel_size=5, subsampling="dw_striding", subsampling_channels=8, **NO_DROPOUT
)
PLAIN = PlainConformerConfig(width=16, layers=1, heads=2, hidden=32, kernel_size=5, dropout=0.0, projection=True)
TACOTRON = Tacotron2Config(
    embedding=16, encoder_layers=1, encoder_width=16, prenet=16, attention_rnn=24, decoder_rnn=24, postnet_layers=2,
    postnet=16, attention=AttentionConfig(width=16, filters=4, filter_length=5), prenet_dropout=0.0, conv_dropout=0.0,
    held_rate=0.0, reduction=4,
)  # fmt: skip
WAVENET = WaveNetConfig(
    layers=4, cycles=1, kernel_size=2, residual=16, gate=32, skip=16, head=16, mixtures=2,
    condition=ConditionConfig(width=16, context=1),
)  # fmt: skip


def speech(rate: int = 16_000, seconds: float = 1.0, labels: int = 8, symbols: int = 6, seed: int = 0) -> dict:
    """Return a batch: rows of uneven lengths and texts, one of padding, one whose text does not fit, one silent."""
    rng = np.random.default_rng(seed)
    samples = int(rate * seconds)
    lengths = np.array([1.0, 0.3, 0.85, 0.5, 0.12, 0.95, 0.0, 0.7]) * samples
    audio = np.zeros((ROWS, samples), np.float32)
    for row, length in enumerate(lengths.astype(int)):
        audio[row, :length] = 0.1 * np.sin(0.03 * (row + 2) * np.arange(length)) + 0.01 * rng.normal(size=length)
    audio[7, 800:] = 0.0
    return {
        "audio": audio,
        "audio_lengths": lengths.astype(np.int32),
        "labels": rng.integers(1, symbols, (ROWS, labels)).astype(np.int32),
        "label_lengths": np.array([8, 1, 5, 3, 8, 2, 0, 0], np.int32),  # row 4 has too many for its frames
        "index": np.array([3, 14, 5, 9, 2, 6, -1, 8], np.int32),
    }


def _ctc(model, teacher: TeacherConfig | None = None, **changes) -> tuple[Task, dict]:
    config = CTCTaskConfig(model=model, audio=AudioConfig(dither=0.0), augment=NO_AUGMENT, **changes)
    old = None
    if teacher is not None:
        network = build_model(config, TOKENIZER.vocab_size)
        spec = {"features": jnp.zeros((1, 64, 80)), "mask": jnp.ones((1, 64), bool)}
        old = Teacher(teacher, network, *network.init(jax.random.key(9), spec))
    return ctc_task(config, TOKENIZER, old), speech()


def _pretraining(method: str, model=CONFORMER) -> PretrainTaskConfig:
    return PretrainTaskConfig(
        method=method, model=model, audio=AudioConfig(dither=0.0), augment=NO_AUGMENT, hidden_span=4,
        best_rq=BestRQConfig(codes=32, codebooks=2), contrastive=ContrastiveConfig(codes=16, width=16, distractors=8),
    )  # fmt: skip


def _shared(method: str, model=CONFORMER) -> tuple[Task, dict]:
    """L_pre and CTC on the same recordings, from one forward pass."""
    config, batch = _pretraining(method, model), speech()
    ctc = CTCTaskConfig(model=model, audio=config.audio, augment=NO_AUGMENT)
    task = with_pretext(ctc_task(ctc, TOKENIZER), pretrain_task(config))
    return task._replace(objective=shared_objective(ctc, config, TOKENIZER, 0.3)), batch


def _mixed(model=CONFORMER) -> tuple[Task, dict]:
    """L_pre on recordings of its own."""
    pretext = pretrain_task(_pretraining("best_rq", model))
    task = with_pretext(_ctc(model)[0], pretext)
    batch = {"pre": speech(seed=1), "task": speech(seed=2)}
    return task._replace(objective=mix(pretext.objective, task.objective, 0.3)), batch


def _adapted(kind: str, model=CONFORMER) -> tuple[Task, dict]:
    task, batch = _ctc(model)
    return with_adapters(task, AdapterConfig(kind, rank=2)), batch


def _tacotron2(**changes) -> tuple[Task, dict]:
    audio = dataclasses.replace(nvidia_tacotron2(), num_mels=20, hop=512)
    front_end = make_front_end(FrontEndConfig())
    task = Tacotron2TaskConfig(model=TACOTRON, audio=audio, guided=1.0, **changes).build(front_end)
    return task, speech(22_050, 0.6, symbols=front_end.vocab_size)


def _wavenet() -> tuple[Task, dict]:
    audio = dataclasses.replace(
        nvidia_tacotron2(), sample_rate=4_000, window=64, hop=32, n_fft=64, num_mels=10, fmax=2_000.0
    )
    return WaveNetTaskConfig(model=WAVENET, audio=audio, crop_frames=8, clip_seconds=0.0).build(None), speech(4_000)


def _g2p() -> tuple[Task, dict]:
    pronunciations = {"cat": "K AE1 T", "dog": "D AO1 G", "fox": "F AA1 K S", "ox": "AA1 K S", "cats": "K AE1 T S"}
    pronunciations |= {"banana": "B AH0 N AE1 N AH0", "dogs": "D AO1 G Z"}
    words = [Entry(word, tuple(phones.split())) for word, phones in pronunciations.items()]
    task = g2p_task(G2PConfig(width=12, embedding=8, dropout=0.0), words, {word.word: [word.phones] for word in words})
    return task, next(word_batches(words, word_plan(words, rows=ROWS, shuffle=False)))


BATCH_NORM = dataclasses.replace(CONFORMER, conv_norm="batch")
LAYER_NORM = dataclasses.replace(CONFORMER, conv_norm="layer")
DISTILL = TeacherConfig("teacher", weight=0.5, hidden=0.3, temperature=2.0)
TASKS: dict[str, Callable[[], tuple[Task, dict]]] = {
    "ctc": lambda: _ctc(LAYER_NORM),
    "ctc of a crnn": lambda: _ctc(CRNNConfig(width=16, layers=1, subsampling="dw_striding", subsampling_channels=8,
                                             dropout=0.0)),
    "ctc of a plain conformer": lambda: _ctc(PLAIN),
    "ctc with a teacher": lambda: _ctc(LAYER_NORM, DISTILL),
    "best_rq": lambda: (pretrain_task(_pretraining("best_rq", LAYER_NORM)), speech()),
    "autoencoder": lambda: (pretrain_task(_pretraining("autoencoder", LAYER_NORM)), speech()),
    "contrastive": lambda: (pretrain_task(_pretraining("contrastive", LAYER_NORM)), speech()),
    "ctc and best_rq in one pass": lambda: _shared("best_rq", LAYER_NORM),
    "ctc and contrastive in one pass": lambda: _shared("contrastive", LAYER_NORM),
    "ctc mixed with best_rq": lambda: _mixed(LAYER_NORM),
    "lora": lambda: _adapted("lora", LAYER_NORM),
    "bottleneck": lambda: _adapted("bottleneck", LAYER_NORM),
    "ctc, batch norm": lambda: _ctc(BATCH_NORM),
    "ctc with a teacher, batch norm": lambda: _ctc(BATCH_NORM, DISTILL),
    "best_rq, batch norm": lambda: (pretrain_task(_pretraining("best_rq", BATCH_NORM)), speech()),
    "ctc mixed with best_rq, batch norm": lambda: _mixed(BATCH_NORM),
    "lora, batch norm": lambda: _adapted("lora", BATCH_NORM),
    "tacotron2": _tacotron2,
    "wavenet": _wavenet,
    "g2p": _g2p,
}  # fmt: skip


def initial(task: Task, batch: dict, seed: int = 0):
    """Return (params, model_state), moved away from their initial values so that no bias or scale is trivial."""
    rows = batch["task"] if "task" in batch else batch
    params, model_state = jax.jit(task.model.init)(jax.random.key(seed), jax.tree.map(jnp.zeros_like, rows))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, leaves), model_state
