"""Decide what a changed setting means for a run that resumes.

Each setting of TrainConfig is of one class, by the first pattern of CLASSES that its name matches:

- FREE settings change nothing but rounding, for example logs and the layout of the devices.
- CONTINUES: it changes how the run continues. It is allowed, logged, and written with its step to settings.jsonl.
- FIXED: it cannot change within a run, or would reach nothing: the run is refused.

The settings before are those in the newest checkpoint. Nothing is written before the decision.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from speech_jax.config import TrainConfig, config_from_assets
from speech_jax.core.claims import without_idle
from speech_jax.core.config_dict import describe_value, to_saved_dict
from speech_jax.core.errors import UserError
from speech_jax.core.passwords import mask_address
from speech_jax.runs.claims import idle_in_run
from speech_jax.training.loop import Resumption
from speech_jax.training.optimizer import learning_rate

FREE, CONTINUES, FIXED = "free", "continues", "fixed"

NETWORK = "it is a part of the trained network"
STATE = "the optimizer's state is made for it"
READ_ONCE = "it is read before the first step only"
DRAWS = "the draws of all steps follow from it"
FORCE = "; --trainer.force-resume resumes anyway"
ORDER = f"it decides the order of the data{FORCE}"
EPSILON = "the reported epsilon would be wrong"

CLASSES: tuple[tuple[str, str, str], ...] = (
    # (regular expression of a setting's whole name, class, reason); the first match wins
    (r"out_dir|mesh\..*|hosts\..*", FREE, ""),
    # recordings
    (r"(data|pre|evaluate\.\d+\.data)\.(on_error|workers|threads|prefetch|cache_mb|allow_pipes)", FREE, ""),
    (r"evaluate\.\d+\.data\.seed", FREE, "an evaluation takes every utterance once"),
    (r"evaluate(\..*)?|pre|(data|pre)\.(max_seconds|channel)", CONTINUES, ""),
    (r"(data|pre)\.(sources|plan|seed|empty_texts)(\..*)?", FIXED, ORDER),
    # the loss
    (r"alpha\.(kind|start|end|begin|steps|rate|middle)", CONTINUES, ""),
    (r"teacher\.checkpoint", FIXED, "the teacher's parameters are in the checkpoint"),
    (r"teacher\.(weight|temperature|hidden)", CONTINUES, ""),
    # the network and its input
    (r"(pre_)?task\.model\.(remat|remat_keeps)", FREE, ""),
    (r"(pre_)?task\.model\.(dropout\w*|\w+_dropout|stochastic_depth|layer_drop|mask_(time|channels)(_span)?|held_rate"
     r"|dtype|attention_block|attention_fused\w*)", CONTINUES, ""),
    (r"(pre_)?task\.audio\.dither|(pre_)?task\.augment\..*", CONTINUES, ""),
    (r"(pre_)?task(\.model|\.audio)?|(pre_)?task\.(model|audio)\..*", FIXED, NETWORK),
    (r"task\.(tokenizer|frontend)\..*", FIXED, READ_ONCE),
    # the tasks' own settings
    (r"(pre_)?task\.(method|best_rq\.\w+|autoencoder\.width|contrastive\.(groups|codes|width))", FIXED, NETWORK),
    (r"task\.(speakers|pre_emphasis|gain)", FIXED, NETWORK),
    (r"(pre_)?task\.(hidden_share|hidden_span|autoencoder\.shown_weight"
     r"|contrastive\.(distractors|temperature|diversity|gumbel))", CONTINUES, ""),
    (r"task\.(frames|stop_weight|guided|guided_sigma|reduction|speak|crop_frames|mels|input_noise|clip_seconds)",
     CONTINUES, ""),
    # the start
    (r"seed", FIXED, DRAWS),
    (r"init_from|start\.(which|fresh|drop|tokenizer|speakers)", FIXED, READ_ONCE),
    (r"adapter\.(kind|rank|scale|targets|train)", FIXED, NETWORK),
    # the optimizer
    (r"optimizer\.ewc_\w+", FIXED, READ_ONCE),
    (r"optimizer\.(name|anchor_free)", FIXED, STATE),
    (r"optimizer\.(schedule|peak_lr|end_lr|warmup_steps|hold_steps|decay_steps|falls|fall_factor|b1|b2|eps|momentum"
     r"|weight_decay|l2|no_decay|clip_norm|groups|hold|anchor|ewc|layer_decay)", CONTINUES, ""),
    # the loop
    (r"trainer\.step\.privacy\.(noise_multiplier|clip_norm|delta)", FIXED, EPSILON),
    (r"trainer\.step\.privacy\.(max_epsilon|microbatch|log_exact)", FREE, ""),
    (r"trainer\.step\.(accumulate|ema|gradients)", CONTINUES, ""),
    (r"trainer\.(steps|eval_every|patience|guards(\..*)?|checkpoint\.(metric|mode))", CONTINUES, ""),
    (r"trainer\.checkpoint\.(every|keep_last|keep_best)", FREE, ""),
    (r"trainer\.(eval_first|log_every|progress_seconds|max_bad_steps|tensorboard|examples|force_resume|watch\..*)",
     FREE, ""),
)  # fmt: skip

# Settings that cannot be turned on or off within a run, although other values of them can be set.
SWITCHES = r"optimizer\.(anchor|ewc|l2|clip_norm|hold)|trainer\.step\.ema"

# Settings that can end a run before its last step: if one changes, the run resumes.
ENDS = r"trainer\.(patience|guards(\..*)?|checkpoint\.(metric|mode))"

ASPECTS = {
    "rows": "another number of utterances", "ids": "other utterances or another order", "texts": "other texts",
    "times": "other times", "speakers": "other speakers", "sizes": "audio files of other sizes",
}  # fmt: skip


class Words(str):
    """Words in place of a setting's value, for a change of recordings; shown without quotes."""


