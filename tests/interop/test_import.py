"""Public checkpoints in: features, network and tokenizer against NeMo 3.0 and transformers, and nothing hostile."""

import dataclasses
import gzip
import importlib
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from speech_jax import convert
from speech_jax.audio.features import extract_features
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.inference.recognizer import load_recognizer
from speech_jax.interop.nemo import CONFIG, WEIGHTS, read_nemo, write_nemo
from speech_jax.interop.parakeet import read_parakeet, write_parakeet
from speech_jax.interop.tensors import read_torch, write_torch
from speech_jax.tasks.ctc_task import build_model

GOLDEN = Path(__file__).parent / "golden"
SOURCES = {"conformer": "conformer.nemo", "fastconformer": "fastconformer.nemo", "parakeet": "parakeet"}


def read(name):
    path = GOLDEN / SOURCES[name]
    return (read_parakeet(path) if path.is_dir() else read_nemo(path)).parts


def log_probs(found, audio, lengths):
    """[batch, frames, classes] with the blank last, as the public packages have it, and the frames of each row."""
    model = build_model(found.task, found.tokenizer.vocab_size)

    def forward(params, model_state, audio, lengths):
        features, mask = extract_features(audio, lengths, found.task.audio)
        out, _ = model.apply(params, model_state, {"features": features, "mask": mask}, key=None, train=False)
        return jax.nn.log_softmax(out["logits"]), out["mask"]

    scores, mask = jax.jit(forward)(found.params, found.model_state, audio, lengths)
    return np.roll(np.asarray(scores), -1, axis=-1), np.asarray(mask).sum(1)


@pytest.mark.parametrize("name", SOURCES)
def test_computes_what_the_public_package_computes(name):
    golden = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    ours, frames = log_probs(read(name), golden["audio"], golden["lengths"])
    np.testing.assert_array_equal(frames, golden["out_lengths"])
    for row, n in enumerate(frames):
        np.testing.assert_allclose(ours[row, :n], golden["log_probs"][row, :n], atol=1e-4)


@pytest.mark.parametrize("name", SOURCES)
def test_becomes_an_ordinary_checkpoint(name, tmp_path, capsys):
    assert convert.main([str(GOLDEN / SOURCES[name]), "--out", str(tmp_path / "ours")]) == 0
    said = capsys.readouterr().err
    assert "front end 2" in said and "not used" in said
    golden = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    recognizer = load_recognizer(tmp_path / "ours")
    best = golden["log_probs"].argmax(-1)[0, : golden["out_lengths"][0]]
    blank = golden["log_probs"].shape[-1] - 1
    kept = [int(k) for i, k in enumerate(best) if k != blank and (i == 0 or best[i - 1] != k)]
    text = recognizer.tokenizer.decode([k + 1 for k in kept])
    found = recognizer.transcribe(golden["audio"][0, : golden["lengths"][0]]).text
    assert found == " ".join(text.split())
    with pytest.raises(UserError, match="found checkpoints of a run"):
        convert.main([str(GOLDEN / SOURCES[name]), "--out", str(tmp_path / "ours")])


def test_tokenizers_are_the_public_ones():
    words = "the quick brown fox sat on a lazy cat"
    expected = json.loads((GOLDEN / "tokens.json").read_text())
    for name in ("conformer", "parakeet"):
        assert [i - 1 for i in read(name).tokenizer.encode(words)] == expected[name]


def test_front_end_is_chosen_and_said(tmp_path):
    first, second = (read_nemo(GOLDEN / "conformer.nemo", n) for n in (1, 2))
    assert (first.parts.task.audio.framing, second.parts.task.audio.framing) == ("center", "center_even")
    assert "as given by --front-end" in first.notes[0]
    old = edit_config(tmp_path, lambda text: text.replace("nemo_version: 3.0.0", "nemo_version: 1.23.0"))
    assert read_nemo(old).parts.task.audio == first.parts.task.audio
    assert "written by NeMo 1.23.0" in read_nemo(old).notes[0]


# ---- out, and in again


