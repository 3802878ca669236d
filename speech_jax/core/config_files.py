"""Config files by name: from any folder, `quickstart/finetune` is the file configs/quickstart/finetune.py."""

from __future__ import annotations

from pathlib import Path

from speech_jax.core.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


def find_config(name: str) -> str:
    """Return the path of a config file.

    Args:
        name: A path, also without `.py`; or a name such as "quickstart/finetune", also with `.py` or as
            "configs/quickstart/finetune.py", which is looked for in the working folder's configs/ and then among the
            configs of this package.

    Raises:
        UserError: If there is no such file; it names the nearest.

    Example:
        >>> from speech_jax.core.config_files import find_config
        >>> find_config("quickstart/finetune").endswith("quickstart/finetune.py")
        True
    """
    if len(name) > 1000:
        raise UserError(f"--config: found {len(name)} characters, expected a file or a name")
    for file in (name, f"{name}.py"):
        if Path(file).is_file():
            return file
    stem = name.removesuffix(".py").removeprefix("configs/")
    for folder in _folders():
        file = folder / f"{stem}.py"  # an absolute name stays as it is
        if file.is_file():
            return str(file)
    near = did_you_mean(stem, config_names())
    raise UserError(f"--config: found no file {name!r}, expected a file or a name that `train --help` lists{near}")


def config_names() -> list[str]:
    """Return the names of the configs in the working folder's configs/ and in this package, sorted."""
    files = [(folder, file) for folder in _folders() for file in folder.rglob("*.py")]
    return sorted({file.relative_to(folder).with_suffix("").as_posix() for folder, file in files})


def _folders() -> tuple[Path, Path]:
    """Return configs/ of the working folder, and of the package: in a wheel inside it, in a clone beside it."""
    inside = _PACKAGE / "_configs"
    return Path("configs"), inside if inside.is_dir() else _PACKAGE.parent / "configs"
