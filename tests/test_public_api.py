"""`import speech_jax` names the public API, loads nothing heavy, and type checkers know the names."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import speech_jax

NAMES = sorted(speech_jax._MODULES)


def test_one_list_of_names() -> None:
    """The table, `__all__` and the imports for type checkers say the same."""
    tree = ast.parse(Path(speech_jax.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in block.body for alias in node.names}
    assert imports == speech_jax._MODULES
    assert speech_jax.__all__ == NAMES
    assert set(dir(speech_jax)) >= {*NAMES, "__version__"}


@pytest.mark.parametrize("name", NAMES)
def test_names_lie_where_the_table_says(name: str) -> None:
    value = getattr(speech_jax, name)
    assert value is getattr(importlib.import_module(speech_jax._MODULES[name]), name)
    assert value.__module__ == speech_jax._MODULES[name]
    assert value.__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example(name: str) -> None:
    """Which runs as a doctest, with all others."""
    assert ">>> " in (getattr(speech_jax, name).__doc__ or "")


def test_no_name_hides_a_module() -> None:
    folder = Path(speech_jax.__file__).parent
    assert not set(NAMES) & {path.stem for path in folder.iterdir()}


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="module 'speech_jax' has no attribute 'load_recogniser'"):
        getattr(speech_jax, "load_recogniser")  # noqa: B009


def test_importing_loads_nothing_heavy() -> None:

    def loaded(code: str) -> set[str]:
        code += "; import sys; print(list(sys.modules))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return set(ast.literal_eval(result.stdout))

    names = loaded("import speech_jax; dir(speech_jax)") - loaded("pass")
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"speech_jax"}


def test_a_type_checker_knows_the_names(tmp_path: Path) -> None:
    """basedpyright accepts a script that uses the API, and sees what is wrong in another."""
    right = tmp_path / "right.py"
    right.write_text(
        "import speech_jax\n"
        "from speech_jax import Tokenizer, TrainConfig, wer\n"
        "rate: float = wer(['a b'], ['a c']).rate\n"
        "model: speech_jax.Model = speech_jax.conformer_ctc(speech_jax.ConformerConfig(), vocab_size=32)\n"
        "seed: int = TrainConfig(out_dir='runs/x', data=speech_jax.DataConfig()).seed\n"
        "pieces: tuple[str, ...] = Tokenizer.from_json({}).pieces\n"
    )
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import speech_jax\n"
        "speech_jax.load_recogniser\n"
        "speech_jax.TrainConfig(out_dir=3, data=speech_jax.DataConfig())\n"
        "model: int = speech_jax.crnn_ctc\n"
    )
    # The editable installation of a checkout is invisible to type checkers.
    settings = {"typeCheckingMode": "basic", "extraPaths": [str(Path(speech_jax.__file__).parent.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    flags = ["--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    command = [sys.executable, "-m", "basedpyright", *flags]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=300).stdout)
    errors = [
        (Path(d["file"]).name, d["range"]["start"]["line"] + 1, d["rule"])
        for d in result["generalDiagnostics"]
        if d["severity"] == "error"
    ]
    assert sorted(errors) == [
        ("wrong.py", 2, "reportAttributeAccessIssue"),
        ("wrong.py", 3, "reportArgumentType"),
        ("wrong.py", 4, "reportAssignmentType"),
    ]