@pytest.mark.parametrize("name", ["conformer", "fastconformer"])
def test_nemo_out_and_in_is_the_same(name, tmp_path):
    found = read(name)
    write_nemo(tmp_path / "out.nemo", *found[:4])
    again = read_nemo(tmp_path / "out.nemo").parts
    assert again.task == found.task and again.tokenizer == found.tokenizer
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.model_state), (found.params, found.model_state))


def test_parakeet_out_and_in_is_the_same(tmp_path):
    found = read("parakeet")
    write_parakeet(tmp_path / "out", *found[:4])
    again = read_parakeet(tmp_path / "out").parts
    assert again.task == found.task and again.tokenizer.pieces == found.tokenizer.pieces
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.model_state), (found.params, found.model_state))


def test_unknown_piece_is_added_for_sentencepiece(tmp_path):
    """Our own tokenizers have no <unk>; NeMo's must: it gets a class that never wins, and the rest stays equal."""
    found = read("conformer")
    tokenizer = found.tokenizer
    without = type(tokenizer)(
        tokenizer.kind, (*tokenizer.pieces[:1], *tokenizer.pieces[2:]), (0.0, *tokenizer.scores[2:]), ""
    )
    head = {k: np.delete(v, 1, axis=-1) for k, v in found.params["head"].items()}
    write_nemo(tmp_path / "x.nemo", found.task, without, {**found.params, "head": head}, found.model_state)
    again = read_nemo(tmp_path / "x.nemo").parts
    assert again.tokenizer.pieces == (*without.pieces, "<unk>")
    np.testing.assert_array_equal(again.params["head"]["kernel"][:, :-1], head["kernel"])
    assert again.params["head"]["bias"][-1] == -1e4


def as_hybrid(members, *, ctc=True):
    """Make a .nemo's members those of a hybrid model or, without its CTC head, of a transducer."""
    config = yaml.safe_load(members[CONFIG])
    if ctc:
        config["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": config["decoder"]}
    config["decoder"] = {"_target_": "nemo.collections.asr.modules.RNNTDecoder", "prednet": {"pred_hidden": 4}}
    config["joint"] = {"_target_": "nemo.collections.asr.modules.RNNTJoint"}
    members[CONFIG] = yaml.safe_dump(config).encode()


def test_the_ctc_head_of_a_hybrid_nemo_is_taken_and_the_transducer_named(tmp_path):
    def rename(tensors):
        for name in [n for n in tensors if n.startswith("decoder.")]:
            tensors[f"ctc_{name}"] = tensors.pop(name)
        tensors |= {"decoder.prediction.embed.weight": np.zeros((4, 4)), "joint.enc.weight": np.zeros((4, 4))}

    path = edit_weights(tmp_path, rename)
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    as_hybrid(members)
    found = read_nemo(edit_nemo(tmp_path, lambda m: m.update(members)))
    assert any("its transducer is left out" in note for note in found.notes)
    assert list(found.ignored.values()).count("of the transducer") == 2
    jax.tree.map(np.testing.assert_array_equal, found.parts.params, read("conformer").params)
    with pytest.raises(UserError, match="a transducer without a CTC head"):
        read_nemo(edit_nemo(tmp_path, lambda m: as_hybrid(m, ctc=False)))


def test_an_exported_nemo_has_what_nemo_reads_and_lengths_that_round_to_the_same(tmp_path):
    """With 24 bands at 22,050 Hz, a Hamming window, and bands without norm."""
    found = read("conformer")
    audio = dataclasses.replace(
        found.task.audio, sample_rate=22050, window=551, hop=221, n_fft=1024, window_shape="hamming_symmetric",
        mel_norm="none", normalize="none", fmax=8000.0,
    )  # fmt: skip
    task = dataclasses.replace(found.task, audio=audio)
    write_nemo(tmp_path / "x.nemo", task, *found[1:4])
    assert read_nemo(tmp_path / "x.nemo").parts.task == task
    with tarfile.open(tmp_path / "x.nemo") as tar:
        config = yaml.safe_load(tar.extractfile(f"./{CONFIG}"))
    assert config["validation_ds"] == {"use_start_end_token": False}  # NeMo 3.0 reads it when it transcribes
    with pytest.raises(UserError, match="features that NeMo's front end does not compute"):
        povey = dataclasses.replace(task, audio=dataclasses.replace(audio, window_shape="povey"))
        write_nemo(tmp_path / "y.nemo", povey, *found[1:4])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "run"
    assert convert.main([str(GOLDEN / "parakeet"), "--out", str(folder)]) == 0
    return str(folder)