class Change(NamedTuple):
    """A setting that differs from the checkpoint's.

    Attributes:
        name: its flag, such as "alpha.start"; items of tuples have numbers, as in "evaluate.0.name".
        before: the checkpoint's value.
        after: the value now.
    """

    name: str
    before: Any
    after: Any


class Saved(NamedTuple):
    """A checkpoint of the run, as far as the decision needs it.

    Attributes:
        step: its step.
        config: the settings that it was trained with.
        pipeline: digests of the plans: "task", "pre".
        contents: digests of the recordings (data/contents.py): "task", "pre", and "evaluate/NAME" of each set; empty
            for a checkpoint of an earlier version.
        ended: why the run ended before its last step; empty if it did not.
    """

    step: int
    config: TrainConfig
    pipeline: Mapping[str, Any]
    contents: Mapping[str, Any]
    ended: tuple[str, ...]


SECRET_FILE = "recordings.secret"  # the contents of a private run: a digest tells that an utterance was learned from


def saved_run(out_dir: str | Path, step: int, record: Mapping[str, Any], assets: Mapping[str, Any]) -> Saved:
    """Return what was saved with the checkpoint of `step` in the run's folder `out_dir`."""
    pipeline = dict(record.get("pipeline") or {})
    contents = pipeline.pop("contents", {})
    secret = Path(out_dir) / SECRET_FILE
    if not contents and secret.is_file():
        try:
            contents = dict(json.loads(secret.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{secret}: found no JSON object, expected the digests that the run wrote") from error
    return Saved(step, config_from_assets(dict(assets)), pipeline, contents, tuple(record.get("ended") or ()))


def decide(
    config: TrainConfig,
    saved: Saved,
    pipeline: Mapping[str, Any] | None = None,
    contents: Mapping[str, Any] | None = None,
) -> Resumption:
    """Decide if a run may resume from a checkpoint with these settings.

    Args:
        config: the settings now; its task is filled in.
        saved: the checkpoint.
        pipeline: digests of the plans now; None if no recordings have been read, which are then not judged.
        contents: digests of the recordings now.

    Returns:
        What has changed, and whether the run has ended.

    Raises:
        UserError: for a setting that cannot change within a run, or that would reach nothing because the run is
            finished. It names every such setting with both values.
    """
    aspects = {} if pipeline is None else _changed_recordings(saved, pipeline, contents or {})
    forced, private = config.trainer.force_resume, config.trainer.step.privacy.on
    changes: list[Change] = []
    refused: list[str] = []
    named = set()  # streams whose changed settings are named
    for change in _changes(_same_seeds(saved.config, config), _same_seeds(config, saved.config)):
        kind, reason = class_of(change, saved.config)
        stream = _stream_of(change.name)
        if kind == FREE or _same_file(change):
            continue
        if stream is not None:  # its digests decide: the same recordings may lie elsewhere, or be planned the same
            if stream not in aspects:
                continue
            named.add(stream)
            if change.name.endswith(".path"):  # another path alone would be fine
                reason = f"the recordings there have {', '.join(aspects[stream])}{FORCE}"
            kind = CONTINUES if forced else kind
        if kind == CONTINUES:
            changes.append(change)
        else:
            found = f"{change.name}: found {show(change.after)}, expected {show(change.before)}"
            flag = f"; --{change.name} {change.before} keeps it" if change.name.endswith("seed") else ""
            refused.append(f"{found} as at step {saved.step}: {reason}{flag}")
    for stream in sorted(aspects.keys() - named):
        name = {"task": "data"}.get(stream, stream)
        if forced or stream.startswith("evaluate"):
            words = Words(f"recordings with {', '.join(aspects[stream])}")
            changes.append(Change(name, Words("the recordings"), words))
        else:
            aspect = ", ".join(aspects[stream])
            refused.append(f"{name}: found recordings with {aspect}, expected those of step {saved.step}{FORCE}")
    if pipeline is not None and ("pre" in pipeline) != ("pre" in saved.pipeline):  # alpha has become or left 0
        used = (Words("replayed" if "pre" in p else "not replayed") for p in (saved.pipeline, pipeline))
        change = Change("pre", *used)
        changes = [c for c in changes if c.name != "pre"]
        if private:
            refused.append(f"pre: found {change.after}, expected {change.before} as at step {saved.step}: {EPSILON}")
        else:
            changes.append(change)
    lifting = [c.name for c in changes if _lifts_end(c)]
    ended = () if lifting else saved.ended
    if changes and (ended or saved.step >= config.trainer.steps):
        names = ", ".join(f"{c.name} {show(c.after)} (was {show(c.before)})" for c in changes)
        why = f" ({'; '.join(ended)})" if ended else ""
        expected = "other trainer.guards or trainer.patience, more trainer.steps" if ended else "more --trainer.steps"
        refused.append(
            f"the run is finished at step {saved.step}{why}: {names} would reach nothing; expected {expected}"
        )
    continues = not ended and saved.step < config.trainer.steps
    if private and continues and pipeline is not None and pipeline.keys() - saved.contents.keys():
        refused.append(
            f"{SECRET_FILE}: found no digests of the recordings of step {saved.step} (the file is missing, or the run "
            f"is of an earlier version), expected them: with other recordings {EPSILON}"
        )
    if refused:
        reasons = "; ".join(refused)
        reasons = reasons.replace(FORCE, "") if private else reasons  # a private run refuses that flag
        raise UserError(f"{config.out_dir}: {reasons}; or another --out-dir for a new run")
    lines = [f"{c.name}: {show(c.before)} until step {saved.step}, {show(c.after)} from there" for c in changes]
    if saved.ended and not ended:
        lines.append(f"the run had ended ({'; '.join(saved.ended)}) and resumes because of {', '.join(lifting)}")
    lines += [rate] if changes and (rate := rate_line(saved.config, config, saved.step)) else []
    if pipeline is not None and not saved.contents:
        lines.append("the checkpoint is of an earlier version: its recordings could not be compared with these")
    rows = tuple(
        {"step": saved.step, "setting": c.name, "before": to_saved_dict(c.before), "after": to_saved_dict(c.after)}
        for c in changes
    )
    return Resumption(tuple(lines), rows, ended)


def class_of(change: Change, config: TrainConfig) -> tuple[str, str]:
    """Return the class of a change and its reason; FIXED for a setting that no pattern matches.

    Args:
        change: the change.
        config: the settings before it.
    """
    before, after = change.before, change.after
    switch = bool(re.fullmatch(SWITCHES, change.name)) and bool(before) != bool(after)
    if change.name in ("trainer.step.ema", "optimizer.clip_norm"):  # 0.0 is on too
        switch = (before is None) != (after is None)
    if change.name == "optimizer.momentum" and config.optimizer.name in ("sgd", "rmsprop"):
        switch = bool(before) != bool(after)
    if change.name == "optimizer.groups":
        switch = [p for p, factor in before if factor is None] != [p for p, factor in after if factor is None]
    if switch:
        return FIXED, STATE if change.name.startswith("optimizer.") else "the moving average is a part of the state"
    for pattern, kind, reason in CLASSES:
        if re.fullmatch(pattern, change.name):
            return kind, reason
    return FIXED, "it has no class in runs/resume.py"


def changed_settings(before: Any, after: Any, name: str = "") -> Iterator[Change]:
    """Yield the settings in which two configs differ.

    Unlike `core.config_dict.differences` it names every item of two tuples of configs, and tuples of values as a whole.
    """
    if isinstance(before, str) and isinstance(after, str):
        before, after = mask_address(before), mask_address(after)  # the checkpoint has no passwords
    if before == after:
        return
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        for field in dataclasses.fields(before):
            path = f"{name}.{field.name}" if name else field.name
            yield from changed_settings(getattr(before, field.name), getattr(after, field.name), path)
    elif isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after) and all(
        map(dataclasses.is_dataclass, (*before, *after))
    ):  # fmt: skip
        for number, (first, second) in enumerate(zip(before, after, strict=True)):
            yield from changed_settings(first, second, f"{name}.{number}")
    else:
        yield Change(name, before, after)


def _changes(before: TrainConfig, after: TrainConfig) -> Iterator[Change]:
    """Yield the settings that differ, but for those that had no effect before and are left out now."""
    effective = without_idle(before, idle_in_run(before))
    names = [change.name for change in changed_settings(effective, after)]
    for change in changed_settings(before, after):
        if any(change.name == name or change.name.startswith(f"{name}.") for name in names):
            yield change


def rate_line(before: TrainConfig, after: TrainConfig, step: int) -> str:
    """Return a line about a learning rate that jumps at `step`, or "" if it does not."""
    old = float(learning_rate(before.optimizer, before.trainer.steps)(jnp.int32(step)))
    new = float(learning_rate(after.optimizer, after.trainer.steps)(jnp.int32(step)))
    if abs(new - old) <= 0.01 * max(abs(old), abs(new)):
        return ""
    line = f"the learning rate jumps at step {step}: {old:.3g} before, {new:.3g} from there"
    if before.optimizer != after.optimizer:
        return line
    name, steps = after.optimizer.schedule, before.trainer.steps  # the curve spans the whole run
    keeps = f"--optimizer.schedule constant --optimizer.peak-lr {old:.3g} keeps the rate"
    keeps += f", --trainer.steps {steps} the curve" if step < steps else ""
    return f"{line}, as the schedule {name} now ends at step {after.trainer.steps} instead of {steps}; {keeps}"


def show(value: Any) -> str:
    """Format a setting's value for a message; configs by their names."""
    if isinstance(value, Words):
        return value
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "name", None) or getattr(value, "metric", None) or type(value).__name__)
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return f"({', '.join(map(show, value))})"
    return describe_value(value)


