"""wav2vec 2.0 and Wav2Vec2-Conformer in: against transformers, as ordinary checkpoints, and nothing unaccounted for."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from speech_jax import convert, evaluate, transcribe
from speech_jax.artifacts.recognizer import load_recognizer_parts
from speech_jax.audio.config import AudioConfig, AugmentConfig
from speech_jax.audio.features import extract_features
from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
from speech_jax.decoding.longform import encode_windows, extract_long_features
from speech_jax.inference.config import WindowConfig
from speech_jax.inference.recognizer import load_recognizer, make_recognizer
from speech_jax.interop.tensors import read_safetensors, write_safetensors, write_torch
from speech_jax.interop.wav2vec2 import read_wav2vec2
from speech_jax.models.config import ConformerConfig
from speech_jax.models.wav2vec2 import FeatureEncoder
from speech_jax.runs.train import train
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.tasks.ctc_task import build_model, output_frames
from speech_jax.training.config import OptimizerConfig, TrainerConfig
from tests.interop.test_import import log_probs

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("wav2vec2_base", "wav2vec2_large", "wav2vec2_conformer_relative", "wav2vec2_conformer_rotary",
         "wav2vec2_conformer_plain")  # fmt: skip
BLANKS = {"wav2vec2_large": 31}


def recordings():
    golden = np.load(GOLDEN / "conformer.npz", allow_pickle=False)
    return golden["audio"], golden["lengths"]


def theirs(name, row):
    """[frames, classes] of one utterance, the blank last."""
    scores = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)[f"log_probs_{row}"]
    blank = BLANKS.get(name, 0)
    return np.concatenate([np.delete(scores, blank, axis=1), scores[:, [blank]]], axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_transformers_computes_whatever_the_batch(name):
    audio, lengths = recordings()
    garbage = np.where(np.arange(audio.shape[1]) < lengths[:, None], audio, np.nan)
    ours, frames = log_probs(read_wav2vec2(GOLDEN / name).parts, garbage, lengths)
    for row, n in enumerate(frames):
        expected = theirs(name, row)
        assert len(expected) == n
        np.testing.assert_allclose(ours[row, :n], expected, atol=1e-4)


def test_samples_are_normalized_as_transformers_normalizes_them():
    audio, lengths = recordings()
    task = read_wav2vec2(GOLDEN / "wav2vec2_base").parts.task
    assert (task.audio.features, task.audio.normalize) == ("waveform", "unit_variance")
    assert read_wav2vec2(GOLDEN / "wav2vec2_conformer_plain").parts.task.audio.normalize == "none"
    np.testing.assert_array_equal(output_frames(lengths, task), [59, 38, 21])
    found, mask = extract_features(audio, lengths, task.audio)
    for row, n in enumerate(lengths):
        x = audio[row, :n].astype(np.float64)
        expected = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
        np.testing.assert_allclose(found[row, :n, 0], expected, atol=1e-5)
        assert mask[row].sum() == n and not np.asarray(found[row, n:]).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The large model as a checkpoint, and a manifest of its vocabulary."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    assert convert.main([str(GOLDEN / "wav2vec2_large"), "--out", str(folder / "ours")]) == 0
    audio, lengths = recordings()
    rows = []
    for row, n in enumerate(lengths):
        soundfile.write(folder / f"{row}.wav", audio[row, :n], 16000, subtype="FLOAT")
        rows.append(json.dumps({"id": str(row), "audio": f"{row}.wav", "text": "a cat", "seconds": n / 16000}))
    (folder / "m.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_becomes_a_checkpoint_that_every_front_door_takes(run, capsys):
    recognizer = load_recognizer(run / "ours")
    best = theirs("wav2vec2_large", 0).argmax(-1)
    kept = [k for i, k in enumerate(best) if k != 31 and (i == 0 or best[i - 1] != k)]
    letters = [" ", *"etaoinshrdlumwcfgypbvk'xjqz", "", "", ""]  # "<s>", "</s>" and "<unk>" are no text
    text = "".join(letters[k] for k in kept)
    assert len(text) > 2
    audio, lengths = recordings()
    found = recognizer.transcribe(audio[0, : lengths[0]])
    assert found.text == " ".join(text.split())
    assert recognizer.frame_seconds == 0.02
    capsys.readouterr()
    assert transcribe.main([str(run / "0.wav"), "--checkpoint", str(run / "ours")]) == 0
    assert capsys.readouterr().out == found.text + "\n"
    out = run / "report"
    arguments = ["--checkpoint", str(run / "ours"), "--manifest", str(run / "m.jsonl"), "--out", str(out)]
    assert evaluate.main(arguments) == 0
    assert (out / "report.md").is_file()
    with pytest.raises(UserError, match="found checkpoints of a run"):
        convert.main([str(GOLDEN / "wav2vec2_large"), "--out", str(run / "ours")])


def test_windows_of_a_long_recording_lie_on_one_grid(run):
    """The convolutions alone, which look at 400 samples: windows of them are one pass, to rounding."""
    parts = load_recognizer_parts(run / "ours")
    encoder = FeatureEncoder(parts.task.model)
    variables = {"params": parts.params["encoder"]["features"]}
    encode = jax.jit(lambda features, mask: encoder.apply(variables, features, mask))
    samples = extract_long_features(np.tile(recordings()[0][0], 3), parts.task.audio, block_seconds=1.0)
    assert samples.shape == (57_000, 1)
    x, mask = encode(samples[None], np.ones((1, len(samples)), bool))
    expected = np.asarray(x[0, : mask.sum()])
    assert len(expected) == output_frames(57_000, parts.task)
    for core, context in ((3200, 320), (6400, 640)):
        joined = encode_windows(samples, encode, core=core, context=context, factor=320, rows=2)
        np.testing.assert_allclose(joined, expected, atol=1e-4)

    windows = make_recognizer(parts, windows=WindowConfig(core_seconds=0.5, context_seconds=0.25))
    assert windows.factor == 320 and (windows.core, windows.context) == (25 * 320, 12 * 320)
    assert windows.transcribe(np.tile(recordings()[0][0], 3)).text  # the whole network, 3.6 s


def test_fine_tunes_and_freezes_the_convolutions(run, tmp_path):
    config = TrainConfig(
        out_dir=str(tmp_path / "tuned"),
        data=DataConfig((SourceConfig(path=str(run / "m.jsonl")),), PlanConfig(num_buckets=1)),
        init_from=str(run / "ours"),
        optimizer=OptimizerConfig(peak_lr=1e-2, warmup_steps=0, groups=(("^encoder/features/", None), (".*", 1.0))),
        trainer=TrainerConfig(steps=1),
    )
    train(config)
    before, after = (load_recognizer_parts(f) for f in (run / "ours", config.out_dir))
    assert after.task.model == before.task.model and after.tokenizer == before.tokenizer
    np.testing.assert_array_equal(*(p.params["encoder"]["features"]["conv1"]["kernel"] for p in (before, after)))
    for name in ("position_conv", "projection"):
        assert not np.array_equal(*(p.params["encoder"][name]["kernel"] for p in (before, after)))
    assert load_recognizer(config.out_dir).transcribe(recordings()[0][1]).seconds > 1
    masked = dataclasses.replace(after.task, augment=AugmentConfig(time_masks=2))
    with pytest.raises(UserError, match="task.model.mask_time"):
        train(dataclasses.replace(config, out_dir=str(tmp_path / "no"), task=masked))


def test_networks_hear_what_they_are_made_for():
    task = read_wav2vec2(GOLDEN / "wav2vec2_base").parts.task
    for wrong in (CTCTaskConfig(audio=task.audio), dataclasses.replace(task, audio=AudioConfig())):
        with pytest.raises(UserError, match="task.audio.features: found"):
            build_model(wrong, 5)
    assert build_model(CTCTaskConfig(model=ConformerConfig(width=16, layers=1)), 5)
    with pytest.raises(UserError, match="AudioConfig.hop: found 160, expected 1"):
        AudioConfig(features="waveform")


# ---- what else a folder may have, and what is refused


@pytest.fixture
def folder(tmp_path):
    """A copy of the base model."""
    return Path(shutil.copytree(GOLDEN / "wav2vec2_base", tmp_path / "model"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors = {name: np.array(a) for name, a in read_safetensors(folder / "model.safetensors").items()}
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def test_both_names_of_the_weight_norm_and_a_folded_one_are_the_same(folder):
    expected = read_wav2vec2(folder).parts.params

    def old(t):
        for number, name in ((0, "weight_g"), (1, "weight_v")):
            conv = "wav2vec2.encoder.pos_conv_embed.conv."
            t[conv + name] = t.pop(f"{conv}parametrizations.weight.original{number}")

    edit_tensors(folder, old)
    jax.tree.map(np.testing.assert_array_equal, read_wav2vec2(folder).parts.params, expected)

    def fold(t):
        conv = "wav2vec2.encoder.pos_conv_embed.conv."
        g, v = t.pop(conv + "weight_g"), t.pop(conv + "weight_v")
        t[conv + "weight"] = g * v / np.sqrt((v * v).sum((0, 1), keepdims=True))

    edit_tensors(folder, fold)
    got = read_wav2vec2(folder).parts.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)


def test_what_is_not_taken_is_named_with_the_reason(folder):
    def add(t):
        t["quantizer.codevectors"] = np.ones((1, 4, 2), np.float32)
        t["project_hid.weight"] = np.ones((4, 16), np.float32)
        del t["wav2vec2.masked_spec_embed"]

    edit_tensors(folder, add)
    found = read_wav2vec2(folder)
    assert found.ignored == {
        n: "used by the pre-training loss only" for n in ("quantizer.codevectors", "project_hid.weight")
    }
    assert any("masked_spec_embed" in note for note in found.notes)
    assert not found.parts.params["encoder"]["mask_vector"].any()
    reasons = set(read_wav2vec2(GOLDEN / "wav2vec2_conformer_rotary").ignored.values())
    assert reasons == {
        "an unused counter",
        "a convolution that Wav2Vec2-Conformer never calls",
        "computed from rotary_embedding_base",
    }


def test_folders_of_transformers_5_have_the_features_in_another_file(folder):
    features = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": features}))
    both = read_wav2vec2(folder).parts.task
    (folder / "preprocessor_config.json").unlink()
    assert read_wav2vec2(folder).parts.task == both == read_wav2vec2(GOLDEN / "wav2vec2_base").parts.task
    edit_json(folder / "processor_config.json", feature_extractor=features | {"do_normalize": False})
    assert read_wav2vec2(folder).parts.task.audio.normalize == "none"
    (folder / "preprocessor_config.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"do_normalize = True, expected False, as in processor_config.json"):
        read_wav2vec2(folder)
    edit_json(folder / "processor_config.json", feature_extractor=[1])
    with pytest.raises(UserError, match="found feature_extractor of type list"):
        read_wav2vec2(folder)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files_are_read(folder, kind):
    tensors = {name: np.array(a) for name, a in read_safetensors(folder / "model.safetensors").items()}
    expected = read_wav2vec2(folder).parts.params
    (folder / "model.safetensors").unlink()
    write = write_safetensors if kind == "model.safetensors" else write_torch
    names = sorted(tensors)
    files = {name: f"part{i % 2}.{kind}" for i, name in enumerate(names)}
    for part in set(files.values()):
        write(folder / part, {name: tensors[name] for name in names if files[name] == part})
    index = folder / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    jax.tree.map(np.testing.assert_array_equal, read_wav2vec2(folder).parts.params, expected)
    for weight_map, message in (
        (None, "no weight_map"), ([1], "no weight_map"), ({"a": 3}, "no weight_map"), ({"a": "../x"}, "name of a file"),
        (files | {"absent": f"part0.{kind}"}, "no tensor 'absent'"), ({"a": "none.bin"}, "No such file"),
    ):  # fmt: skip
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=message):
            read_wav2vec2(folder)


def test_capitals_are_said_and_can_be_made_small(folder):
    found = read_wav2vec2(folder)
    assert found.parts.tokenizer.encode("A CAT")[:2] == [7, 4] and "--lower-case" in found.notes[0]
    small = read_wav2vec2(folder, lower_case=True)
    assert small.parts.tokenizer.encode("a cat") == found.parts.tokenizer.encode("A CAT")
    assert small.parts.tokenizer.decode([1, 7, 2, 3]) == "a"
    edit_json(folder / "tokenizer_config.json", do_lower_case=True)  # transformers' decode does so too
    assert read_wav2vec2(folder).parts.tokenizer == small.parts.tokenizer


def test_settings_reach_the_model(folder):
    changes = {"layerdrop": 0.0, "mask_time_prob": 0.3, "mask_feature_prob": 0.2, "mask_feature_length": 4,
               "feat_proj_dropout": 0.05, "activation_dropout": 0.06, "layer_norm_eps": 1e-3}  # fmt: skip
    edit_json(folder / "config.json", **changes)
    model = read_wav2vec2(folder).parts.task.model
    assert (model.layer_drop, model.mask_time, model.mask_channels, model.mask_channels_span) == (0.0, 0.3, 0.2, 4)
    assert (model.dropout_projection, model.dropout_hidden, model.eps) == (0.05, 0.06, 1e-3)
    edit_json(folder / "config.json", apply_spec_augment=False)
    model = read_wav2vec2(folder).parts.task.model
    assert (model.mask_time, model.mask_channels) == (0.0, 0.0)


@pytest.mark.parametrize(
    "file, changes, message",
    [
        ("config.json", {"model_type": "hubert"}, "found model_type 'hubert'"),
        ("config.json", {"model_type": ["wav2vec2"]}, "found model_type .*, expected one of"),
        ("config.json", {"model_type": {}}, "found model_type .*, expected one of"),
        ("config.json", {"add_adapter": True}, "add_adapter = True, expected False"),
        ("config.json", {"adapter_attn_dim": 16}, "adapter_attn_dim = 16"),
        ("config.json", {"hidden_act": "selu"}, "hidden_act = 'selu', expected 'gelu' or"),
        ("config.json", {"feat_extract_norm": "batch"}, "feat_extract_norm = 'batch', expected 'group' or 'layer'"),
        ("config.json", {"num_hidden_layers": 1.5}, "num_hidden_layers = 1.5, expected a whole number"),
        (
            "config.json",
            {"num_hidden_layers": 10**12},
            "num_hidden_layers = 1000000000000, expected a whole number from 1 to 1024",
        ),
        ("config.json", {"vocab_size": 10**6}, "no token for class 32 of"),
        ("config.json", {"conv_dim": 5}, "conv_dim = 5, expected a list"),
        ("tokenizer_config.json", {"pad_token": ["<pad>"]}, "pad_token = .*expected a text"),
        ("config.json", {"num_attention_heads": 3}, "with 3 heads"),
        ("config.json", {"mystery": 3}, "mystery = 3, which is not supported"),
        ("config.json", {"pad_token_id": 40}, "pad_token_id = 40, expected a whole number from 0 to 31"),
        ("config.json", {"pad_token_id": 1}, "found '<s>' at the blank's id 1, expected '<pad>'"),
        ("config.json", {"vocab_size": 33}, "no token for class 32 of 33"),
        ("preprocessor_config.json", {"feature_size": 80}, "feature_size = 80"),
        ("preprocessor_config.json", {"do_normalize": "yes"}, "do_normalize"),
        ("vocab.json", {"eng": {"a": 1}}, "'eng': .*expected a token and its id"),
        ("vocab.json", {"sch": 5, "E": 99}, "found token 'sch', expected single characters"),
        ("vocab.json", {"q": 7}, "found 'A' and 'q' at 7"),
        ("vocab.json", {" ": 31, "Z": 99}, "vocab.json: found two tokens for ' '"),
        ("tokenizer_config.json", {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}, "tokenizer_class"),
    ],
)
def test_settings_that_we_do_not_compute_are_refused(folder, tmp_path, file, changes, message):
    edit_json(folder / file, **changes)
    with pytest.raises(UserError, match=message):
        convert.main([str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


Q = "wav2vec2.encoder.layers.1.attention.q_proj.weight"
CONV = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(Q), f"found no tensor '{Q}', expected it in a wav2vec2"),
        (lambda t: t.pop("lm_head.weight"), "no CTC head .* expected one …ForCTC"),
        (lambda t: t.update({Q: np.zeros((16, 15), np.float32)}), r"linear_q/kernel' with shape \(15, 16\)"),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "tensor 'extra' with shape"),
        (lambda t: t[Q].__setitem__((0, 0), np.nan), "NaN or infinity in .*linear_q/kernel"),
        (lambda t: t.update({CONV: np.zeros((1, 1, 5), np.float32)}), "expected .1, 1, taps"),
        (lambda t: t.update({"lm_head.weight": np.zeros((30, 16), np.float32)}), "lm_head.weight"),
    ],
)
def test_every_tensor_must_fit(folder, tmp_path, change, message):
    edit_tensors(folder, change)
    with pytest.raises(UserError, match=message):
        convert.main([str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_cut_off_files_are_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 100, len(whole) // 2):
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(UserError, match="model.safetensors: found"):
            read_wav2vec2(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors: No such file"):
        read_wav2vec2(folder)
    write_torch(folder / "pytorch_model.bin", {"lm_head.bias": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="no CTC head"):
        read_wav2vec2(folder)
