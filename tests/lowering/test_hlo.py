"""A program's text against what is known of it: counts of loops and products, bytes, who talks to whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_jax.lowering.chips import CHIPS, DISPATCH, roofline
from speech_jax.lowering.flops import matmul_flops
from speech_jax.lowering.hlo import BETWEEN_SLICES, HloOp, arrays, group_size, nbytes, operations, parse

# What a TPU's text has and a CPU's has not: S(1) lies on the chip, slices are fetched ahead, groups are axes of a mesh.
TPU = """HloModule jit_f, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_computation (param_0: f32[1024,512], param_1: bf16[512,2048]) -> f32[1024,2048] {
  %param_0 = f32[1024,512]{1,0:T(8,128)S(1)} parameter(0)
  %param_1 = bf16[512,2048]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution = f32[1024,2048]{1,0:T(8,128)} convolution(%param_0, %param_1), dim_labels=bf_io->bf
}

ENTRY %main (p0: f32[1024,512], p1: bf16[512,2048]) -> f32[1024,2048] {
  %p0 = f32[1024,512]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %p1 = bf16[512,2048]{1,0:T(8,128)(2,1)} parameter(1)
  %slice-start = ((f32[1024,512]{1,0:T(8,128)}), f32[256,512]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%p0), slice={[0:256], [0:512]}
  %copy-start = (f32[1024,512]{1,0:T(8,128)S(1)}, f32[1024,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p0)
  %copy-done = f32[1024,512]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion = f32[1024,2048]{1,0:T(8,128)} fusion(%copy-done, %p1), kind=kOutput, calls=%fused_computation
  ROOT %all-reduce = f32[1024,2048]{1,0:T(8,128)} all-reduce(%fusion), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%region_0.1
}
"""  # noqa: E501

BETWEEN = """HloModule jit_g, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main (p0: f32[1024,1024]) -> f32[256,8,128] {
  %p0 = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %after-all = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.1_0"}
  %reduce-scatter.1 = f32[256,1024]{1,0:T(8,128)} reduce-scatter(%p0), channel_id=1, replica_groups={{0,1,2,3}}, use_global_device_ids=true, dimensions={0}, to_apply=%region_0.1
  %bitcast = f32[256,8,128]{2,1,0:T(8,128)} bitcast(%reduce-scatter.1)
  %send = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%bitcast, %after-all), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after-all), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %recv-done = (f32[256,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %get = f32[256,8,128]{2,1,0:T(8,128)} get-tuple-element(%recv-done), index=0
}
"""  # noqa: E501


def test_tpu_text():
    ops = {op.name: op for op in operations(parse(TPU))}
    assert set(ops) == {"slice-start", "copy-start", "fusion", "all-reduce"}
    assert ops["slice-start"].bytes == 256 * 512 * 4  # it is read; what is written lies on the chip
    assert ops["copy-start"].bytes == 1024 * 512 * 4
    assert ops["fusion"].kind == "matmul" and ops["fusion"].flops == 2 * 1024 * 512 * 2048
    assert ops["fusion"].bytes == 512 * 2048 * 2 + 1024 * 2048 * 4
    size = 1024 * 2048 * 4
    assert ops["all-reduce"].wire == pytest.approx(2 * 3 / 4 * size)


def test_of_stacked_arrays_a_fusion_moves_only_its_slice():
    """As a loop over layers has them: updates in place among several results, slices in a fusion within."""
    text = """HloModule m

%within (q0: f32[18,8,64], q1: s32[]) -> f32[8,64] {
  %q0 = f32[18,8,64]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %cut = f32[1,8,64]{2,1,0} dynamic-slice(%q0, %q1, %zero.1, %zero.1), dynamic_slice_sizes={1,8,64}
  ROOT %flat = f32[8,64]{1,0} bitcast(%cut)
}

%fused (p0: f32[18,8,64], p1: s32[], p2: f32[18,512], p3: f32[18,8,64]) -> (f32[18,512], f32[8,64]) {
  %p0 = f32[18,8,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[18,512]{1,0} parameter(2)
  %p3 = f32[18,8,64]{2,1,0} parameter(3)
  %zero = s32[] constant(0)
  %one = f32[8,64]{1,0} fusion(%p0, %p1), kind=kLoop, calls=%within
  %wide = f32[18,8,64]{2,1,0} bitcast(%p2)
  %row = f32[1,8,64]{2,1,0} bitcast(%one)
  %into = f32[18,8,64]{2,1,0} dynamic-update-slice(%wide, %row, %p1, %zero, %zero)
  %back = f32[18,512]{1,0} bitcast(%into)
  %sum = f32[8,64]{1,0} reduce(%p3, %zero), dimensions={0}, to_apply=%add
  ROOT %both = (f32[18,512]{1,0}, f32[8,64]{1,0}) tuple(%back, %sum)
}

ENTRY %main (a: f32[18,8,64], i: s32[], b: f32[18,512], c: f32[18,8,64]) -> (f32[18,512], f32[8,64]) {
  %a = f32[18,8,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[18,512]{1,0} parameter(2)
  %c = f32[18,8,64]{2,1,0} parameter(3)
  ROOT %fusion = (f32[18,512]{1,0}, f32[8,64]{1,0}) fusion(%a, %i, %b, %c), kind=kLoop, calls=%fused
}
"""
    (fusion,) = operations(parse(text))
    layer = 8 * 64 * 4
    sliced, updated, whole, summed, index = layer, layer, 18 * layer, layer, 4
    assert fusion.bytes == sliced + updated + whole + summed + index


def test_a_fusion_whose_root_has_two_results():
    text = """HloModule m

%fused (p: f32[8,64]) -> (f32[8], s32[8]) {
  %p = f32[8,64]{1,0} parameter(0)
  %i = s32[8,64]{1,0} iota(), iota_dimension=1
  %zero = f32[] constant(0)
  %none = s32[] constant(0)
  ROOT %best = (f32[8]{0}, s32[8]{0}) reduce(%p, %i, %zero, %none), dimensions={1}, to_apply=%larger
}

ENTRY %main (a: f32[8,64]) -> (f32[8], s32[8]) {
  %a = f32[8,64]{1,0} parameter(0)
  ROOT %fusion = (f32[8]{0}, s32[8]{0}) fusion(%a), kind=kInput, calls=%fused
}
"""
    (fusion,) = operations(parse(text))
    assert fusion.bytes == 8 * 64 * 4 + 2 * 8 * 4


def test_a_kernel_says_itself_what_it_computes():
    text = """HloModule m

ENTRY %main (a: bf16[8,128]) -> bf16[8,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %room = f32[1024]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %k = bf16[8,128]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"123","transcendentals":"7","bytes_accessed":"4096"}}}
}
"""  # noqa: E501
    (kernel,) = operations(parse(text))
    assert kernel.flops == 123 and kernel.bytes == 2 * 8 * 128 * 2


def test_a_loop_that_counts_to_a_constant():
    """A TPU's text has the limit in the loop's condition alone."""
    text = """HloModule m

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(18)
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %x = f32[8]{0} get-tuple-element(%q), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%j, %one)
  %twice = f32[8]{0} add(%x, %x)
  ROOT %both = (s32[]{:T(128)}, f32[8]{0}) tuple(%next, %twice)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %start = s32[]{:T(128)} constant(2)
  %begin = (s32[]{:T(128)}, f32[8]{0}) tuple(%start, %x)
  %loop = (s32[]{:T(128)}, f32[8]{0}) while(%begin), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""
    module = parse(text)
    found = {op.name: op for op in operations(module)}
    assert found["twice"].times == 16 and found["twice"].bytes == 96 and not module.unknown_loops


