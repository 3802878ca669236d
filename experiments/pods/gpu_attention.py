"""Attention's gradient compiled by XLA for an H100, without one: temporary memory and registers.

    pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION  # that of the installed jax
    JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 TF_CPP_MIN_LOG_LEVEL=0 \
        python experiments/pods/gpu_attention.py 2>&1 | grep -E '^[a-z]|ptxas'

ptxas must be on the PATH; what it says of a row stands above it. Nothing is run, so no time is measured.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from speech_jax.kernels import attention_gpu
from speech_jax.kernels.attention_tpu import AttentionInputs
from speech_jax.models.attention import attend, attend_in_blocks

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
ROWS, HEADS, RATE = 8, 8, 0.1

devices = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1").devices
sharding = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec())


def by_kernels(inputs: AttentionInputs, key):
    seeds = jax.random.bits(key, (ROWS, HEADS), jnp.uint32)
    size = attention_gpu.block_size(inputs.query.shape[3], inputs.query.dtype.itemsize)
    return attention_gpu.attend(inputs, seeds, RATE, size=size)


KINDS = {
    "plain": lambda inputs, key: attend(inputs, key, RATE),
    "blocks of 128": lambda inputs, key: attend_in_blocks(inputs, 128, key, RATE),
    "kernels": by_kernels,
}


def compile_one(kind: str, time: int, width: int, dtype: str) -> None:
    some = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    block = some(ROWS, time, HEADS, width)
    inputs = AttentionInputs(block, block, block, block, some(2 * time - 1, HEADS, width), some(ROWS, time, dtype=bool))

    def loss(learned: tuple, mask, key):
        mixed = KINDS[kind](AttentionInputs(*learned, mask), jax.random.wrap_key_data(key))
        return jnp.sum(mixed.astype(jnp.float32) ** 2)

    key = some(2, dtype=jnp.uint32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(tuple(inputs[:-1]), inputs.key_mask, key).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(f"{dtype}, {ROWS} x {HEADS} heads of {width}, {time:5} frames, {kind}: {temporary:.0f} MiB", flush=True)


for case in ((500, 64, "bfloat16"), (1000, 64, "bfloat16"), (4000, 64, "bfloat16")):
    for kind in KINDS:
        compile_one(kind, *case)
for case in ((1000, 44, "bfloat16"), (1000, 128, "bfloat16"), (1000, 64, "float32")):
    compile_one("kernels", *case)
