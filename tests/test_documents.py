"""README, docs/, CONTRIBUTING and experiments/: size, links, and that the commands, paths and names in them exist."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from speech_jax.__main__ import DOORS

ROOT = Path(__file__).parents[1]
BUILT = (ROOT / "docs/reference/generated", ROOT / "docs/notebooks")  # by `make docs` and `make notebooks`
DOCS = [page for page in sorted(ROOT.glob("docs/**/*.md")) if not any(map(page.is_relative_to, BUILT))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
READMES = [ROOT / "tpu_scripts/README.md", *sorted(ROOT.glob("experiments/*/README.md"))]
CURRENT = [page for page in PAGES + READMES if page.name != "CHANGELOG.md"]  # which names what no longer exists
PLACEHOLDER = re.compile(r"\b(X|X_task|DOOR|NAME|ROOM)\b|test_(X|DOOR)|_X\b|[*…]")
by_page = pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))


def committed(folder: str) -> list[Path]:
    """Files of a folder that Git knows; without a Git folder all of them."""
    if (ROOT / ".git").exists():
        output = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, check=True).stdout
        return [path for name in output.decode().split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_of(module: str) -> frozenset[str] | None:
    """Names at the top of a module or package, without importing it; None if it does not exist."""
    folder = ROOT / module.replace(".", "/")
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if not file.is_file():
        return None
    names = {path.stem for path in folder.glob("*")}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 6000


@pytest.mark.parametrize("page", PAGES + READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: link to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: link to {target}"


@by_page
def test_commands_are_front_doors(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for door in re.findall(r"python -m speech_jax\.(\w+)", text) + re.findall(r"\bspeech-jax (\w+)", text):
        assert door in (*DOORS, "DOOR"), f"{page.name}: front door {door}"
    for module in re.findall(r"python -m (experiments[\w.]+)", text):
        assert names_of(module.rstrip(".")) is not None or PLACEHOLDER.search(module), f"{page.name}: {module}"


@by_page
def test_paths_exist(page: Path) -> None:
    pattern = r"(?<![\w./-])((?:speech_jax|tests|experiments|configs|docs|tpu_scripts)/[\w./*…-]*|\.ci/run)"
    for path in re.findall(pattern, page.read_text(encoding="utf-8")):
        path = re.sub(r"^speech_jax/(?=tpu_scripts/|\.venv/)", "", path.rstrip("."))  # from the parent of a clone
        if not PLACEHOLDER.search(path) and not path.startswith((".venv", "speech_jax/.venv")):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@by_page
def test_python_examples_import_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("speech_jax"):
                names = names_of(node.module) or frozenset()
                assert {alias.name for alias in node.names} <= names, f"{page.name}: from {node.module}"


@by_page
def test_dotted_names_exist(page: Path) -> None:
    for name in re.findall(r"`([a-z_]\w*(?:\.\w+)+)(?:\(\))?`", page.read_text(encoding="utf-8")):
        parts = name.removeprefix("speech_jax.").split(".")
        if not (ROOT / "speech_jax" / parts[0]).is_dir() or parts[-1] in ("py", "X"):
            continue
        module = "speech_jax"
        for part in parts:
            names = names_of(module)
            assert names is None or part in names, f"{page.name}: {name}"  # None: a class
            module = f"{module}.{part}"


def test_new_modules_of_the_changelog_exist() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for row in text.partition("| old module |")[2].partition("| old name |")[0].splitlines():
        for module in re.findall(r"`(speech_jax[\w.]+)`", "".join(row.split("|")[2:3])):
            assert names_of(module) is not None, f"CHANGELOG.md: {module}"


def test_experiments_are_small() -> None:
    assert sum(path.stat().st_size for path in committed("experiments")) <= 2_000_000


def test_experiments_hold_no_transcripts_or_reports() -> None:
    paths = [path.relative_to(ROOT) for path in committed("experiments")]
    assert [str(path) for path in paths if path.suffix == ".jsonl" or path.stem in ("report", "hypotheses")] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/results/summary.csv")), ids=lambda p: p.parts[-3])
def test_tables_are_made_from_numbers(path: Path) -> None:
    """Each experiment with aggregated numbers has the table, and no cell is a sentence."""
    assert (path.parent / "summary.md").is_file()
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])} and len(rows) > 1
    assert max(len(cell.split()) for row in rows for cell in row) <= 8


def test_experiments_import_what_exists() -> None:
    for path in [*ROOT.glob("experiments/**/*.py"), *ROOT.glob("docs/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("speech_jax", "experiments"):
                names = names_of(node.module) or frozenset()
                missing = {alias.name for alias in node.names} - names
                assert not missing, f"{path.relative_to(ROOT)}: from {node.module} import {missing}"
