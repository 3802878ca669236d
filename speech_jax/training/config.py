"""Settings of the optimizer, the step, the devices, the processes and the loop, apart from their code.

Loading a config or printing a `--help` imports neither Optax nor Orbax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from speech_jax.core.claims import not_used_by
from speech_jax.core.command_line import Range
from speech_jax.core.config_dict import new_field
from speech_jax.core.errors import UserError
from speech_jax.monitoring.config import WatchConfig
from speech_jax.objectives.config import Method


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, learning rate schedule, weight decay, and which parameters are trained.

    Example:
        >>> from speech_jax.training.config import OptimizerConfig
        >>> config = OptimizerConfig(
        ...     schedule="cosine",
        ...     peak_lr=3e-4,
        ...     warmup_steps=100,
        ...     groups=(("^encoder/frontend/", None), ("^head/", 10.0), (".*", 1.0)),  # frozen, faster, the rest
        ... )
        >>> config.name, config.clip_norm
        ('adamw', 1.0)
    """

    name: Literal["adamw", "adam", "sgd", "rmsprop", "lion"] = "adamw"
    """Optimizer: AdamW (decoupled weight decay), Adam, SGD with momentum, RMSProp, or Lion."""
    schedule: Literal["noam", "tri_stage", "cosine", "wsd", "constant", "steps"] = "noam"
    """Schedule after linear warm-up. noam: proportional to 1/sqrt(step). tri_stage: hold, then exponential decay to
    end_lr. cosine: half a cosine to end_lr. wsd: hold, then linear decay over the last decay_steps. constant. steps:
    multiplied by fall_factor at each step of `falls`."""
    peak_lr: float = 1e-3
    """Highest learning rate, at the end of the warm-up. NeMo's Noam factor f with width d and warm-up w corresponds to
    f / sqrt(d * w)."""
    end_lr: float = 1e-6
    """Lowest learning rate: the end of the schedule, and the minimum of noam."""
    warmup_steps: int = 1000
    """Steps of linear warm-up from 0 to peak_lr."""
    hold_steps: int = 0
    """Steps at peak_lr after the warm-up (tri_stage only)."""
    decay_steps: int = 0
    """Steps of the final decay (tri_stage and wsd). 0: the rest of the run for tri_stage, a tenth of it for wsd."""
    falls: tuple[int, ...] = new_field(())
    """Steps at which the learning rate drops (schedule steps only)."""
    fall_factor: float = new_field(0.1)
    """Factor on the learning rate at each step of `falls`."""
    b1: float = 0.9
    """Decay of the first moment (adam, adamw, lion)."""
    b2: float = 0.98
    """Decay of the second moment (adam, adamw, lion, rmsprop)."""
    eps: float = 1e-9
    """Added to the square root of the second moment (adam, adamw, rmsprop)."""
    momentum: float = 0.9
    """Momentum (sgd, rmsprop)."""
    weight_decay: float = 1e-3
    """Decoupled weight decay, multiplied by the learning rate. Must be 0 for adam."""
    l2: float = new_field(0.0)
    """L2 coefficient: adds l2 · parameter to the gradient after clipping, before the optimizer (`weight_decay` of
    PyTorch's Adam). Parameters that match `no_decay` are left out."""
    no_decay: tuple[str, ...] = (r"(^|/)(bias|scale|[a-z_]*_bias)$", r"(?i)norm")
    """Regular expressions of parameters without weight decay and L2: biases and norms."""
    clip_norm: float | None = 1.0
    """Global norm of the trainable parameters' gradient above which it is scaled down; None turns clipping off."""
    groups: tuple[tuple[str, float | None], ...] = ((".*", 1.0),)
    """(regular expression, factor on the learning rate, above 0); the first match wins. None freezes the parameters and
    the batch statistics of that name. Must cover every parameter."""
    hold: tuple[tuple[str, int], ...] = ()
    """(regular expression, steps): parameters, and batch statistics of that name, that are frozen for the first steps;
    the first match wins. ("^encoder/", 500), as a flag '^encoder/' 500, trains the head alone at first; several
    patterns unfreeze gradually."""
    anchor: float = 0.0
    """L2-SP (Li et al. 2018): adds anchor/2 · |θ − θ₀|² to the loss, where θ₀ are the parameters at the start of the
    run. Parameters that match `anchor_free` are left out."""
    ewc: float = 0.0
    """Elastic weight consolidation (Kirkpatrick et al. 2017): like `anchor`, with each parameter weighted by its Fisher
    information on the old domain, scaled to a mean of 1."""
    ewc_batches: int = 50
    """Batches of the old domain (`pre`) from which the Fisher information is estimated, before the first step."""
    ewc_per: Literal["utterance", "batch"] = new_field("utterance")
    """Gradients whose squares are the Fisher information: of single utterances, as it is defined, or the mean gradient
    of each batch, which takes one backward pass per batch but ranks parameters otherwise."""
    ewc_microbatch: int = new_field(4)
    """Utterances whose gradients are computed at the same time (`ewc_per` utterance). More is faster on an accelerator
    and takes as many times the memory of the parameters."""
    anchor_free: tuple[str, ...] = (r"^head/",)
    """Regular expressions of parameters without `anchor` and `ewc`."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it. The head has 1, the topmost of n layers
    (`layers_<n-1>`) this factor, and everything below the layers this factor to the power of n + 1."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        names = {"b1": "adamw adam lion", "b2": "adamw adam lion rmsprop", "eps": "adamw adam rmsprop"}
        names |= {"momentum": "sgd rmsprop"}
        schedules = {"end_lr": "noam tri_stage cosine wsd", "hold_steps": "tri_stage", "decay_steps": "tri_stage wsd"}
        schedules |= {"falls": "steps", "fall_factor": "steps"}
        idle = not_used_by("name", self.name, names) | not_used_by("schedule", self.schedule, schedules)
        if not (self.weight_decay or self.l2):
            idle["no_decay"] = "with {weight_decay} and {l2}"
        if not (self.anchor or self.ewc):
            idle["anchor_free"] = "with {anchor} and {ewc}"
        if self.ewc_per != "utterance":
            idle["ewc_microbatch"] = "with {ewc_per}"
        if not self.ewc:
            idle |= dict.fromkeys(("ewc_batches", "ewc_per", "ewc_microbatch"), "with {ewc}")
        return idle


@dataclass(frozen=True)
class PrivacyConfig:
    """DP-SGD (Abadi et al. 2016) by jax-privacy: clips each utterance's gradient and adds noise to the sum."""

    noise_multiplier: float = 0.0
    """Standard deviation of the noise in units of `clip_norm`. 0: no privacy."""
    clip_norm: float = 1.0
    """Norm to which the combined gradient alpha · L_pre + (1 - alpha) · L_task of each utterance is clipped."""
    delta: float = 1e-5
    """Delta of the (epsilon, delta) guarantee; must be below 1 / utterances."""
    max_epsilon: float | None = None
    """Largest epsilon: a run that would exceed it at its last step is refused. None: no limit, epsilon is logged."""
    microbatch: int = 1
    """Utterances per device whose gradients are computed at the same time. More is faster on an accelerator, and takes
    as many times the memory of the trained parameters."""
    log_exact: bool = False
    """Also log losses and the share of clipped gradients. They are exact statistics of private recordings: the
    guarantee then covers the checkpoints, not the logs."""

    def __post_init__(self) -> None:
        checks = (
            ("noise_multiplier", 0 <= self.noise_multiplier < math.inf, "a number of 0 or more"),
            ("clip_norm", self.clip_norm > 0 and (not self.on or self.clip_norm < math.inf), "a number above 0"),
            ("delta", 0 < self.delta < 1, "a number between 0 and 1"),
            ("max_epsilon", self.max_epsilon is None or self.max_epsilon > 0, "a number above 0, or None"),
            ("microbatch", self.microbatch >= 1, "at least 1"),
        )
        for name, good, expected in checks:
            if not good:
                raise UserError(f"trainer.step.privacy.{name}: found {getattr(self, name)}, expected {expected}")

    @property
    def on(self) -> bool:
        """True if the run is private."""
        return self.noise_multiplier > 0

    def settings(self) -> dict[str, float]:
        """Return the values that the accounting relies on.

        Resuming with other values is refused: the reported epsilon would be wrong.
        """
        return {"noise_multiplier": self.noise_multiplier, "clip_norm": self.clip_norm, "delta": self.delta}

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        names = ("clip_norm", "delta", "max_epsilon", "microbatch", "log_exact")
        return {} if self.on else dict.fromkeys(names, "with {noise_multiplier}")


