"""The check ahead of time: bad flags are one line, and a small config goes through the real TPU compiler."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speech_jax.config import TrainConfig
from speech_jax.core.errors import UserError
from speech_jax.data.config import DataConfig
from speech_jax.lowering.chips import chip_of
from speech_jax.lowering.programs import allocations
from speech_jax.models.config import ConformerConfig
from speech_jax.runs.precompile import bucket_of, for_chip
from speech_jax.tasks.ctc import CTCTaskConfig

ROOT = Path(__file__).parents[1]
CONFIG = """
from speech_jax.config import TrainConfig
from speech_jax.data.config import DataConfig
from speech_jax.models.conformer import ConformerConfig
from speech_jax.tasks.ctc import CTCTaskConfig
from speech_jax.training.sharding import MeshConfig

config = TrainConfig(
    out_dir="runs/tiny",
    data=DataConfig(),
    task=CTCTaskConfig(model=ConformerConfig(
        width=128, layers=1, heads=2, kernel_size=3, conv_norm="layer", dtype="bfloat16", subsampling="dw_striding",
        subsampling_channels=128)),
    mesh=MeshConfig(fsdp=2, min_shard=1),
)
"""


def run(tmp_path, *flags, file="tiny.py"):
    """The front door in a process of its own, without this one's settings for CPU tests."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    ours = ("XLA_FLAGS", "TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, "-m", "speech_jax.compile", "--config", str(tmp_path / file), *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_bucket_of():
    assert bucket_of("64x2.5x30", 16000) == (64, 40000, 30)
    for bad in ("64x2.5", "0x2x3", "ax2x3", "4x0x3", ""):
        with pytest.raises(UserError, match="expected ROWSxSECONDSxLABELS"):
            bucket_of(bad, 16000)


def test_chip_of():
    assert chip_of("v5e:16x16").kind == "TPU v5 lite"
    with pytest.raises(UserError, match="found 'v9:4x4', expected one of v4, v5e"):
        chip_of("v9:4x4")


def test_an_old_chip_gets_attention_in_blocks():
    """As a run on it would: the kernel needs a v5 or later."""
    config = CTCTaskConfig(model=ConformerConfig(attention_fused=True))
    config = TrainConfig(out_dir="x", data=DataConfig(), task=config)
    assert for_chip(config, chip_of("v5e:2x2")) == config
    model = for_chip(config, chip_of("v4:2x2x1")).task.model
    assert (model.attention_fused, model.attention_block) == (False, 128)
    plain = dataclasses.replace(config, task=CTCTaskConfig())
    assert for_chip(plain, chip_of("v4:2x2x1")) == plain


def test_allocations_are_the_compilers_own_lines():
    text = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm.
    Used 40.00G of 15.75G hbm.
    Largest program allocations in hbm:
      1. Size: 20.00G
         Operator: op_name="jit(f)/dot_general"
         Shape: f32[65536,81920]{1,0:T(8,128)}
         ==========================
    """
    found = allocations(ValueError(text))
    assert any("20.00G" in line for line in found) and any("dot_general" in line for line in found)
    with pytest.raises(ValueError, match="something else"):
        allocations(ValueError("INVALID_ARGUMENT: something else"))


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install -e '.[tpu]' brings the TPU compiler"
)


@needs_compiler
def test_a_small_config_through_the_tpu_compiler(tmp_path):
    done = run(tmp_path, "--topology", "v5e:2x2", "--bucket", "8x4x16", "--out", str(tmp_path / "facts.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| gradient |" in done.stdout and "largest step:" in done.stdout
    kinds = {"loading", "reading", "compiling", "compiled"}  # progress, and nothing of libtpu
    assert {line.split()[0] for line in done.stderr.splitlines()} == kinds, done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    gradient, update = facts["programs"]
    assert facts["chips"] == 4 and facts["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    # fsdp halves what each chip holds of parameters and both moments
    assert facts["state_bytes"] < 0.6 * 3 * 4 * facts["parameters"]
    assert {"all-reduce", "all-gather"} & set(gradient["collectives"]) and gradient["collectives"]
    # Between the model's own products and twice that: the features' matrices are no part of "3 × forward" gradients
    assert 0.3 < facts["chips"] * gradient["flops"] / gradient["model_flops"] < 2
    assert 0 < facts["bytes_per_chip"] < facts["chip_bytes"] and facts["fits"]
    assert update["flops"] == 0 and update["bytes"] > 3 * 4 * facts["parameters"] / 2
    assert 0 < facts["utilization"] < 1


@needs_compiler
def test_how_a_model_is_used_through_the_tpu_compiler(tmp_path):
    flags = ("--step", "use", "--topology", "v5e:2x2", "--bucket", "8x4x16", "--out", str(tmp_path / "facts.json"))
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads((tmp_path / "facts.json").read_text())
    (program,) = facts["programs"]
    assert program["name"] == "recognition" and program["batch"]["audio"] == [8, 64000]
    assert facts["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
    # Rows by themselves, parameters on each chip: nothing is sent but token numbers, where they are packed together
    assert sum(kind["bytes"] for kind in program["collectives"].values()) <= 8 * 100 * 4
    assert facts["state_bytes"] == 4 * facts["parameters"]
    assert 0.9 < facts["chips"] * program["flops"] / program["model_flops"] < 2
    assert facts["bytes_per_chip"] > facts["state_bytes"] and 0 < facts["utilization"] < 1


@needs_compiler
def test_what_does_not_fit_says_which_tensors(tmp_path):
    mesh = ("--mesh.fsdp", "1", "--mesh.min-shard", "16384")
    done = run(tmp_path, "--topology", "v5e:2x2", "--bucket", "4096x30x64", *mesh)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "does not fit in 16 GiB" in done.stdout and "Ran out of memory" in done.stdout
    # The largest array is that of the first convolution, 128 channels of float32 at half the features' rate
    sizes = [line for line in done.stdout.splitlines() if line.startswith("Size")]
    assert len(sizes) == 12 and "speech_jax/" in sizes[0] and "GiB on each chip" in sizes[0]
    assert [float(line.split()[1]) for line in sizes] == sorted((float(x.split()[1]) for x in sizes), reverse=True)


@needs_compiler
@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--topology", "v5e:3x7", "--bucket", "8x4x16"], "--topology: found 'v5e:3x7'"),
        (["--topology", "v5e:2x2", "--bucket", "6x4x16"], "expected a multiple of 4"),
        (["--topology", "v5e:2x2", "--bucket", "8x4x16", "--mesh.fsdp", "3"], "expected their product to be 4 devices"),
        (["--adapter.kind", "lora"], "adapter.kind: found it set, expected none"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, expected):
    done = run(tmp_path, *flags)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and expected in errors[0], done.stderr[-2000:]
