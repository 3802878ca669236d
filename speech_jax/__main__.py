"""List the front doors, or run one of them: `python -m speech_jax [DOOR …]`, installed as `speech-jax [DOOR …]`."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.version import __version__

# The order in which a project uses the doors; one that is not named here comes last.
ORDER = ("prepare", "train", "evaluate", "transcribe", "synthesize", "lm", "sweep", "average", "convert", "compile")


def find_doors() -> tuple[str, ...]:
    """Return the names of the front doors: the modules and packages at the top that run one, none of them imported."""
    folder = Path(__file__).parent
    files = [f for f in (*folder.glob("*.py"), *folder.glob("*/__main__.py")) if f != Path(__file__)]
    names = [(f if f.parent == folder else f.parent).stem for f in files if b"run_front_door(main)" in f.read_bytes()]
    return tuple(sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)))


DOORS = find_doors()


def main() -> None:
    """Run the door that the command line names just as `python -m speech_jax.DOOR` does, or list the doors."""
    door = next((word for word in sys.argv[1:] if word != "--debug"), "")
    if door in DOORS:
        sys.argv.remove(door)
        runpy.run_module(f"speech_jax.{door}", run_name="__main__", alter_sys=True)
    else:
        run_front_door(_list)


def summary(door: str) -> str:
    """Return the first line of a door's docstring, without importing the door."""
    folder = Path(__file__).parent
    file = next(f for f in (folder / f"{door}.py", folder / door / "__main__.py") if f.is_file())
    return (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]


def _list(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, DOORS))
        print("usage: speech-jax DOOR [-h] [FLAGS]\n\nDoors (`speech-jax DOOR --help` lists the flags of one):")
        for door in DOORS:
            print(f"  {door:{width}}  {summary(door)}")
        return 0
    if argv[0] == "--version":
        print(f"speech_jax {__version__}")
        return 0
    import difflib

    nearest = difflib.get_close_matches(argv[0], DOORS, n=1, cutoff=0)[0]
    raise UserError(f"found the door {argv[0]!r}, expected {nearest!r} or another that `speech-jax` lists")


if __name__ == "__main__":
    main()
