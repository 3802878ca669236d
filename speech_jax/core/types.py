"""The types that rooms hand to each other. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from jaxtyping import Float, Int

from speech_jax.core.errors import UserError

if TYPE_CHECKING:  # configs import this module, and reading one loads no JAX
    import jax
    from jaxtyping import Array

PyTree = Any
Batch = Mapping[str, Any]
OWN, TEACHER = "own", "teacher"  # the two parts of the model state of a network with a teacher; checkpoints hold them


class Model(NamedTuple):
    """A network as two pure functions. No code outside models/ depends on the library it is written with.

    Attributes:
        init: (key, batch) -> (params, model_state).
        apply: (params, model_state, batch, *, key, train) -> (outputs, model_state).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.core.types import Model
        >>> model = Model(
        ...     init=lambda key, batch: ({"w": jnp.ones(())}, {}),
        ...     apply=lambda params, state, batch, *, key, train: (params["w"] * batch["x"], state),
        ... )
        >>> batch = {"x": jnp.arange(3.0)}
        >>> params, state = model.init(jax.random.key(0), batch)
        >>> outputs, state = model.apply(params, state, batch, key=None, train=False)
        >>> outputs.tolist()
        [0.0, 1.0, 2.0]
    """

    init: Callable
    apply: Callable


class LossOut(NamedTuple):
    """A loss: a mean and the number of valid units (frames, labels) it is taken over.

    Attributes:
        value: mean loss per unit.
        weight: number of valid units in the batch.
        model_state: updated model state, such as batch statistics.
        metrics: name -> (sum, count), so that metrics merge across batches and hosts without bias.
        sums: sums over the batch that `value` is a function of, where it is more than one mean over `weight` units: two
            means of different units, or a function of the whole batch. A dict below the key "penalty" holds the terms
            that are logged with their share of the gradient. None stands for (value · weight, weight).
        of_sums: `jax.tree_util.Partial` that makes `value` of `sums`, see `objectives.means`. The sums of micro-batches
            add up before it is applied, so that they equal the whole batch.

    Example:
        >>> import jax.numpy as jnp
        >>> from speech_jax.core.types import LossOut
        >>> errors, mask = jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])
        >>> total, count = jnp.where(mask, errors, 0.0).sum(), mask.sum().astype(jnp.float32)
        >>> out = LossOut(total / count, count, model_state={}, metrics={"error": (total, count)})
        >>> float(out.value), float(out.weight)
        (1.5, 2.0)
    """

    value: Float[Array, ""]
    weight: Float[Array, ""]
    model_state: PyTree
    metrics: Mapping[str, tuple[Array, Array]]
    sums: PyTree = None
    of_sums: Any = None


# (params, model_state, batch, key, step) -> LossOut
Objective = Callable[[PyTree, PyTree, Batch, "jax.Array", "Int[Array, '']"], LossOut]


class Bucket(NamedTuple):
    """Static shape of a batch.

    Attributes:
        rows: number of utterances.
        samples: audio samples per row.
        labels: labels per row.

    Example:
        >>> from speech_jax.core.types import Bucket
        >>> Bucket(rows=8, samples=16000 * 10, labels=120)
        Bucket(rows=8, samples=160000, labels=120)
    """

    rows: int
    samples: int
    labels: int


class Report(NamedTuple):
    """Results of an evaluation.

    Attributes:
        metrics: name -> value, ready to log (for example {"wer": 0.123, "cer": 0.05, "loss": 0.7}).
        examples: one dict per utterance, {"id", "reference", "hypothesis", …}, for tables in the logs.
        images: name -> float array [height, width] to draw in gray, for example a spectrogram, or an RGB picture,
            uint8 [height, width, 3].
        audio: name -> (samples [time] in [-1, 1], sample rate).
        notes: what the metrics alone do not say, for the log, such as "all transcripts are empty".
    """

    metrics: Mapping[str, float]
    examples: list[dict] = []
    images: Mapping[str, Any] = {}
    audio: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


Better = Literal["min", "max", "either"]


class Task(NamedTuple):
    """Model, loss and evaluation, as training/ takes them.

    Attributes:
        model: the network; its `init` takes a batch of the shapes of `batch_spec`.
        objective: the loss.
        batch_spec: (Bucket) -> pytree of jax.ShapeDtypeStruct, for compiling ahead of time.
        evaluate: (params, model_state, batches) -> Report.
        sharding: (pattern, a mesh axis or None per dimension): default sharding of the parameters.
        metrics: name of each metric that `evaluate` reports -> whether smaller or larger values are better, so that a
            run can check the metrics in its settings before the first step. Empty: they are checked when they are
            first measured.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.core.types import Bucket, LossOut, Model, Report, Task
        >>> def init(key, batch):
        ...     return {"mean": jnp.zeros(())}, {}
        >>> def apply(params, model_state, batch, *, key=None, train=False):
        ...     return {"mean": params["mean"]}, model_state
        >>> def objective(params, model_state, batch, key, step):
        ...     return LossOut(jnp.mean((batch["x"] - params["mean"]) ** 2), jnp.float32(batch["x"].size), {}, {})
        >>> def batch_spec(bucket):
        ...     return {"x": jax.ShapeDtypeStruct((bucket.rows, bucket.samples), jnp.float32)}
        >>> task = Task(Model(init, apply), objective, batch_spec, lambda params, state, batches: Report({}))
        >>> task.batch_spec(Bucket(rows=4, samples=8, labels=0))["x"].shape
        (4, 8)
    """

    model: Model
    objective: Objective
    batch_spec: Callable
    evaluate: Callable
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    metrics: Mapping[str, Better] = {}


class Reader(Protocol):
    """Text to ids: a tokenizer, or the front end of a voice."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def pieces(self) -> tuple[str, ...]:
        """The string of each id, by which parameters move to another vocabulary."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. Raises UserError for a text that cannot be read."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON from which `TaskConfig.load_reader` makes an equal reader."""
        ...


