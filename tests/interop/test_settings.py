"""Settings of other toolkits that are null, missing, legal but other, or damaged: computed as there, or one line."""

import copy
import functools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from speech_jax.core.errors import UserError
from speech_jax.interop.nemo import CONFIG, read_nemo
from speech_jax.interop.parakeet import read_parakeet
from speech_jax.interop.settings import Settings
from speech_jax.interop.wav2vec2 import read_wav2vec2
from speech_jax.tasks.ctc_task import network_shapes
from speech_jax.training.state import check_shapes
from tests.interop.test_import import GOLDEN, edit_nemo, log_probs

MISSING = KeyError


def put(tree, path, value):
    """Return a copy of nested settings with one changed or, with MISSING, left out."""
    tree = copy.deepcopy(tree)
    place = tree
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        if path[-1] in place or isinstance(place, list):
            del place[path[-1]]
    else:
        place[path[-1]] = value
    return tree


def edited_nemo(tmp_path, path, value):
    def change(members):
        members[CONFIG] = yaml.safe_dump(put(yaml.safe_load(members[CONFIG]), path, value)).encode()

    return edit_nemo(tmp_path, change)


def edited_folder(tmp_path, name, path, value, file="config.json"):
    folder = tmp_path / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(GOLDEN / name, folder)
    (folder / file).write_text(json.dumps(put(json.loads((folder / file).read_text()), path, value)))
    return folder


# ---- What null means


NULLS = np.load(GOLDEN / "nemo_nulls.npz", allow_pickle=False)


@pytest.mark.parametrize("change", NULLS.files)
def test_null_and_missing_settings_mean_what_nemo_makes_of_them(tmp_path, change):
    golden = np.load(GOLDEN / "conformer.npz", allow_pickle=False)
    row = golden["lengths"].argmin()
    audio = golden["audio"][row : row + 1, : golden["lengths"][row]]
    place, _, value = change.partition("=")
    path = edited_nemo(tmp_path, place.split("."), yaml.safe_load(value) if value else MISSING)
    ours, frames = log_probs(read_nemo(path).parts, audio, golden["lengths"][row : row + 1])
    np.testing.assert_allclose(ours[0, : frames[0]], NULLS[change], atol=1e-4)


@pytest.mark.parametrize(
    "place, value",
    [
        ("preprocessor.log", None), ("preprocessor.log", False), ("preprocessor.mag_power", 1.5),
        ("preprocessor.mag_power", None), ("preprocessor.normalize", "all_features"),
        ("preprocessor.normalize", {"fixed_mean": [0.0], "fixed_std": [1.0]}), ("preprocessor.window", None),
        ("preprocessor.window", "blackman"), ("preprocessor.exact_pad", True), ("preprocessor.use_torchaudio", True),
        ("preprocessor.frame_splicing", 2), ("preprocessor.sample_rate", None), ("preprocessor.lowfreq", None),
        ("preprocessor.mel_norm", 1), ("preprocessor.n_window_size", 400), ("encoder.feat_in", MISSING),
        ("encoder.d_model", MISSING), ("encoder.n_layers", None), ("encoder.conv_norm_type", None),
        ("encoder.subsampling", None), ("encoder.subsampling_conv_channels", None), ("encoder.feat_out", 20),
        ("encoder.att_context_size", [20, 20]), ("encoder.conv_context_size", "causal"), ("encoder.dropout", None),
        ("encoder.causal_downsampling", True), ("encoder.reduction", "striding"), ("decoder.add_blank", False),
        ("decoder._target_", "nemo.collections.asr.modules.LSTMDecoder"), ("tokenizer.type", "wpe"),
        ("tokenizer.model_path", None),
    ],
)  # fmt: skip
def test_settings_of_nemo_that_we_do_not_compute_are_named(tmp_path, place, value):
    path = edited_nemo(tmp_path, place.split("."), value)
    name = place.rsplit(".", 1)[1]
    with pytest.raises(UserError, match="decoder of type" if name == "_target_" else name):
        read_nemo(path)


def test_settings_that_act_in_training_only_are_named_in_a_note(tmp_path):
    notes = read_nemo(edited_nemo(tmp_path, ["encoder", "stochastic_depth_drop_prob"], 0.2)).notes
    assert "training: encoder.stochastic_depth_drop_prob = 0.2 is left out" in notes
    notes = read_parakeet(edited_folder(tmp_path, "parakeet", ["encoder_config", "layerdrop"], 0.1)).notes
    assert "training: encoder_config.layerdrop = 0.1 is left out" in notes