@pytest.mark.parametrize("to", ["nemo", "parakeet", "tacotron2"])
def test_exports_overwrite_nothing(checkpoint, tmp_path, to):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("precious")
    folder.mkdir()
    (folder / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (file, folder, tmp_path / "link"):
        with pytest.raises(UserError, match="--out: found .*, which exists, expected a new path"):
            convert.main([checkpoint, "--to", to, "--out", str(out)])
    assert file.read_text() == (folder / "file").read_text() == "precious"


@pytest.mark.parametrize("to", ["nemo", "parakeet"])
def test_an_export_that_computes_something_else_is_an_error_and_removed(checkpoint, tmp_path, to, monkeypatch, capsys):
    assert convert.main([checkpoint, "--to", to, "--out", str(tmp_path / "good")]) == 0
    assert "read back and compared" in capsys.readouterr().err
    module = importlib.import_module(f"speech_jax.interop.{to}")
    right = module.params_to_nemo

    def wrong(*arguments):
        tensors = right(*arguments)
        tensors["decoder.decoder_layers.0.bias"] = np.roll(tensors["decoder.decoder_layers.0.bias"], 1) + 0.1
        tensors["encoder.layers.0.norm_out.bias"] = tensors["encoder.layers.0.norm_out.bias"] + 0.1
        return tensors

    monkeypatch.setattr(module, "params_to_nemo", wrong)
    with pytest.raises(UserError, match="found other log-probabilities than the checkpoint's"):
        convert.main([checkpoint, "--to", to, "--out", str(tmp_path / "bad")])
    assert not (tmp_path / "bad").exists()


def test_a_network_whose_outputs_are_not_finite_is_an_error_and_removed(tmp_path):
    head = "decoder.decoder_layers.0.weight"
    path = edit_weights(tmp_path, lambda t: t.update({head: np.full_like(t[head], 3e38)}))
    with pytest.raises(UserError, match="found outputs that are not finite when it was run"):
        convert.main([str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# ---- what is refused


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("hacked"),))


def edit_nemo(tmp_path, change):
    """A copy of conformer.nemo with its members {name: bytes} changed."""
    with tarfile.open(GOLDEN / "conformer.nemo") as tar:
        members = {m.name.removeprefix("./"): tar.extractfile(m).read() for m in tar if m.isfile()}
    change(members)
    path = tmp_path / "edited.nemo"
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def edit_config(tmp_path, change):
    def in_members(members):
        before = members[CONFIG].decode()
        members[CONFIG] = change(before).encode()
        assert members[CONFIG].decode() != before

    return edit_nemo(tmp_path, in_members)


def edit_weights(tmp_path, change):
    def in_members(members):
        (tmp_path / "w.pt").write_bytes(members[WEIGHTS])
        tensors = {name: np.array(a) for name, a in read_torch(tmp_path / "w.pt").items()}
        change(tensors)
        write_torch(tmp_path / "w.pt", tensors)
        members[WEIGHTS] = (tmp_path / "w.pt").read_bytes()

    return edit_nemo(tmp_path, in_members)


Q = "encoder.layers.1.self_attn.linear_q.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(Q), "found no tensor 'encoder.layers.1.self_attn.linear_q.weight'"),
        (lambda t: t.update({Q: np.zeros((16, 15), np.float32)}), r"linear_q/kernel' with shape \(15, 16\)"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "tensor 'extra' with shape"),
        (lambda t: t[Q].__setitem__((0, 0), np.nan), "NaN or infinity in .*linear_q/kernel"),
        (lambda t: t["preprocessor.featurizer.fb"].__iadd__(0.1), "mel bands"),
    ],
)  # fmt: skip
def test_every_tensor_must_fit(tmp_path, change, message):
    path = edit_weights(tmp_path, change)
    with pytest.raises(UserError, match=message):
        convert.main([str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("  n_layers: 2", "  n_layers: 2\n  self_attention_model: abs_pos", "self_attention_model = 'abs_pos'"),
        ("ConformerEncoder", "SqueezeformerEncoder", "SqueezeformerEncoder"),
        ("  n_layers: 2", "  n_layers: 2\n  mystery: 3", "encoder.mystery = 3, which is not supported"),
        ("  n_layers: 2", "  n_layers: 2\n  conv_norm_type: instance_norm", "instance_norm"),
        ("  n_heads: 2", "  n_heads: two", "n_heads"),
        ("normalize: per_feature", "normalize: all_features", "all_features"),
        ("type: bpe", "type: wpe", "'wpe'"),
        ("preprocessor:", "preprocessing:", "no section 'preprocessor'"),
        ("preprocessor:", "preprocessor: [", "no YAML"),
    ],
)
def test_settings_that_we_do_not_compute_are_refused(tmp_path, old, new, message):
    path = edit_config(tmp_path, lambda text: text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_nemo(path)


def test_hostile_archives_are_refused(tmp_path):
    escaping = edit_nemo(tmp_path, lambda m: m.update({"../../escaped": b"x"}))
    with pytest.raises(UserError, match="outside"):
        read_nemo(escaping)
    link = tmp_path / "link.nemo"
    with tarfile.open(link, "w") as tar:
        info = tarfile.TarInfo("model_config.yaml")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match="link"):
        read_nemo(link)
    pickled = edit_nemo(tmp_path, lambda m: m.update({WEIGHTS: pickle.dumps(Evil())}))
    with pytest.raises(UserError, match="STACK_GLOBAL, which no state dict needs"):
        read_nemo(pickled)
    yaml = edit_config(tmp_path, lambda text: "a: !!python/object/apply:os.system ['touch hacked']\n" + text)
    with pytest.raises(UserError, match="no YAML"):
        read_nemo(yaml)


