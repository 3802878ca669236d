"""torchaudio's Conformer in: against torchaudio 2.11, as an ordinary checkpoint, and all that has to be said."""

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from speech_jax import convert, transcribe
from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.inference.recognizer import load_recognizer
from speech_jax.interop.config import TorchaudioConfig
from speech_jax.interop.tensors import read_torch, write_safetensors, write_torch
from speech_jax.interop.torchaudio import read_torchaudio
from speech_jax.models.config import PlainConformerConfig
from speech_jax.models.plain_conformer import plain_conformer_ctc
from speech_jax.runs.train import train
from speech_jax.tasks.ctc_task import build_model, output_frames
from speech_jax.training.config import TrainerConfig
from tests.support.contracts import check_layer

GOLDEN = Path(__file__).parent / "golden"
LETTERS = "|abcdefghij"
SAID = {
    "torchaudio_batch": TorchaudioConfig(heads=4, head="output_linear", features="kaldi"),
    "torchaudio_group": TorchaudioConfig(
        heads=2, head="model.output_linear", projection="model.input_linear", features="torch", convolution_first=True,
        blank=-1,
    ),
}  # fmt: skip


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("\n".join(LETTERS) + "\n")
    return str(path)


def read(name, tokens, **changes):
    return read_torchaudio(GOLDEN / f"{name}.pt", dataclasses.replace(SAID[name], tokens=tokens, **changes))


@pytest.mark.parametrize("name", SAID)
def test_computes_what_torchaudio_computes_whatever_the_batch(name, tokens):
    golden = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    parts = read(name, tokens).parts
    rows = [golden[f"features_{row}"] for row in range(3)]
    x = np.full((3, 64, rows[0].shape[1]), np.nan, np.float32)
    mask = np.arange(64) < np.array([[len(r)] for r in rows])
    for row, features in enumerate(rows):
        x[row, : len(features)] = features
    model = build_model(parts.task, parts.tokenizer.vocab_size)
    batch = {"features": x, "mask": mask}
    out, _ = jax.jit(lambda p, s, b: model.apply(p, s, b, train=False))(parts.params, parts.model_state, batch)
    scores = np.roll(jax.nn.log_softmax(out["logits"]), -1 if name == "torchaudio_group" else 0, axis=-1)
    np.testing.assert_array_equal(out["mask"], mask)
    for row, features in enumerate(rows):
        np.testing.assert_allclose(scores[row, : len(features)], golden[f"log_probs_{row}"], atol=1e-4)


@pytest.mark.parametrize(
    "change", [{}, {"conv_norm": "group", "convolution_first": True, "width": 6, "projection": True}]
)
def test_padding_and_batch_mates_change_nothing(change):
    config = dataclasses.replace(
        PlainConformerConfig(num_features=8, width=8, layers=2, heads=2, hidden=5, kernel_size=3), **change
    )
    model = plain_conformer_ctc(config, 5)
    x = np.random.default_rng(0).normal(size=(3, 21, 8)).astype(np.float32)
    mask = np.arange(21) < np.array([20, 14, 5])[:, None]
    params, state = jax.jit(model.init)(jax.random.key(0), {"features": x, "mask": mask})

    def apply(x, mask):
        out, _ = model.apply(params, state, {"features": x, "mask": mask}, key=None, train=False)
        return jax.nn.log_softmax(out["logits"]), out["mask"]

    check_layer(apply, x, mask)

    def loss(params, key, remat):
        own = plain_conformer_ctc(dataclasses.replace(config, remat=remat), 5)
        out, _ = own.apply(params, state, {"features": x, "mask": mask}, key=key, train=True)
        return jnp.where(mask[..., None], out["logits"], 0.0).std()

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    plain, again, other = (
        gradient(params, jax.random.key(k), remat) for k, remat in ((0, False), (0, True), (1, True))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)
    assert not np.allclose(*(g["encoder"]["layers_0"]["conv"]["pointwise_conv1"]["kernel"] for g in (again, other)))


def test_becomes_an_ordinary_checkpoint_and_fine_tunes(tokens, tmp_path, capsys):
    arguments = [str(GOLDEN / "torchaudio_batch.pt"), "--out", str(tmp_path / "ours"), "--tokens", tokens]
    flags = ["--heads", "4", "--head", "output_linear", "--features", "kaldi"]
    assert convert.main([*arguments, *flags]) == 0
    said = capsys.readouterr().err
    assert "kaldi, 24 per frame" in said and "2 tensors not used: an unused counter" in said
    recognizer = load_recognizer(tmp_path / "ours")
    assert (recognizer.factor, recognizer.frame_seconds) == (1, 0.01)
    rng = np.random.default_rng(0)
    rows = []
    for i, n in enumerate((16_000, 12_345)):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(n), 16000)
        rows.append(json.dumps({"id": str(i), "audio": f"{i}.wav", "text": "a bad cab", "seconds": n / 16000}))
    (tmp_path / "m.jsonl").write_text("\n".join(rows) + "\n")
    assert transcribe.main([str(tmp_path / "0.wav"), "--checkpoint", str(tmp_path / "ours")]) == 0
    config = TrainConfig(
        out_dir=str(tmp_path / "tuned"),
        data=DataConfig((SourceConfig(path=str(tmp_path / "m.jsonl")),), PlanConfig(num_buckets=1)),
        init_from=str(tmp_path / "ours"),
        trainer=TrainerConfig(steps=1),
    )
    train(config)
    tuned = load_recognizer_parts(config.out_dir)
    assert isinstance(tuned.task.model, PlainConformerConfig) and output_frames(16_000, tuned.task) == 98


