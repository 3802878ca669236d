"""Hostile files: checkpoints of a few kilobytes that claim terabytes, never end, or nest without end."""

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import zipfile
from pathlib import Path

from speech_jax.interop.nemo import CONFIG

GOLDEN = Path(__file__).parents[1] / "interop" / "golden"
MARK = "decoder.attention_rnn.weight_ih"  # the convert door takes it for a Tacotron 2


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def ints(values):
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"


def tensor(size, stride, key="0", count=2):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
        + b"J" + struct.pack("<i", count) + b"tQK\x00" + ints(size) + ints(stride) + b"\x89}tR"
    )  # fmt: skip


def laughs(levels, width, leaf=b"N"):
    """A dict of `width` times the same dict, and so on: width ** levels entries."""
    out = [b"\x80\x02}q\x00", text("x"), leaf, b"s"]
    for level in range(1, levels):
        entries = b"".join(text(str(k)) + b"h" + bytes([level - 1]) for k in range(width))
        out.append(b"}q" + bytes([level]) + b"(" + entries + b"u")
    return b"".join(out) + b"."


TUPLES = b")q\x00" + b"".join(b"h" + bytes([k, ord("h"), k]) + b"\x86q" + bytes([k + 1]) for k in range(100))
PICKLES = {
    "stride_0": b"\x80\x02}" + text(MARK) + tensor((1 << 20, 1 << 20), (0, 0)) + b"s.",
    "many_dims": b"\x80\x02}" + text(MARK) + tensor((1,) * 30_000, (1,) * 30_000) + b"s.",
    "no_dim": b"\x80\x02}" + text(MARK) + tensor((0, 1 << 62), (1, 1)) + b"s.",
    "laughs": laughs(60, 2),
    "laughs_of_tensors": laughs(9, 10, tensor((2,), (1,))),
    "tuples_as_key": b"\x80\x02}(" + TUPLES + b"Nu.",
    "tuples_as_storage": b"\x80\x02" + TUPLES + b"Q.",
    "lists": b"\x80\x02" + b"]" * 5_000_000 + b".",
    "deep": b"\x80\x02" + b"".join(b"}" + text("a") for _ in range(5000)) + b"N" + b"s" * 5000 + b".",
    "under": b"\x80\x02s.",
    "number_as_function": b"\x80\x02K\x01)R.",
}


def torch_file(path, payload, storage=b"\0" * 8, **more):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/data/0", storage)
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data, zipfile.ZIP_DEFLATED)


def safetensors_file(path, header):
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)


def tar_header(kind, size):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def nemo_file(path, config):
    with tarfile.open(GOLDEN / "conformer.nemo") as old, tarfile.open(path, "w") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isfile() else b""
            if member.name.endswith(CONFIG):
                data = config(data.decode()).encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def write_all(folder):
    for name, payload in PICKLES.items():
        torch_file(folder / f"{name}.pt", payload)
    good = b"\x80\x02}" + text(MARK) + tensor((2,), (1,)) + b"s."
    torch_file(folder / "byte_order.pt", good, byteorder=b"l" * (64 << 20))
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * (64 << 20))
    version = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02" + TUPLES + b"."
    (folder / "version.pt").write_bytes(version + pickle.dumps({"little_endian": True}, 2) + pickle.dumps({}, 2) * 2)
    for name, header in {
        "nan": b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
        "dims": b'{"w": {"dtype": "F32", "shape": [' + b"1," * 99_999 + b'2], "data_offsets": [0, 8]}}',
        "digits": b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}',
        "laughs": b'{"w": [' + b'{"":0},' * (3 << 20) + b"0]}",
    }.items():
        safetensors_file(folder / f"{name}.safetensors", header)
    with open(folder / "sparse.nemo", "wb") as file:  # a long name of 9 GB, which takes no space
        file.write(tar_header(b"L", 9 << 30))
        file.truncate(9 << 30)
    with gzip.open(folder / "longname.nemo", "wb", 1) as file:
        file.write(tar_header(b"x", 128 << 20) + b"\0" * (128 << 20))
    (folder / "chain.nemo").write_bytes((tar_header(b"L", 10) + b"a" * 512) * 2000)
    (folder / "broken.nemo").write_bytes(gzip.compress((GOLDEN / "conformer.nemo").read_bytes())[:-9000] + b"x" * 9000)
    aliases = "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))
    nemo_file(folder / "aliases.nemo", lambda config: f"a0: &a0 [x]\n{aliases}{config}")
    merges = "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 60))
    nemo_file(folder / "merges.nemo", lambda config: f"a0: &a0 {{x: 1}}\n{merges}{config}")
    nemo_file(folder / "deep.nemo", lambda config: "a: " + "[" * 100_000)
    nemo_file(folder / "layers.nemo", lambda config: re.sub("n_layers: 2", "n_layers: 1000000000", config))
    for name in ("pipe.pt", "pipe.nemo", "pipe.safetensors"):
        os.mkfifo(folder / name)
    for name in ("zero.pt", "zero.nemo", "zero.safetensors"):
        (folder / name).symlink_to("/dev/zero")