def test_cut_off_archives_are_refused(tmp_path):
    whole = (GOLDEN / "conformer.nemo").read_bytes()
    for size in (0, 100, 5000, len(whole) // 2):
        (tmp_path / "cut.nemo").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut.nemo: found"):
            read_nemo(tmp_path / "cut.nemo")


def test_compressed_archives_are_read(tmp_path):
    (tmp_path / "x.nemo").write_bytes(gzip.compress((GOLDEN / "conformer.nemo").read_bytes()))
    jax.tree.map(np.testing.assert_array_equal, read_nemo(tmp_path / "x.nemo").parts.params, read("conformer").params)


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("config.json", '"parakeet_ctc"', '"parakeet_rnnt"', "expected parakeet_ctc"),
        ("config.json", '"hidden_act": "silu"', '"hidden_act": "relu"', "hidden_act"),
        ("config.json", "{", "[", "no JSON"),
        ("tokenizer.json", '"Unigram"', '"WordPiece"', "WordPiece"),
        ("tokenizer.json", '"decoder": {\n    "type": "Metaspace"', '"decoder": {"type": "ByteLevel"', "'ByteLevel'"),
    ],
)
def test_parakeets_that_we_do_not_compute_are_refused(tmp_path, file, old, new, message):
    shutil.copytree(GOLDEN / "parakeet", tmp_path / "p")
    path = tmp_path / "p" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_parakeet(tmp_path / "p")


def test_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    for source in ("missing.nemo", str(tmp_path)):
        monkeypatch.setattr("sys.argv", ["convert", source, "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stop:
            run_front_door(convert.main)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_is_never_converted_into_itself(tmp_path):
    """Its config.json would be replaced, or deleted where the conversion fails."""
    folder = tmp_path / "parakeet"
    shutil.copytree(GOLDEN / "parakeet", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="parakeet: found a config.json, expected an empty or a new folder"):
        convert.main([str(folder), "--out", str(folder)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