def test_switches_of_transformers_that_are_null_are_off(tmp_path):
    def audio(value):
        folder = edited_folder(tmp_path, "wav2vec2_base", ["do_normalize"], value, "preprocessor_config.json")
        return read_wav2vec2(folder).parts.task.audio.normalize

    assert [audio(v) for v in (None, False, True, MISSING)] == ["none", "none", "unit_variance", "unit_variance"]
    model = read_wav2vec2(edited_folder(tmp_path, "wav2vec2_base", ["apply_spec_augment"], None)).parts.task.model
    assert model.mask_time == 0
    folder = edited_folder(tmp_path, "parakeet", ["preemphasis"], None, "preprocessor_config.json")
    assert read_parakeet(folder).parts.task.audio.pre_emphasis == 0


@pytest.mark.parametrize(
    "place, value",
    [
        ("encoder_config.mystery", 7), ("mystery", 7), ("encoder_config.num_hidden_layers", 3.0),
        ("encoder_config.num_hidden_layers", 10**9), ("encoder_config.hidden_size", "16"),
        ("encoder_config.hidden_size", 0), ("encoder_config.num_attention_heads", 0), ("vocab_size", 10**9),
        ("vocab_size", "62"), ("encoder_config.conv_kernel_size", 10**9 + 1), ("encoder_config.head_dim", 3),
        ("encoder_config.num_key_value_heads", 1), ("encoder_config.intermediate_size", None), ("pad_token_id", None),
    ],
)  # fmt: skip
def test_settings_of_a_parakeet_that_we_do_not_compute_are_named(tmp_path, place, value):
    folder = edited_folder(tmp_path, "parakeet", place.split("."), value)
    with pytest.raises(UserError, match=f"config.json: found {place} = "):
        read_parakeet(folder)


@pytest.mark.parametrize("name, value", [("do_magic", True), ("sampling_rate", "16000"), ("sampling_rate", None)])
def test_features_of_a_parakeet_that_we_do_not_compute_are_named(tmp_path, name, value):
    folder = edited_folder(tmp_path, "parakeet", [name], value, "preprocessor_config.json")
    with pytest.raises(UserError, match=f"found {name} = "):
        read_parakeet(folder)


def test_a_value_in_a_message_is_short_and_a_section_of_another_type_is_no_traceback(tmp_path):
    with pytest.raises(UserError) as error:
        Settings({"rate": [10**9] * 10**5}, "audio.", Path("c.json")).integer("rate")
    assert len(str(error.value)) < 200
    for value in ([], "text", None, 3):
        for section in ("encoder", "preprocessor", "decoder", "tokenizer"):
            if (section, value) != ("tokenizer", None):  # which is a model of characters
                with pytest.raises(UserError, match=section):
                    read_nemo(edited_nemo(tmp_path, [section], value))


# ---- Damaged settings


BAD = [None, "abc", "", -1, 0, 1, 10**9, 2**40, 1.5, float("nan"), float("inf"), [], {}, [1, 2], {"a": 1}, True, False,
       "1e9", "0x10", [[["x"]]], MISSING]  # fmt: skip


def places(tree, path=()):
    """Yield the paths of all settings, sections included, without the entries of a vocabulary."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if "vocabulary" not in path:
            yield (*path, key)
            yield from places(value, (*path, key))


@pytest.mark.parametrize("name", ["conformer.nemo", "parakeet", "wav2vec2_base"])
def test_one_damaged_setting_is_one_line_or_a_network_that_fits(tmp_path, name):
    random_state = random.Random(name)
    folder = GOLDEN / name
    if folder.is_dir():
        config = json.loads((folder / "config.json").read_text())
    else:
        members = {}
        edit_nemo(tmp_path, members.update)
        config = yaml.safe_load(members[CONFIG])
    where, accepted = list(places(config)), 0
    shapes = functools.cache(network_shapes)
    for _ in range(40):
        path, value = random_state.choice(where), random_state.choice(BAD)
        if folder.is_dir():
            read = read_parakeet if name == "parakeet" else read_wav2vec2
            source = edited_folder(tmp_path, name, path, value)
        else:
            read, source = read_nemo, edited_nemo(tmp_path, path, value)
        try:
            parts = read(source).parts
            check_shapes((parts.params, parts.model_state), shapes(parts.task, parts.tokenizer.vocab_size), str(source))
            accepted += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
    assert accepted < 35  # some of the damage matters