class StreamOptions(NamedTuple):
    """Requirements of a task on its training batches.

    Attributes:
        max_labels: Seconds of recordings [n] to the greatest number of labels that each can have; None sets no limit.
        misfits: Treatment of a recording with more labels: "warn" keeps it, "leave_out" does not.
        mels: Audio settings of the mel files that the manifest's rows name, for a task that learns from those.
        joins: True for a task that can learn from rows of joined utterances.
    """

    max_labels: Callable[[Any], Any] | None = None
    misfits: Literal["warn", "leave_out"] = "warn"
    mels: Any = None
    joins: bool = False


class Checkpointed(NamedTuple):
    """The model of a checkpoint, without its parameters.

    Attributes:
        task: Its task config.
        reader: Tokenizer or front end of its texts, or None.
        speakers: Names of its speakers, for a voice or vocoder of several.
    """

    task: TaskConfig
    reader: Reader | None
    speakers: tuple[str, ...] = ()


class StartRules(NamedTuple):
    """Rules for initializing a task from the checkpoint of another run.

    Attributes:
        keeps_reader: The checkpoint's reader can serve this task.
        conflict: Why its reader cannot be kept although it is of the right kind, for an error; empty if it can be.
        optional: Top-level parameters that are initialized where the checkpoint has none, and left behind where the
            network has none: the head, or the parameters of a pre-training loss.
        grow: Makes the checkpoint's parameters those of a larger network that computes the same; None changes nothing.
        fresh: Patterns of parameters that `grow` leaves to be initialized.
    """

    keeps_reader: bool = False
    conflict: str = ""
    optional: tuple[str, ...] = ("head", "pretext")
    grow: Callable[[PyTree], PyTree] | None = None
    fresh: tuple[str, ...] = ()


class Program(NamedTuple):
    """An inference function, as `compile` and export lower it.

    Attributes:
        name: What it computes.
        function: (weights, batch) -> outputs; pure, each row independent of the others.
        weights: Shapes of the parameters.
        batch: Shapes of the inputs, rows first.
    """

    name: str
    function: Callable[[PyTree, Batch], Any]
    weights: PyTree
    batch: Batch


