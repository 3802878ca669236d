"""CTranslate2's model.bin: what was written is read, also in 8 bits, and damaged files are refused.

The writer here follows the layout of version 6; the reader was compared with the file of a public Whisper too.
"""

import struct
from pathlib import Path

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.interop.conformer_names import import_tensors
from speech_jax.interop.ctranslate2 import read_ctranslate2
from speech_jax.interop.whisper_names import from_ctranslate2, whisper_mappings
from speech_jax.models.config import WhisperConfig

GOLDEN = Path(__file__).parents[1] / "models/golden/whisper.npz"
CONFIG = WhisperConfig(
    num_features=7, width=20, heads=5, encoder_layers=3, decoder_layers=2, hidden=28, audio_positions=13,
    text_positions=11,
)  # fmt: skip
NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def packed(tensors, aliases=(), version=6, kind="WhisperSpec") -> bytes:
    out = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(tensors))]
    for name, array in tensors.items():
        array = np.asarray(array)
        out += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        out += [struct.pack("<BI", NUMBERS[array.dtype.name], array.nbytes), array.tobytes()]
    out.append(struct.pack("<I", len(aliases)))
    return b"".join(out) + b"".join(text(alias) + text(target) for alias, target in aliases)


@pytest.fixture(scope="module")
def tensors():
    """The golden Whisper under CTranslate2's names."""
    theirs = {n.removeprefix("model."): a for n, a in np.load(GOLDEN).items() if n.startswith("model.")}
    ours = {"encoder/num_heads": np.int16(5), "decoder/activation": np.int8(3)}
    for name, array in theirs.items():
        side, *parts, kind = name.split(".")
        place, ct2 = ".".join(parts), None
        layer = ""
        if parts[0] == "layers":
            layer, place = f"layer_{parts[1]}/", ".".join(parts[2:])
        kind = {"weight": "gamma", "bias": "beta"}[kind] if "norm" in place else kind
        for hf, renamed in (
            ("self_attn.out_proj", "self_attention/linear_1"), ("self_attn_layer_norm", "self_attention/layer_norm"),
            ("encoder_attn.q_proj", "attention/linear_0"), ("encoder_attn.out_proj", "attention/linear_2"),
            ("encoder_attn_layer_norm", "attention/layer_norm"), ("fc1", "ffn/linear_0"), ("fc2", "ffn/linear_1"),
            ("final_layer_norm", "ffn/layer_norm"), ("layer_norm", "layer_norm"), ("embed_tokens", "embeddings"),
            ("conv1", "conv1"), ("conv2", "conv2"), ("embed_positions", "position_encodings"),
        ):  # fmt: skip
            if place == hf:
                ct2 = f"{side}/{layer}{renamed}/{'encodings' if hf == 'embed_positions' else kind}"
        if ct2:
            ours[ct2] = array
        for hf, renamed, letters in (("self_attn", "self_attention/linear_0", "qkv"),
                                     ("encoder_attn", "attention/linear_1", "kv")):  # fmt: skip
            if place == f"{hf}.v_proj":
                names = [name.replace("v_proj", f"{letter}_proj") for letter in letters]
                parts = [theirs.get(n, np.zeros_like(array)) for n in names]
                ours[f"{side}/{layer}{renamed}/{kind}"] = np.concatenate(parts)
    return ours


def params_of(tensors, path):
    return import_tensors(from_ctranslate2(tensors, str(path)), whisper_mappings(CONFIG), str(path), "a Whisper")


def test_what_was_written_is_read(tensors, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(packed(tensors, [("decoder/projection/weight", "decoder/embeddings/weight")]))
    kind, again = read_ctranslate2(path)
    assert kind == "WhisperSpec" and again.keys() == tensors.keys() | {"decoder/projection/weight"}
    assert all(again[name].dtype == tensors[name].dtype for name in tensors)
    params, _, unused = params_of(again, path)
    assert unused == ["model.encoder.embed_positions.weight"]
    expected, _, _ = import_tensors(dict(np.load(GOLDEN)), whisper_mappings(CONFIG), str(GOLDEN))
    leaves = [(params, expected)]
    while leaves:
        ours, theirs = leaves.pop()
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            leaves += [(ours[name], theirs[name]) for name in ours]
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_weights_of_other_types_are_near(tensors, tmp_path):
    half = {name: np.asarray(a, np.float16) if a.ndim else a for name, a in tensors.items()}
    eight = {}
    for name, array in tensors.items():
        if array.ndim < 2:
            eight[name] = array
            continue
        scale = np.float32(127) / np.abs(array).reshape(len(array), -1).max(axis=1)
        column = scale.reshape(-1, *(1,) * (array.ndim - 1))
        eight |= {name: np.rint(array * column).astype(np.int8), f"{name}_scale": scale}
    path = tmp_path / "model.bin"
    for other, bound in ((half, 1e-3), (eight, 0.02)):
        path.write_bytes(packed(other))
        again = read_ctranslate2(path)[1]
        assert again.keys() == tensors.keys()
        for name, array in tensors.items():
            assert np.abs(np.asarray(again[name], np.float32) - array).max() <= bound * np.abs(array).max()


def test_damaged_files_are_refused(tensors, tmp_path):
    path = tmp_path / "model.bin"
    good = packed(tensors, [("decoder/projection/weight", "decoder/embeddings/weight")])
    rng = np.random.default_rng(0)
    for end in (*range(60), *rng.integers(60, len(good), 60).tolist(), len(good) - 1):
        path.write_bytes(good[:end])
        with pytest.raises(UserError, match="model.bin"):
            read_ctranslate2(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(UserError, match="1 bytes after the last tensor"):
        read_ctranslate2(path)
    weight = "encoder/layer_0/ffn/linear_0/weight"
    eight = {weight: np.ones((3, 2), np.int8)}
    for data, message in (
        (packed(tensors, version=5), "found version 5, and only 6 is read"),
        (b"PK\3\4" + good, "found version 67324752"),
        (packed(tensors, [("a", "nothing")]), "'a' as another name of 'nothing'"),
        (packed(eight), "in 8 bits without"),
        (packed(eight | {f"{weight}_scale": np.ones(2, np.float32)}), r"scales of shape \(2,\)"),
        (packed(eight | {f"{weight}_scale": np.zeros(3, np.float32)}), "expected a positive one per row"),
        (packed({"a" * 2000: np.zeros(3, np.float32)}), "a name of 2001 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            read_ctranslate2(path)
        assert "\n" not in str(error.value)
    for _ in range(200):  # whatever a flipped byte makes of it, it is read or refused
        damaged = bytearray(good)
        damaged[rng.integers(0, 3000)] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_ctranslate2(path)
        except UserError:
            pass


def test_what_no_whisper_has_is_refused(tensors, tmp_path):
    key_bias = np.ones(60, np.float32)
    fused = "encoder/layer_0/self_attention/linear_0"
    for change, message in (
        ({f"{fused}/bias": key_bias}, "found a bias of keys in"),
        ({f"{fused}/weight": np.ones((61, 20))}, r"of shape \(61, 20\), expected 3 equal"),
        ({"decoder/projection/weight": np.ones((53, 20))}, "found an output layer of its own"),
    ):
        with pytest.raises(UserError, match=message):
            from_ctranslate2(tensors | change, "model.bin")
