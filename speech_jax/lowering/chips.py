"""TPU chips to compile for without having one: their devices, and a stated model of their speed.

The figures are the makers': bfloat16 peak, memory and its bandwidth, and the sum of a chip's links to its neighbors
(Google Cloud's pages on each TPU's system architecture). The roofline is the sum, over the instructions of a program,
of the longer of two times: arithmetic at the peak, and main-memory traffic at full bandwidth, but at least `DISPATCH`
each; then the collectives at the full bandwidth of the links, as if nothing overlapped. A real chip is slower in its
kernels and faster where transfers overlap with arithmetic: the figure is an estimate, not a measurement.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speech_jax.core.errors import UserError, install_extra
from speech_jax.lowering.flops import PEAK_BF16
from speech_jax.lowering.hlo import BETWEEN_SLICES, HloOp

GIB = 2**30  # bytes
DISPATCH = 0.4e-6  # seconds of the smallest instruction: 0.3 to 0.5 µs for one that waits for its predecessor


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts devices.

    Attributes:
        kind: JAX's `device_kind`.
        memory: bytes of main memory.
        bandwidth: bytes/s of main memory.
        links: bytes/s of all links to neighboring chips together.
        network: bytes/s of the chip's share of its host's network.
    """

    kind: str
    memory: float
    bandwidth: float
    links: float
    network: float

    @property
    def peak(self) -> float:
        """Peak FLOP/s in bfloat16."""
        return PEAK_BF16[self.kind]


CHIPS = {
    "v4": Chip("TPU v4", 32 * 2**30, 1228e9, 300e9, 6.25e9),
    "v5e": Chip("TPU v5 lite", 16 * 2**30, 819e9, 200e9, 3.1e9),
    "v5p": Chip("TPU v5", 95 * 2**30, 2765e9, 600e9, 6.25e9),
    "v6e": Chip("TPU v6 lite", 32 * 2**30, 1640e9, 448e9, 6.25e9),
}


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology such as "v5e:4x4".

    Raises:
        UserError: the chip is unknown.
    """
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise UserError(f"--topology: found {topology!r}, expected one of {', '.join(CHIPS)} as in v5e:4x4")
    return CHIPS[name]


def topology_devices(topology: str, slices: int = 1) -> Sequence[Any]:
    """Return the devices of a topology, to lower and compile for; nothing can run on them.

    Needs libtpu (the extra `tpu`), but no TPU.

    Args:
        topology: for example "v5e:16x16".
        slices: number of slices of that topology.

    Raises:
        UserError: libtpu is missing, or the topology does not exist.
    """
    chip = chip_of(topology)
    # libtpu asks the cloud's metadata server for these, with a page of warnings where there is none. The topology below
    # does not depend on them.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened, so several processes may compile
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.kind == "TPU v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX counts them on a TPU
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:
        line = str(error).strip().split("\n")[0] or type(error).__name__
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(f"--topology: found no libtpu, expected {install_extra('tpu')}") from error
        raise UserError(f"--topology: found {topology!r} with {slices} slice(s): {line}") from error
    return description.devices


def roofline(ops: Sequence[HloOp], chip: Chip) -> dict[str, float]:
    """Return the seconds of one run of a program on one device, by the model of the module's docstring.

    Args:
        ops: instructions of the program, from `hlo.operations`.
        chip: the device.

    Returns:
        {"compute", "memory", "links", "network", "seconds"}. "seconds" is the sum of the others: instructions bound by
        arithmetic, instructions bound by memory, transfers within a slice, transfers between slices.
    """
    compute = memory = links = network = 0.0
    for op in ops:
        if op.kind == BETWEEN_SLICES:
            network += op.times * op.wire / chip.network
        else:
            links += op.times * op.wire / chip.links
        arithmetic, traffic = op.flops / chip.peak, op.bytes / chip.bandwidth
        if arithmetic >= traffic:
            compute += op.times * max(arithmetic, DISPATCH)
        else:
            memory += op.times * max(traffic, DISPATCH)
    return {
        "compute": compute, "memory": memory, "links": links, "network": network,
        "seconds": compute + memory + links + network,
    }  # fmt: skip