def test_shapes():
    assert arrays("(f32[2,3]{1,0:T(8,128)S(1)}, pred[], bf16[4])") == [
        ("f32", (2, 3), False), ("pred", (), True), ("bf16", (4,), True)
    ]  # fmt: skip
    assert nbytes("(f32[2,3]{1,0:S(1)}, bf16[4])") == 8
    assert nbytes("(f32[2,3]{1,0:S(1)}, bf16[4])", everywhere=True) == 32


@pytest.mark.parametrize(
    "text, size",
    [("replica_groups={{0,1,2},{3,4,5}}", 3), ("replica_groups=[2,8]<=[16]", 8), ("", 0),
     ("replica_groups=[8,2]<=[2,8]T(1,0)", 2), ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8)],
)  # fmt: skip
def test_groups(text, size):
    assert group_size(text) == size


def test_loops_and_products_count_as_often_as_they_run():
    def f(w, x, k):
        def body(h, xi):
            h = jnp.tanh(h @ w + xi)
            return h, h

        _, ys = jax.lax.scan(body, x[0], x)
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(jnp.moveaxis(ys, 0, 1), k, (2,), "VALID", dimension_numbers=numbers).sum()

    args = jnp.ones((16, 16)), jnp.ones((37, 8, 16)), jnp.ones((3, 16, 24))
    out = (37 - 3) // 2 + 1
    expected = 37 * 2 * 8 * 16 * 16 + 2 * 8 * out * 24 * 3 * 16
    assert matmul_flops(f, *args) == expected
    compiled = jax.jit(f).lower(*args).compile()
    module = parse(compiled.as_text())
    ops = operations(module)
    assert sum(op.times * op.flops for op in ops) == expected
    assert {op.times for op in ops} == {1.0, 37.0} and not module.unknown_loops


def test_padding_of_a_convolution_is_no_work():
    """What XLA counts itself is the reference; the trace counts padding too, as model FLOPs do."""

    def f(x, k):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=2)

    args = jnp.ones((2, 9, 6, 8)), jnp.ones((3, 3, 4, 10))
    compiled = jax.jit(f).lower(*args).compile()
    found = sum(op.flops for op in operations(parse(compiled.as_text())))
    assert found == pytest.approx(compiled.cost_analysis()["flops"], rel=0.02)
    assert found < matmul_flops(f, *args) == 2 * (2 * 5 * 6 * 10) * 3 * 3 * 4


def test_a_loop_of_unknown_length_is_named():
    program = jax.jit(lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 100, lambda y: y * 1.5 + 1, x))
    module = parse(program.lower(jnp.ones(7)).compile().as_text())
    assert operations(module) and len(module.unknown_loops) == 1


def test_an_update_in_place_moves_the_update_only():
    def f(x, rows):
        def body(n, x):
            return jax.lax.dynamic_update_slice(x, rows * n, (n, 0))

        return jax.lax.fori_loop(0, 50, body, x)

    rng = np.random.default_rng(0)
    args = rng.normal(size=(4096, 64)).astype(np.float32), rng.normal(size=(1, 64)).astype(np.float32)
    compiled = jax.jit(f, donate_argnums=0).lower(*args).compile()
    in_loop = [op for op in operations(parse(compiled.as_text())) if op.times == 50]
    assert in_loop and sum(op.bytes for op in in_loop) < 8192 < args[0].nbytes


def test_collectives_of_eight_devices():
    from speech_jax.core.placement import batch_sharding, replicated
    from speech_jax.training.config import MeshConfig
    from speech_jax.training.sharding import make_mesh

    mesh = make_mesh(MeshConfig())
    w = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=replicated(mesh))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=batch_sharding(mesh))
    ops = operations(parse(jax.jit(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2))).lower(w, x).compile().as_text()))
    talk = [op for op in ops if op.wire]
    assert [op.kind for op in talk] == ["all-reduce"]
    assert talk[0].wire == pytest.approx(2 * (mesh.size - 1) / mesh.size * 32 * 64 * 4)


def test_what_leaves_a_slice_is_counted_apart():
    """The sum of a gradient over two slices of four chips, as the TPU's compiler writes it: within, then between."""
    (op,) = [op for op in operations(parse(BETWEEN)) if op.kind == BETWEEN_SLICES]
    assert op.wire == 256 * 8 * 128 * 4  # 2 · (n − 1)/n of it, for two slices
    three = BETWEEN.replace("{1,2}x{0:3}", "{1,2,3}x{0:3}")
    assert sum(op.wire for op in operations(parse(three)) if op.kind == BETWEEN_SLICES) == pytest.approx(
        4 / 3 * op.wire
    )
    within = [op for op in operations(parse(BETWEEN)) if op.wire and op.kind != BETWEEN_SLICES]
    assert [(op.kind, op.wire) for op in within] == [("reduce-scatter", 3 / 4 * 1024 * 1024 * 4)]


def test_roofline_takes_the_longer_time_of_each_instruction():
    chip = CHIPS["v5e"]
    ops = [
        HloOp("a", "matmul", chip.peak, 0.0, 0.0, 2.0),
        HloOp("b", "fusion", 0.0, chip.bandwidth / 2, 0.0, 1.0),
        HloOp("c", "fusion", 0.0, 8.0, 0.0, 10.0),
        HloOp("d", "all-reduce", 0.0, 0.0, chip.links / 4, 1.0),
        HloOp("e", BETWEEN_SLICES, 0.0, 0.0, chip.network / 8, 2.0),
    ]
    found = roofline(ops, chip)
    assert found["compute"] == pytest.approx(2.0)
    assert found["memory"] == pytest.approx(0.5 + 13 * DISPATCH, rel=1e-5)
    assert found["links"] == pytest.approx(0.25)
    assert found["network"] == pytest.approx(0.25)
    assert found["seconds"] == pytest.approx(sum(found[k] for k in ("compute", "memory", "links", "network")))
