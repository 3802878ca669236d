"""Execute notebooks as a new user would, and save them with their outputs: `make notebooks`.

An empty environment with nothing but a kernel, an empty folder for each notebook, outside the clone. The package comes
by the notebooks' own install cell; the first one installs it, the others find it.

    python notebooks/execute.py --package dist/speech_jax-0.1.0-py3-none-any.whl --out docs/notebooks notebooks/*.ipynb
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

KERNEL = "speech_jax_notebooks"
SHOWN_LINES = 20


class NotebookError(Exception):
    """A notebook that did not come to its end."""


def make_environment(folder: Path, package: Path) -> dict[str, str]:
    """Make an environment that has a kernel only, and return the variables with which notebooks are executed there."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    binaries = folder / "venv/bin"
    subprocess.run([binaries / "pip", "install", "--quiet", "ipykernel"], check=True)
    kernel = ["-m", "ipykernel", "install", "--prefix", folder / "venv", "--name", KERNEL]
    subprocess.run([binaries / "python", *kernel], check=True, stdout=subprocess.DEVNULL)
    os.environ["JUPYTER_PATH"] = str(folder / "venv/share/jupyter")  # read here, where the kernel is looked up
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return variables | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PIP_QUIET": "1",  # with the cell's own --quiet: errors only, no warnings of this machine in a notebook
        "SPEECH_JAX_PACKAGE": f"{package.resolve()}[synthetic]",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax_cache"),
    }


def execute(notebook: NotebookNode, folder: Path, variables: dict[str, str], timeout: float) -> None:
    """Execute every cell of a notebook in `folder`; its outputs are in the notebook afterwards.

    Raises:
        NotebookError: A cell failed, was not executed, or the time is over.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    end = time.monotonic() + timeout
    client = NotebookClient(
        notebook, kernel_name=KERNEL, resources={"metadata": {"path": str(folder)}}, record_timing=False,
        timeout_func=lambda cell: max(1, int(end - time.monotonic())),  # what is left for this cell
        skip_cells_with_tag="", force_raise_errors=True, extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
    )  # fmt: skip
    try:
        client.execute(env=variables)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        number = sum(cell.execution_count is not None for cell in code)  # of the cell that was begun last
        source, outputs = code[number - 1].source, code[number - 1].outputs
        printed = "".join(out.text for out in outputs if out.output_type == "stream").splitlines()[-SHOWN_LINES:]
        if isinstance(error, CellExecutionError):
            reason = f"{error.ename}: {error.evalue}"
        else:
            reason = f"not at its end after {timeout:.0f} s" if isinstance(error, CellTimeoutError) else str(error)
        raise NotebookError("\n".join([f"code cell {number}:", source, "----", *printed, reason])) from None
    if skipped := [cell.source for cell in code if cell.source and cell.execution_count is None]:
        raise NotebookError(f"{len(skipped)} cells were not executed, the first: {skipped[0]}")


def execute_all(paths: list[Path], package: Path, out: Path, timeout: float) -> int:
    """Execute notebooks one after the other, and save to `out` those that came to their end.

    Returns:
        Number of notebooks that failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    failed, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = make_environment(folder, package)
        print(f"empty environment: {time.monotonic() - began:.0f} s", flush=True)
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            work = folder / path.stem
            work.mkdir()
            start = time.monotonic()
            try:
                execute(notebook, work, variables, timeout)
            except NotebookError as error:
                failed += 1
                print(f"{path}: FAILED after {time.monotonic() - start:.0f} s\n{error}", file=sys.stderr, flush=True)
                continue
            nbformat.write(notebook, out / path.name)
            print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)
            shutil.rmtree(work)
        print(f"{len(paths)} notebooks, {failed} failed: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def main() -> int:
    """Parse the command line and execute."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--package", type=Path, required=True, help="wheel that the install cell installs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the executed copies; it is emptied")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one notebook")
    options = parser.parse_args()
    if missing := [str(path) for path in (options.package, *options.notebooks) if not path.is_file()]:
        parser.error(f"{missing[0]}: found no file")
    if strange := [path.name for path in options.out.glob("*") if path.name != "index.md" and path.suffix != ".ipynb"]:
        parser.error(f"--out {options.out}: found {strange[0]}, expected executed notebooks only: it is emptied")
    if any(path.resolve().parent == options.out.resolve() for path in options.notebooks):
        parser.error(f"--out {options.out}: found the notebooks themselves in it, expected another folder")
    return 1 if execute_all(options.notebooks, options.package, options.out, options.timeout) else 0


if __name__ == "__main__":
    sys.exit(main())