class TaskConfig(Protocol):
    """Interface between a task and the rest of the program: the plug.

    A task config is a frozen dataclass with this class as its base and a field `audio`. Only `build` is required; the
    other methods have defaults. No code outside `tasks/` tests the type of a task.

    Example:
        >>> import dataclasses
        >>> import jax, jax.numpy as jnp
        >>> from speech_jax.audio.config import AudioConfig
        >>> from speech_jax.core.types import Bucket, LossOut, Model, Report, Task, TaskConfig
        >>> @dataclasses.dataclass(frozen=True)
        ... class LevelConfig(TaskConfig):  # learns the mean power of recordings
        ...     audio: AudioConfig = AudioConfig()
        ...     def build(self, reader, teacher=None):
        ...         def apply(params, state, batch, *, key=None, train=False):
        ...             return {"error": (batch["audio"] ** 2).mean(1) - params["level"]}, state
        ...         def objective(params, state, batch, key, step):
        ...             total = (apply(params, state, batch)[0]["error"] ** 2).sum()
        ...             return LossOut(total / len(batch["audio"]), jnp.float32(len(batch["audio"])), state, {})
        ...         def batch_spec(bucket):
        ...             return {"audio": jax.ShapeDtypeStruct((bucket.rows, bucket.samples), jnp.float32)}
        ...         model = Model(lambda key, batch: ({"level": jnp.zeros(())}, {}), apply)
        ...         return Task(model, objective, batch_spec, lambda params, state, batches: Report({}))
        >>> task = LevelConfig().build(reader=None)
        >>> params, state = task.model.init(jax.random.key(0), None)
        >>> float(task.objective(params, state, {"audio": jnp.ones((2, 8))}, None, 0).value)
        1.0
    """

    kind: ClassVar[str] = "task"
    """Kind of model that a checkpoint of this task holds, named in errors: "recognizer", "voice", "vocoder", …"""
    named_speakers: ClassVar[bool] = False
    """The task can learn one vector per speaker; its fields are `speakers` ("one" or "data") and `model.speakers`."""
    reads_text: ClassVar[bool] = True
    """It learns from texts; without, settings of labels have no effect."""
    takes_teacher: ClassVar[bool] = False
    """`build` accepts a teacher."""
    takes_pre_task: ClassVar[bool] = False
    """An unsupervised loss of the encoder can be added as L_pre."""
    next_command: ClassVar[str] = ""
    """Command that uses a run, shown when training ends; {run} is its folder. Empty shows none."""

    audio: Any
    model: Any  # where there is a network whose settings others compare

    def build(self, reader: Reader | None, teacher: Any = None) -> Task:
        """Return the task that `training/` is handed."""
        ...

    def make_reader(self, texts: Callable[[], Iterable[str]]) -> Reader | None:
        """Return a new reader for the training texts, or None where no text is read; `texts` reads the manifests."""
        return None

    def load_reader(self, value: Mapping[str, Any]) -> Reader | None:
        """Return the reader that a checkpoint holds as JSON."""
        return None

    def placeholder_reader(self, vocab_size: int) -> Reader | None:
        """Return a reader of `vocab_size` ids for compiling without data; the ids' meaning does not matter."""
        return None

    def with_speakers(self, count: int) -> TaskConfig:
        """Return the config for `count` speakers. Only where `named_speakers` is set."""
        return self

    def stream_options(self) -> StreamOptions:
        """Return what the task asks of its batches."""
        return StreamOptions()

    def start_rules(self, old: Checkpointed) -> StartRules:
        """Return what is taken from a checkpoint of `old`."""
        return StartRules(keeps_reader=old.task.kind == self.kind)

    def program(self, bucket: Bucket, vocab_size: int) -> Program:
        """Return the inference function on batches of shape `bucket`. Raises UserError for a task that only trains."""
        raise UserError(f"{type(self).__name__}: found a task that only trains, expected one with an inference program")


class TrainState(NamedTuple):
    """State of a run that must survive a restart, in addition to the data index.

    Attributes:
        step: number of optimizer steps done.
        params: trained parameters.
        model_state: state of the network that is not trained, such as batch statistics.
        opt_state: state of the optimizer.
        ema: exponential moving average of the parameters, or None if none is kept.
    """

    step: Int[Array, ""]
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree
