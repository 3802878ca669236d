"""TPU chips that are not at hand: their devices to compile for, and a stated model of what they can do.

The figures are the makers': bfloat16 peak, memory and its bandwidth, and the sum of a chip's links to its neighbors
(Google Cloud's pages on each TPU's system architecture). The roofline is the sum, over the instructions of a program,
of the longer of two times: arithmetic at the peak, and main-memory traffic at full bandwidth, but at least `DISPATCH`
each; then the collectives at the full bandwidth of the links, as if nothing overlapped. A real chip is slower in its
kernels and faster where transfers hide behind arithmetic: the figure gives an idea and is no measurement.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from speech_jax.core.errors import UserError
from speech_jax.lowering.flops import PEAK_BF16
from speech_jax.lowering.hlo import BETWEEN_SLICES, Op

DISPATCH = 0.4e-6  # seconds that the smallest instruction takes: 0.3 to 0.5 µs for one that waits for the one before


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them. Bytes, bytes/s of main memory, of the links together, and of a chip's share of its
    host's network."""

    kind: str
    memory: float
    bandwidth: float
    links: float
    network: float

    @property
    def peak(self) -> float:
        """FLOP/s in bfloat16."""
        return PEAK_BF16[self.kind]


CHIPS = {
    "v4": Chip("TPU v4", 32 * 2**30, 1228e9, 300e9, 6.25e9),
    "v5e": Chip("TPU v5 lite", 16 * 2**30, 819e9, 200e9, 3.1e9),
    "v5p": Chip("TPU v5", 95 * 2**30, 2765e9, 600e9, 6.25e9),
    "v6e": Chip("TPU v6 lite", 32 * 2**30, 1640e9, 448e9, 6.25e9),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology's name. Raises UserError for one that is not known."""
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise UserError(f"--topology: found {topology!r}, expected one of {', '.join(CHIPS)} as in v5e:4x4")
    return CHIPS[name]


def topology_devices(topology: str, slices: int = 1) -> Sequence[jax.Device]:
    """Devices of `slices` slices of a topology ("v5e:16x16"), to lower and compile for; nothing runs on them.

    Needs libtpu (the extra `tpu`), and no TPU. Raises UserError where it is missing, or for a topology that does not
    exist.
    """
    chip = chip_of(topology)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu asks the cloud's metadata server where it runs
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened, so several may compile at a time
    from jax.experimental import topologies

    more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.kind == "TPU v4":
        more["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them on the machine
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **more)
    except Exception as error:
        line = str(error).strip().split("\n")[0] or type(error).__name__
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("--topology: found no libtpu, expected the extra: pip install -e '.[tpu]'") from error
        raise UserError(f"--topology: found {topology!r} with {slices} slice(s): {line}") from error
    return found.devices


def roofline(ops: Sequence[Op], chip: Chip) -> dict[str, float]:
    """{"compute", "memory", "links", "network", "seconds"} of one run of a program on one device: seconds.

    compute and memory are the parts of "seconds" whose instructions are bound by the one or the other.
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
