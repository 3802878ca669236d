"""Every command and every Python block of README.md, docs/ and tpu_scripts/README.md is run as it is written.

A page's blocks run in order, in a folder of the page's own that looks like a clone (CLONE) and holds the recordings,
manifests and models that the page speaks of (INPUTS). Programs that the page calls are the real ones, or those in
STANDINS, each with the reason. Training is small (tests/docs/small.py), the words are the page's.

If a page fails here: a new program needs a line in STANDINS or in `shell.REAL`; a file or folder that the page takes as
given a line in INPUTS; a word that stands for something (FLAGS) a line in WORDS; a command that cannot run a line in
PARSED, whose flags are then read by its front door all the same.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import tyro

import speech_jax.config
from experiments.first_day.mixed_folder import write_mixed_folder
from speech_jax import read_audio, read_manifest
from speech_jax.__main__ import DOORS
from speech_jax.data.utterances import Utterance
from tests.docs.pages import PAGES, ROOT, SHELL, blocks, inline, name_of
from tests.docs.shell import Call, Shell, door
from tests.docs.small import make_small

PARENT = {"docs/tutorials/own_recordings.md": False, "docs/tutorials/cloud_tpu.md": True}
"""Pages whose folder is no clone: it holds one, speech_jax/, or the page itself clones it."""
SHOWN = ("", "text", "json", "csv", "yaml", "toml", "make")  # languages of blocks that show something
CLONE = ("Makefile", "setup.py", "pyproject.toml", "dvc.yaml", "experiments", "tpu_scripts")  # and configs

# ---- What a page takes as given: name in its folder -> name in the workshop (see `workshop`).

MODELS = {"RUN": "recognizer", "VOICE": "voice", "VOCODER": "vocoder"}
MANIFESTS = {"M.jsonl": "old_train.jsonl", "A.jsonl": "old_train.jsonl", "B.jsonl": "new_train.jsonl"}
RECORDINGS = {"my_clips": "mixed", "my_recordings": "mixed", "a.wav": "a.wav", "long.mp3": "long.mp3"}
EVERYWHERE = MODELS | MANIFESTS | RECORDINGS
SETS = {f"data/old/{part}.jsonl": f"old_{part}.jsonl" for part in ("train", "dev", "test")}
INPUTS: dict[str, dict[str, str]] = {
    "README.md": {"runs/after": "recognizer"},
    "docs/guides/evaluation.md": {
        "theirs.jsonl": "theirs.jsonl", "out/manifest.jsonl": "voice.jsonl", "test.jsonl": "voice.jsonl",
    },
    "docs/guides/fine_tuning.md": {"runs/before": "recognizer", **SETS},
    "docs/guides/public_checkpoints.md": {
        "runs/parakeet": "recognizer", **SETS,
        "data/new/train.jsonl": "new_train.jsonl", "data/new/dev.jsonl": "new_dev.jsonl",
    },
    "docs/guides/vocoders.md": {
        "runs/voice": "voice", "data/train.jsonl": "voice.jsonl", "runs/real_speech/wavenet": "vocoder",
    },
    "docs/guides/voices.md": {"RUN": "voice", "book.txt": "book.txt", "runs/quickstart": "quickstart"},
    "docs/tutorials/own_model.md": {"data/new/train.jsonl": "new_train.jsonl"},
    "docs/tutorials/own_voice.md": {"MODEL": "recognizer"},
    "docs/guides/private_fine_tuning.md": {"runs/quickstart": "quickstart"},
}  # fmt: skip

# ---- Words that stand for something else: page -> regular expression -> replacement. "" is for all pages.

WORDS: dict[str, dict[str, str]] = {
    "": {
        r"…": "",
        r"(?:\./|\b[\w/]*tpu_scripts/)\w+\.sh": r"\g<0> --dry-run",  # tests/tpu_scripts runs them in a fake cloud
        r"^(?:\w+=\S+ )*(experiments/\S+\.sh)\b.*": r"bash -n \1",  # hours: only its syntax
    },
    "tpu_scripts/README.md": {r"^0 \* \* \* \* tpu_scripts": "."},  # a line of a crontab
}

# ---- Commands whose flags are parsed by their front door, and that end there: regular expression -> reason.

PARSED: dict[str, str] = {
    r"convert \S*(\.nemo|wav2vec2-base-960h/|model\.pt) ": "reads a large checkpoint; tests/interop has small ones",
    r"convert (tacotron2_de\.pt|wavenet\.pth) ": "reads a large checkpoint; tests/interop has small ones",
    r"--config configs/(pods|real_speech|real_voice)/": "names recordings that an experiment prepares for hours",
    r"--init-from runs/wav2vec2": "starts from one of them",
    r"convert parakeet ": "reads a download; notebook 3 makes such a folder",
    r"mlflow|wandb": "needs a server or a package that is no part of the package",
    r"configs/quickstart/private": "needs the extra privacy; tests/runs/test_private.py trains with it",
    r"compile .*--topology": "compiles for minutes; tests/test_compile.py does it with small programs",
    r"prepare (asterisk|queen|fillets|tuxpaint) ": "downloads packages; tests/data has their recipes",
}

# ---- Programs in the place of those that a test must not run.


def git(call: Call) -> int | list[str]:
    """No network: `git clone ADDRESS [FOLDER]` makes a folder that looks like a clone."""
    words = [word for word in call.words if not word.startswith("-")]
    if words[:1] != ["clone"]:
        return [GIT, *call.words]
    folder = call.folder / (words[2] if len(words) > 2 else Path(words[1]).stem)
    make_clone(folder)
    return 0


def pip(call: Call) -> int:
    """No network: the extras and files that are named exist."""
    for word in call.words[1:]:
        extras = re.findall(r"\[([\w,-]+)\]", word)
        known = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert all(f'"{extra}": [' in known for names in extras for extra in names.split(",")), word
    return 0 if call.words[:1] == ["install"] else 1


def make(call: Call) -> int | list[str]:
    """`quickstart` has run for the workshop, word by word; other targets exist, and `install` finds its stamp."""
    targets = [word for word in call.words if not word.startswith("-") and not (call.folder / word).is_dir()]
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(targets) <= set(known), targets
    if targets == ["install"]:
        return [MAKE, *call.words]
    if targets == ["quickstart"]:
        shutil.copytree(WORKSHOP / "quickstart", call.folder / "runs/quickstart", dirs_exist_ok=True)
    return 0


SILENT = (
    "apt-get",
    "aplay",
    "dvc",
    "gcloud",
    "hf",
    "kubectl",
    "tensorboard",
)  # no packages, sound card, cloud or browser here
STANDINS = {
    "git": git,
    "pip": pip,
    "make": make,
}

# ---- Names that a page's Python blocks take as given.

NAMES: dict[str, dict] = {
    "docs/guides/vocoders.md": {"mel": np.zeros((8, 40)), "chunks_of_mel": [np.zeros((4, 40))], "play": len},
}


class Parsed(Exception):
    """The flags of a command have been parsed; nothing else of it is to run."""


def only_parse(name: str, words: list[str]) -> int:
    """Have a front door parse its flags; those that go on to a training are parsed, too."""
    parse = tyro.cli

    def stop(*values, **options):
        parsed = parse(*values, **options)
        if options.get("return_unknown_args"):
            speech_jax.config.parse_config(["--config", parsed[0].config, *parsed[1]])
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", stop)
        return door(name, words, ends=Parsed)


def front_door(name: str, words: list[str]) -> int:
    """Run a front door, or parse its flags."""
    line = shlex.join([name, *words])
    return (only_parse if any(re.search(pattern, line) for pattern in PARSED) else door)(name, words)


def run_python(call: Call) -> int | list[str]:
    """`python …`: a front door in this process, all else by the real interpreter."""
    option, module, *words = [*call.words, "", ""]
    if option == "-m" and module == "pip":
        return pip(Call(words[:-2], call.folder))
    if option == "-m" and (module == "speech_jax" or module.startswith("speech_jax.")):
        return front_door(module.removeprefix("speech_jax").removeprefix("."), words[:-2])
    if any(word.startswith(("experiments/", "experiments.")) for word in (option, module)):  # hours: only its syntax
        file = option if option.endswith(".py") else f"{module.replace('.', '/')}.py"
        return [sys.executable, "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())", str(ROOT / file)]
    return [sys.executable, *call.words]


def run_speech_jax(call: Call) -> int:
    """`speech-jax …`: the door that the first word names, or the list of them."""
    name = call.words[0] if call.words and call.words[0] in DOORS else ""
    return front_door(name, call.words[bool(name) :])


def make_clone(folder: Path) -> None:
    """Make a folder look like a clone that is installed into .venv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CLONE:
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "configs/my_data.py", folder / "configs/X.py")
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "speech-jax", "pip"):
        (programs / name).symlink_to(CLIENT)
    (programs / "activate").touch()
    (folder / ".venv/.installed").touch()


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Return the bash that runs the pages; every training is small."""
    global CLIENT
    result = Shell(
        tmp_path_factory.mktemp("shell"), {"python": run_python, "speech-jax": run_speech_jax, **STANDINS}, SILENT
    )
    CLIENT = result.client
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield result


@pytest.fixture(scope="module")
def workshop(shell, tmp_path_factory):
    """Return a folder with small models, manifests and recordings, made by `make quickstart` and the front doors."""
    global WORKSHOP
    clone = tmp_path_factory.mktemp("workshop") / "clone"
    make_clone(clone)
    code, text = shell.run(
        f"{MAKE} quickstart\n"
        "python -m speech_jax.train --config quickstart/voice\n"
        "python -m speech_jax.train --config quickstart/wavenet\n",
        clone,
    )
    assert code == 0, text
    WORKSHOP = clone.parent
    quickstart = clone / "runs/quickstart"
    (WORKSHOP / "quickstart").symlink_to(quickstart)
    for name, run in (("recognizer", "alpha_0.3"), ("voice", "voice"), ("vocoder", "vocoder")):
        (WORKSHOP / name).symlink_to(quickstart / run)
    rows = {}
    for domain, name in (("A", "old"), ("B", "new")):
        for part in ("train", "dev", "test"):
            rows[f"{name}_{part}"] = list(read_manifest(quickstart / f"data/{domain}/{part}.jsonl"))
    spoken = {"en-us+f2", "en-us+m3"}  # the speakers of the quickstart's voice
    rows["voice"] = [row for row in rows["old_train"] if row.speaker in spoken]
    for name, part in rows.items():
        write_rows(WORKSHOP / f"{name}.jsonl", part[:12])
    write_rows(WORKSHOP / "theirs.jsonl", rows["old_train"][:12] + rows["new_train"][:12])
    write_mixed_folder(rows["new_train"], WORKSHOP / "mixed")
    wave = np.concatenate([read_audio(row.audio, 16_000) for row in rows["new_test"]])
    for name in ("a.wav", "mixed/hello.mp3"):
        soundfile.write(WORKSHOP / name, wave[:16_000], 16_000)
    soundfile.write(WORKSHOP / "long.mp3", np.tile(wave, 2), 16_000)
    (WORKSHOP / "book.txt").write_text("The rain is over.\nGood morning.\n")
    return WORKSHOP


def write_rows(file: Path, rows: list[Utterance]) -> None:
    """Write a manifest that names its recordings wherever it lies."""
    keys = ("id", "text", "speaker", "domain", "seconds", "language")
    lines = []
    for row in rows:
        fields = {key: getattr(row, key) for key in keys}
        lines.append(json.dumps(fields | {"audio": os.path.abspath(row.audio)}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


MAKE, GIT = shutil.which("make") or "make", shutil.which("git") or "git"
CLIENT = WORKSHOP = Path()  # set by the fixtures, for the stand-ins


@pytest.mark.timeout(1200)  # the first one waits for the workshop
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page, shell, workshop, tmp_path, monkeypatch):
    name = name_of(page)
    folder = tmp_path / "page"
    folder.mkdir()
    if PARENT.get(name, True):
        make_clone(folder / "speech_jax" if name in PARENT else folder)
    for target, source in (EVERYWHERE | INPUTS.get(name, {})).items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / target).symlink_to(workshop / source)
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "page"}
    for block in blocks(page):
        where = f"{name}:{block.line}"
        if block.language in SHELL:
            text = block.text
            for pattern, word in (WORDS[""] | WORDS.get(name, {})).items():
                text = re.sub(pattern, word, text, flags=re.MULTILINE)
            code, output = shell.run(text, folder, state=tmp_path / "state")
            assert code == 0, f"{where}: exit code {code}, see the top of {__file__}\n{text}\n{output[-3000:]}"
        elif block.language == "python":
            names.update(NAMES.get(name, {}))
            with jax.numpy_rank_promotion("allow"):  # as it is for readers, and is not in the tests
                exec(compile(block.text, where, "exec"), names)
        else:
            assert block.language in SHOWN or block.language.startswith("{"), f"{where}: unknown {block.language!r}"


NUMBER = r"\.\d+\b"  # of an element of a list
# Flags that no parser lists: those of every door and of other programs, and those that add to an empty config.
OTHERS = """--config --debug --help --version --tyro-print-completion --enable-hierarchical-namespace --load_fast
--pre --evaluate --evaluate.name --trainer.guards.metric --trainer.guards.within --trainer.guards.patience""".split()


@pytest.fixture(scope="module")
def flags():
    """Return every flag of the front doors and of tpu_scripts/, and OTHERS, without the numbers of list elements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs/_ext")
        parsers = importlib.import_module("flags_pages").door_parsers()
    known = {name for parser in parsers.values() for flag in parser.flags for name in flag.names}
    for script in ROOT.glob("tpu_scripts/*.[ps][yh]"):
        known |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", script.read_text(encoding="utf-8")))
    return {re.sub(NUMBER, "", flag) for flag in [*known, *OTHERS]}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_in_running_text_exist(page, flags):
    for code in (code for code in inline(page) if not re.search("experiments|unknown flag", code)):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", code):
            plain = re.sub(NUMBER, "", flag)
            same = re.sub(r"^--(pre|evaluate\.data)\.", "--data.", plain)
            group = any(name.startswith(f"{plain}.") for name in flags)
            assert {plain, same} & flags or group, f"{name_of(page)}: found {flag} in `{code}`, expected one of a door"
