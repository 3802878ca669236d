"""The pages of the reference that follow from the code: written before Sphinx reads them, and counted at the end.

The site's search leaves the pages of the modules out (`:nosearch:` in them), and lists guides before the public API.
"""

from pathlib import Path

import api_pages
import config_page
import error_page
import flags_pages
from modules import find_public
from sphinx.domains.python import PythonDomain
from sphinx.util import logging

logger = logging.getLogger(__name__)


class SearchedDomain(PythonDomain):
    """Python's names, of which the search lists the public classes and functions only, after matching titles."""

    def get_objects(self):
        """Yield the names, with the search's priority: 2 is its lowest, -1 leaves a name out."""
        for name, shown, kind, page, anchor, _ in super().get_objects():
            listed = page.startswith("reference/generated/api/") and kind in ("class", "exception", "function")
            yield name, shown, kind, page, anchor, 2 if listed else -1


def write_pages(app, config) -> None:
    """Write docs/reference/generated/, and remove what no longer belongs there; equal pages keep their date."""
    folder = Path(app.srcdir) / "reference" / "generated"
    pages = api_pages.pages() | config_page.pages() | error_page.pages() | flags_pages.pages()
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def count_missing(app, exception) -> None:
    """Warn of every public class and function that the built reference does not describe."""
    if exception is not None or app.builder.name != "html":
        return
    described = app.env.domains["py"].objects
    places = [module.place(name) for module in find_public() for name in module.names]
    for place in places:
        if place not in described:
            logger.warning("%s has no page in the reference", place)
    missing = sum(place not in described for place in places)
    print(f"reference: {len(places)} public classes and functions, {missing} without a page")


def setup(app):
    """Register the hooks."""
    app.add_domain(SearchedDomain, override=True)
    app.connect("config-inited", write_pages)
    app.connect("build-finished", count_missing)
    return {"parallel_read_safe": True, "version": "1"}
