"""The contracts of import-linter in pyproject.toml are complete, and the code keeps them."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import speech_jax
from speech_jax.__main__ import DOORS

FOLDER = Path(speech_jax.__file__).parent
ROOT = FOLDER.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYERS, FLAX, TORCH = SETTINGS["contracts"]
ROOMS = {f.parent.name for f in FOLDER.glob("*/__init__.py")}


def test_the_top_holds_rooms_doors_and_the_config() -> None:
    assert {f.stem for f in FOLDER.glob("*.py")} - {"__init__", "__main__"} == {*DOORS, "config"} - ROOMS


def test_contracts_have_no_exceptions() -> None:
    for contract in (SETTINGS, *SETTINGS["contracts"]):
        assert not [key for key in contract if "ignore" in key or key == "exclude_type_checking_imports"]
    assert TORCH["source_modules"] == ["speech_jax"]


def test_every_room_has_its_layer() -> None:
    assert {*ROOMS, "config"} <= set(re.findall(r"\w+", " ".join(LAYERS["layers"])))


def test_nothing_imports_a_door_and_only_models_imports_flax() -> None:
    """Holds for a door that pyproject.toml does not name yet, too."""
    doors = {f"speech_jax.{name}" for name in DOORS}
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            assert not doors & set(names), f"{file}: imports a front door"
            in_models = file.relative_to(FOLDER).parts[0] == "models"
            assert in_models or not [n for n in names if n.partition(".")[0] == "flax"], f"{file}: imports flax"


def test_every_room_but_models_is_kept_from_flax() -> None:
    modules = {"config", *ROOMS} - {"models"}
    assert {f"speech_jax.{name}" for name in modules} <= set(FLAX["source_modules"])


def test_contracts_are_kept() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout


def test_no_code_outside_tasks_asks_for_the_type_of_a_task() -> None:
    """`isinstance(…, CTCTaskConfig)`, `type(task)` and dictionaries by type belong into the task's own methods."""
    names = {name for file in (FOLDER / "tasks").glob("*.py") for name in _classes(file) if name.endswith("TaskConfig")}
    assert len(names) >= 4
    found = []
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.parent.name != "tasks" else ():
            code = ast.unparse(node) if isinstance(node, ast.Call | ast.Compare | ast.Subscript) else ""
            by_class = re.match(r"(isinstance|issubclass)\(", code) and set(re.findall(r"\w+", code)) & names
            by_type = not isinstance(node, ast.Call) and re.search(r"(?<!\w)type\([\w.]*task\)(?!\.__name__)", code)
            if by_class or by_type:
                found.append(f"{file.relative_to(FOLDER)}:{node.lineno}: {code}")
    assert not found


def _classes(file: Path) -> list[str]:
    return [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