def keep_old_seeds(config: TrainConfig, saved: Saved) -> TrainConfig:
    """Return the config with the order of a finished run of an earlier version, whose `pre.seed` was not its `seed`.

    Nothing more is trained there. A run that has steps to do would get another order, which `decide` refuses.
    """
    if saved.contents or not (saved.ended or saved.step >= config.trainer.steps):
        return config
    for name in ("data", "pre"):
        now, old = getattr(config, name), getattr(saved.config, name)
        if now is not None and old is not None and now.seed is None:
            config = dataclasses.replace(config, **{name: dataclasses.replace(now, seed=old.seed)})
    return config


def reads_other_data(before: TrainConfig, after: TrainConfig) -> bool:
    """Return True if settings that choose recordings or plan their batches differ."""
    return any(_stream_of(change.name) for change in changed_settings(before, after))


def _same_seeds(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    """Return the config with the numbers of its streams' seeds, where those of another config are set differently."""
    for name in ("data", "pre"):
        data, others = getattr(config, name), getattr(other, name)
        if data is not None and others is not None and data.seed is None and others.seed is not None:
            config = dataclasses.replace(config, **{name: dataclasses.replace(data, seed=config.seed)})
    return config


def _stream_of(name: str) -> str | None:
    """Return the stream whose digests decide about a setting, or None."""
    match = re.fullmatch(r"(data|pre|evaluate\.\d+)(\.data)?\.(sources|plan|seed)(\..*)?", name)
    return match and {"data": "task"}.get(match[1], match[1])


def _changed_recordings(
    saved: Saved, pipeline: Mapping[str, Any], contents: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return in which ways the recordings and batches of a stream are not the checkpoint's, for each that changed."""
    changed = {}
    for stream in sorted({*contents, *pipeline} & {*saved.contents, *saved.pipeline} - {"privacy"}):
        before, after = saved.contents.get(stream, {}), contents.get(stream, {})
        aspects = [text for name, text in ASPECTS.items() if before and before.get(name) != after.get(name)]
        if {ASPECTS["rows"], ASPECTS["ids"]} & set(aspects):  # the others follow
            aspects = aspects[:1]
        if not aspects and saved.pipeline.get(stream) != pipeline.get(stream):
            aspects = ["another order or other batches"]
        if aspects:
            changed[stream.replace("/", ".")] = aspects
    return changed


def _lifts_end(change: Change) -> bool:
    more_steps = change.name == "trainer.steps" and change.after > change.before
    return more_steps or bool(re.fullmatch(ENDS, change.name))


def _same_file(change: Change) -> bool:
    """Return True for a path that names the same folder in another way, or the place that it was moved to."""
    if change.name not in ("init_from", "teacher.checkpoint") or not (change.before and change.after):
        return False
    before, after = Path(change.before), Path(change.after)
    moved = not before.exists() and after.exists() and before.name == after.name
    return moved or before.resolve() == after.resolve()