@dataclass(frozen=True)
class StepConfig:
    """Gradient accumulation, parameter averaging, combination of the two gradients, privacy."""

    accumulate: int = 1
    """Micro-batches per step: each batch is split into this many parts, whose gradients are weighted by valid units
    (frames or labels). Saves memory; the step is the same."""
    ema: float | None = None
    """Decay of the exponential moving average of the parameters, for example 0.999; None keeps no average. The decay
    starts lower and rises to this value over the first steps."""
    gradients: Method = "sum"
    """Combination of the gradients of L_pre and L_task: "sum", or "pcgrad", which removes their conflicting parts."""
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """Differentially private training."""

    def __post_init__(self) -> None:
        if self.privacy.on and (self.accumulate != 1 or self.gradients != "sum"):
            raise UserError(
                f"trainer.step: found accumulate {self.accumulate}, gradients {self.gradients!r} with privacy, "
                "expected 1 and 'sum': privacy.microbatch saves memory, and each utterance's gradient is clipped whole"
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints that are written and kept."""

    every: int = 1000
    """Steps between checkpoints. One is always written at the end, on SIGTERM, and after an evaluation that is the best
    so far (unless `keep_best` is 0); 0 writes only those."""
    keep_last: int = 2
    """Number of newest checkpoints to keep. At least 2 are kept, so that a damaged one has a fallback."""
    keep_best: int = 1
    """Number of best checkpoints to keep in addition: by `metric` within the guards; with guards alone the newest
    within them."""
    metric: str | None = None
    """Metric that ranks checkpoints, "<evaluation set>/<metric>", for example "dev/wer". None: the last is the best."""
    mode: Literal["min", "max"] = "min"
    """min: a smaller `metric` is better; max: a larger one."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return {} if self.metric is not None else {"mode": "with {metric}"}


@dataclass(frozen=True)
class GuardConfig:
    """Limit on how much worse a metric of the old domain may get during fine-tuning."""

    metric: str
    """Name of the metric, "<evaluation set>/<metric>", for example "old/wer". Smaller is better."""
    within: float = 0.02
    """Allowed relative increase over the value of the model that the run starts from; 0.02 is 2 %."""
    patience: int = 0
    """Evaluations in a row above the limit after which the run ends. 0: never."""


Rules = tuple[tuple[str, tuple[str | None, ...] | Literal["auto"]], ...]


@dataclass(frozen=True)
class MeshConfig:
    """Layout of the devices. Batches are split over data and fsdp, parameters over fsdp and tensor.

    Example:
        >>> from speech_jax.training.config import MeshConfig
        >>> from speech_jax.training.sharding import make_mesh
        >>> mesh = make_mesh(MeshConfig(data=-1, fsdp=1))
        >>> mesh.axis_names, mesh.shape["fsdp"]
        (('data', 'fsdp', 'tensor'), 1)
    """

    data: Annotated[int, Range(-1, 10**7)] = -1
    """Devices with the same parameters and different rows of the batch. -1: all remaining devices."""
    fsdp: Annotated[int, Range(-1, 10**7)] = 1
    """Devices that split both the parameters and the rows of the batch. -1: all remaining ones."""
    tensor: Annotated[int, Range(-1, 10**7)] = 1
    """Devices with the same rows that split the parameters by `rules`. -1: all remaining ones."""
    rules: Rules = ()
    """(regular expression, a mesh axis or None for each dimension); the first match wins. "auto" splits the largest
    dimension that fsdp divides. Must cover every parameter. Empty: the model's own rules."""
    min_shard: int = 16384
    """Parameters with fewer elements than this are not split by "auto"."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        if self.fsdp == 1:
            idle = {"min_shard": "with {fsdp}"}
            if self.tensor == 1 and not any("data" in axes for _, axes in self.rules):
                idle["rules"] = "with {fsdp} and {tensor}"
            return idle
        return {} if any(axes == "auto" for _, axes in self.rules) or not self.rules else {"min_shard": "with {rules}"}


@dataclass(frozen=True)
class HostsConfig:
    """Process group of a multi-process run. Start every process with the same command, except for `index`."""

    launcher: Literal["auto", "none", "tpu", "slurm", "mpi"] = "auto"
    """Source of the number of processes. "auto": `coordinator`, or the environment of a Slurm step, Open MPI or GKE;
    one process if none of them is set. "tpu": the metadata of the Cloud TPU machines. "none": one process."""
    coordinator: str = ""
    """HOST:PORT of process 0. Empty: JAX_COORDINATOR_ADDRESS."""
    count: Annotated[int, Range(0, 10**6)] = 0
    """Number of processes. 0: from the launcher or JAX_NUM_PROCESSES."""
    index: Annotated[int, Range(-1, 10**6)] = -1
    """Index of this process, from 0. -1: from the launcher or JAX_PROCESS_ID."""
    timeout: Annotated[int, Range(1, 10**7)] = new_field(60)
    """Seconds within which all processes have to start, and without a sign of life after which one counts as lost: the
    others name it and stop. With `launcher` tpu or slurm, whose coordinator JAX finds by itself, only for the start."""
    heartbeat: Annotated[int, Range(1, 10**7)] = 100
    """Seconds without a sign of life after which JAX itself aborts the other processes, where `timeout` does not
    apply."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        names = ("coordinator", "count", "index", "timeout", "heartbeat")
        return dict.fromkeys(names, "with {launcher}") if self.launcher == "none" else {}


@dataclass(frozen=True)
class TrainerConfig:
    """Length of a run, and its evaluations, checkpoints and logs.

    Example:
        >>> from speech_jax.training.config import CheckpointConfig, TrainerConfig
        >>> config = TrainerConfig(steps=2_000, checkpoint=CheckpointConfig(every=500, metric="dev/wer"))
        >>> config.steps, config.checkpoint.every, config.eval_every
        (2000, 500, 1000)
    """

    steps: int = 10_000
    """Total optimizer steps, counting those done before a resume."""
    step: StepConfig = field(default_factory=StepConfig)
    """One step: gradient accumulation, moving average, combination of the two gradients, privacy."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints that are written and kept."""
    eval_every: int = 1000
    """Steps between evaluations. The end of the run is always evaluated; 0 evaluates only there."""
    eval_first: bool = False
    """Also evaluate before the first step. Guards do this in any case."""
    guards: tuple[GuardConfig, ...] = ()
    """Metrics of old domains that must not get worse. A checkpoint that breaks a guard, or was not evaluated, is never
    the best."""
    patience: int = 0
    """Evaluations in a row without a better `checkpoint.metric` after which the run ends. 0: never."""
    log_every: int = 50
    """Steps between log lines; each line of metrics.jsonl and each point on TensorBoard is their mean."""
    progress_seconds: Annotated[float, Range(0, 1e9)] = 10.0
    """Seconds between progress lines where stderr is not a terminal."""
    max_bad_steps: int = 10
    """Steps in a row with a loss or gradient that is not finite after which the run ends. Each of them is skipped."""
    tensorboard: bool = True
    """Write TensorBoard files in addition to metrics.jsonl."""
    examples: int = 8
    """Transcripts per evaluation that TensorBoard shows."""
    force_resume: bool = False
    """Resume although the recordings or their batches have changed. The order of the data will differ."""
    watch: WatchConfig = new_field(WatchConfig())
    """Monitoring: metrics endpoint, profiler, watchdog, external trackers."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        idle = {} if self.tensorboard else {"examples": "with {tensorboard}"}
        if self.checkpoint.metric is None and not self.guards:
            idle["checkpoint.keep_best"] = "with {checkpoint.metric} and without trainer.guards"
        return idle
