"""Links that leave docs/ lead to the repository on the site; on GitHub they work as they are.

`[scripts](../../tpu_scripts/)` becomes REPOSITORY/tree/main/tpu_scripts. A link to a file that does not exist is a
warning, so that it fails a build with `-W`. Links of an executed notebook start from notebooks/, where the original is.
"""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from speech_jax.core.version import REPOSITORY

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
logger = logging.getLogger(__name__)


def repository_url(path: Path) -> str:
    """Return the address of a file or folder of the checkout in the repository."""
    kind = "tree" if path.is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}"


def resolve(target: str, docname: str) -> str | None:
    """Return where the site leads a link: a repository's URL, the name of another page, or None to leave it to MyST.

    Args:
        target: Path of the link, relative to the page's file or absolute, without an anchor.
        docname: Name of the page, such as "guides/data".

    Raises:
        FileNotFoundError: If a link outside docs/ leads to nothing.
    """
    page = DOCS / docname
    in_notebook = page.parent == DOCS / "notebooks"
    path = Path(os.path.normpath((ROOT / "notebooks" if in_notebook else page.parent) / target))
    executed = DOCS / "notebooks" / f"{path.stem}.ipynb"
    if path.parent == ROOT / "notebooks" and executed.exists():
        path = executed
    if path.is_relative_to(DOCS):
        is_page = path.suffix in (".md", ".ipynb") and (in_notebook or path == executed)
        return path.relative_to(DOCS).with_suffix("").as_posix() if is_page else None
    if not path.is_relative_to(ROOT) or not path.exists():
        raise FileNotFoundError(target)
    return repository_url(path)


class RepositoryLinks(SphinxTransform):
    """Rewrite the links of a page before MyST and Sphinx resolve them."""

    default_priority = 5

    def apply(self) -> None:
        """Rewrite what MyST makes of links to files: downloads where the file exists, references elsewhere."""
        for image in list(self.document.findall(nodes.image)):
            if "://" in image["uri"]:  # Colab's badge: the site loads nothing from other hosts
                image.replace_self(nodes.Text(image["alt"]))
        for node in list(self.document.findall(addnodes.download_reference)):
            self._rewrite(node, node["reftarget"])
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("reftype") != "myst":
                continue
            target = node["reftarget"]
            if node.get("refdomain") == "doc" and target.startswith("/"):  # a page, but outside docs/
                suffix = next(s for s in (".md", ".ipynb") if Path(f"{target}{s}").exists())
                self._rewrite(node, "#".join(filter(None, [f"{target}{suffix}", node.get("reftargetid")])))
            elif not node.get("refdomain") and "/" in target:
                self._rewrite(node, target)

    def _rewrite(self, node: nodes.Element, link: str) -> None:
        target, mark, anchor = link.partition("#")
        try:
            place = resolve(target, self.env.docname)
        except FileNotFoundError:
            logger.warning("link to %r: no such file in the repository", target, location=node)
            return
        if place is None:
            return
        if "://" in place:
            node.replace_self(nodes.reference("", "", *node.children, refuri=place + mark + anchor, internal=False))
            return
        page = {"refdoc": self.env.docname, "refdomain": "doc", "reftype": "myst", "refexplicit": True}
        page |= {"reftarget": place, "reftargetid": anchor or None}
        node.replace_self(addnodes.pending_xref("", *node.children, **page))


def setup(app):
    """Register the transform."""
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "version": "1"}
