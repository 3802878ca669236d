"""Tensor files: read back as written, and refused where they are damaged or hostile."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.interop.tensors import read_safetensors, read_torch, write_safetensors, write_torch


def test_torch_files_are_read_back(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "count": np.int64(7), "none": np.zeros((0, 2))}
    tensors = {k: np.asarray(v) for k, v in tensors.items()}
    write_torch(tmp_path / "x.pt", tensors)
    found = read_torch(tmp_path / "x.pt")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)


GOLDEN = Path(__file__).parent / "golden"


def test_files_from_before_torch_1_6_are_read_and_refused_when_cut_off(tmp_path):
    found = read_torch(GOLDEN / "legacy.pt")
    new = read_torch(GOLDEN / "tacotron2.pt")
    shared = {n: n.replace("state_dict.module.", "state_dict.") for n in found if n.startswith("state_dict.module.")}
    assert len(shared) == 5
    for old_name, new_name in shared.items():
        np.testing.assert_array_equal(found[old_name], new[new_name])
    (v,) = (a for n, a in new.items() if n.endswith("attention_layer.v.linear_layer.weight"))
    np.testing.assert_array_equal(found["turned"], v.T)
    np.testing.assert_array_equal(found["half"], np.arange(5, dtype=np.float16))
    assert found["half"].dtype == np.float16
    whole = (GOLDEN / "legacy.pt").read_bytes()
    for keep in range(0, len(whole), 97):
        (tmp_path / "cut.pt").write_bytes(whole[:keep])
        with pytest.raises(UserError, match="cut.pt: found"):
            read_torch(tmp_path / "cut.pt")


def test_hostile_old_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    for body, message in ((pickle.dumps({"w": Evil()}, 2), "not run"), (tensor_pickle(), "beyond the end")):
        storages = pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 40)
        (tmp_path / "x.pt").write_bytes(b"".join(head) + body + storages)
        with pytest.raises(UserError, match=message):
            read_torch(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil(), 2) * 5)
    with pytest.raises(UserError, match="not run"):
        read_torch(tmp_path / "x.pt")
    assert not Path("hacked").exists()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("hacked"),))


def torch_zip(path, payload, storage=b"\0" * 8):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/data/0", storage)
    return path


def tensor_pickle(offset=0, size=(2,), stride=(1,), count=2, kind="FloatStorage"):
    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def ints(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    return (
        b"\x80\x02}(" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
        + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + b"J" + struct.pack("<i", count) + b"tQ"
        + b"J" + struct.pack("<i", offset) + ints(size) + ints(stride) + b"\x89}tRu."
    )  # fmt: skip


@pytest.mark.parametrize(
    "payload, message",
    [
        (pickle.dumps({"w": Evil()}, 2), "not run"),
        (pickle.dumps({"w": Evil()}, 4), "STACK_GLOBAL"),
        (pickle.dumps({"w": Evil()}, 0), "operation"),
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "os.system"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "no tensors"),
        (tensor_pickle(size=(3,)), "in a storage of 2"),
        (tensor_pickle(offset=-1), "an invalid tensor"),
        (tensor_pickle(stride=(1 << 30,)), "in a storage of 2"),
        (tensor_pickle(count=99), "in a storage of 2"),
        (tensor_pickle(kind="EvilStorage"), "not run"),
        (tensor_pickle()[:-6], "torch state dict"),
        (b"", "torch state dict"),
        (pickle.dumps([1, 2], 2), "a list"),
    ],
)
def test_hostile_torch_files_are_refused(tmp_path, monkeypatch, payload, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        read_torch(torch_zip(tmp_path / "x.pt", payload))
    assert not Path("hacked").exists()


def test_good_tensor_pickle_is_good(tmp_path):
    """The hostile ones above differ from this one in one thing each."""
    path = torch_zip(tmp_path / "x.pt", tensor_pickle(), np.array([1.5, -2.0], np.float32).tobytes())
    np.testing.assert_array_equal(read_torch(path)["w"], [1.5, -2.0])


def test_damaged_torch_files_are_refused(tmp_path):
    write_torch(tmp_path / "x.pt", {"w": np.arange(100, dtype=np.float32)})
    whole = (tmp_path / "x.pt").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pt").write_bytes(whole[:size])
        with pytest.raises(UserError, match="expected a torch"):
            read_torch(tmp_path / "x.pt")
    place = whole.index(np.float32(50).tobytes() + np.float32(51).tobytes())
    (tmp_path / "x.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match="checksum"):
        read_torch(tmp_path / "x.pt")


def safetensors_file(path, header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, message",
    [
        (b'{"w": %(e)s, "w": %(e)s}' % {b"e": json.dumps(ENTRY).encode()}, "twice"),
        ({"w": {**ENTRY, "shape": [3]}}, "8 bytes"),
        ({"w": {**ENTRY, "shape": [-2]}}, "shape"),
        ({"w": {**ENTRY, "dtype": "F31"}}, "F31"),
        ({"w": {**ENTRY, "data_offsets": [0, 800], "shape": [200]}}, "up to byte"),
        ({"w": ENTRY, "v": ENTRY}, "8 bytes at 0"),
        ({"w": {**ENTRY, "shape": [1], "data_offsets": [0, 4]}}, "4 bytes after"),
        ({"w": [1]}, "safetensors"),
        (b"[" * 100000, "safetensors"),
        ([1], "safetensors"),
    ],
)  # fmt: skip
def test_hostile_safetensors_are_refused(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        read_safetensors(safetensors_file(tmp_path / "x.safetensors", header))


def test_safetensors_and_bfloat16(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T})
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x.safetensors")["w"], np.arange(6).reshape(2, 3).T)
    header = {"w": {**ENTRY, "dtype": "BF16", "shape": [4]}}
    brain = safetensors_file(tmp_path / "b.safetensors", header, b"\x80\x3f" * 4)
    np.testing.assert_array_equal(read_safetensors(brain)["w"].astype(np.float32), np.ones(4))
    (tmp_path / "short.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="a header of"):
        read_safetensors(tmp_path / "short.safetensors")