# ---- what the file does not say, and what is refused


def test_tokens_with_and_without_the_blank_are_the_same(tokens, tmp_path):
    expected = read("torchaudio_batch", tokens).parts.tokenizer
    assert expected.pieces == ("<blank>", " ", *"abcdefghij") and expected.decode([2, 1, 3]) == "a b"
    with_blank = tmp_path / "all.txt"
    with_blank.write_text("-\n" + "\n".join(LETTERS))
    assert read("torchaudio_batch", str(with_blank)).parts.tokenizer == expected
    with_blank.write_text("\n".join(LETTERS) + "\n-\n")
    assert read("torchaudio_group", str(with_blank)).parts.tokenizer == expected


def test_features_can_be_a_file_and_a_state_dict_safetensors(tokens, tmp_path):
    expected = read("torchaudio_batch", tokens).parts
    audio = tmp_path / "audio.json"
    audio.write_text(json.dumps({"num_mels": 24, "hop": 200, "normalize": "none"}))
    found = read("torchaudio_batch", tokens, features=str(audio)).parts
    assert (found.task.audio.num_mels, found.task.audio.hop) == (24, 200)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {f"net.{n}": a for n, a in read_torch(GOLDEN / "torchaudio_batch.pt").items()})
    said = dataclasses.replace(SAID["torchaudio_batch"], tokens=tokens, head="net.output_linear")
    jax.tree.map(np.testing.assert_array_equal, read_torchaudio(path, said).parts.params, expected.params)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"heads": 0, "tokens": ""}, r"expected --heads, --tokens too, .* other linear layers: output_linear"),
        ({"heads": 5}, "--heads: found 5, expected a divisor of the network's width 24"),
        ({"heads": -2}, "--heads: found -2, expected a divisor"),
        ({"head": "fc"}, "no tensor 'fc.weight'"),
        ({"projection": "input_linear"}, "no tensor 'input_linear.weight'"),
        ({"blank": 12}, "--blank: found 12, expected a class of 0 to 11"),
        ({"features": "mel"}, "--features: found 'mel', expected one of nemo, kaldi"),
        ({"features": "missing.json"}, "missing.json: No such file"),
        ({"tokens": "missing.txt"}, "missing.txt: No such file"),
    ],
)
def test_what_must_be_said_is_asked_for_in_one_line(tokens, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        read("torchaudio_batch", **{"tokens": tokens} | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [("a\nb\n", "found 2 tokens, expected 12, or 11"), ("ab\n" + "\n".join(LETTERS[1:]), "found token 'ab'")],
)
def test_tokens_must_fit(tmp_path, text, message):
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read("torchaudio_batch", str(path))


Q = "encoder.conformer_layers.1.self_attn.in_proj_weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(Q), "found no tensor 'encoder.conformer_layers.1.self_attn.q.weight'"),
        (lambda t: t.update({Q: np.zeros((71, 24), np.float32)}), "expected queries, keys and values"),
        (lambda t: t.update({Q: np.zeros((72, 23), np.float32)}), r"linear_k/kernel' with shape \(23, 24\)"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "tensor 'extra' with shape .* neither the Conformer nor"),
        (lambda t: t[Q].__setitem__((0, 0), np.nan), "NaN or infinity in .*linear_q/kernel"),
        (lambda t: [t.pop(n) for n in list(t) if "layers.0" in n], "found 35 tensors of an unknown network"),
    ],
)
def test_every_tensor_must_fit(tokens, tmp_path, change, message):
    tensors = {name: np.array(a) for name, a in read_torch(GOLDEN / "torchaudio_batch.pt").items()}
    change(tensors)
    write_torch(tmp_path / "x.pt", tensors)
    flags = ["--heads", "4", "--head", "output_linear", "--features", "kaldi", "--tokens", tokens]
    with pytest.raises(UserError, match=message):
        convert.main([str(tmp_path / "x.pt"), "--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("hacked"),))


def test_hostile_and_cut_off_files_are_refused(tokens, tmp_path):
    whole = (GOLDEN / "torchaudio_batch.pt").read_bytes()
    said = dataclasses.replace(SAID["torchaudio_batch"], tokens=tokens)
    for size in (100, 5000, len(whole) // 2):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut.pt: found"):
            read_torchaudio(tmp_path / "cut.pt", said)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": Evil()}))
    (tmp_path / "evil.pt").write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="evil.pt: found"):
        read_torchaudio(tmp_path / "evil.pt", said)
    assert not Path("hacked").exists()
