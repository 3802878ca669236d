"""The list of the executed notebooks, docs/notebooks/index.md, where `make notebooks` has put some there."""

import sys
from pathlib import Path

INDEX = """# Notebooks

Executed by `make notebooks`, each in an empty folder with the package from its wheel, and shown with their outputs.

```{toctree}
:glob:

*
```
"""


def write_index(app, config) -> None:
    """Write the index if there are notebooks, and remove it if there are none."""
    folder = Path(app.srcdir) / "notebooks"
    index = folder / "index.md"
    if any(folder.glob("*.ipynb")):
        index.write_text(INDEX, encoding="utf-8")
    else:
        index.unlink(missing_ok=True)
        print("no notebooks in docs/notebooks/: `make notebooks` puts them there", file=sys.stderr)


def leave_out_index(app, docname: str, source: list[str]) -> None:
    """Remove the entry from the landing page's table of contents if there are none."""
    if docname == "index" and not (Path(app.srcdir) / "notebooks" / "index.md").exists():
        source[0] = source[0].replace("\nnotebooks/index\n", "\n")


def setup(app):
    """Register the hooks."""
    app.connect("config-inited", write_index)
    app.connect("source-read", leave_out_index)
    return {"parallel_read_safe": True, "version": "1"}
