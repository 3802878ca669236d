"""Settings of the documentation site: `make docs`, or `sphinx-build -W --keep-going -b html docs OUT`.

The pages are Markdown that also reads well on GitHub. The extensions in `_ext/` are our own: `repository_links` leads
links that leave docs/ to the repository, `notebooks` lists the executed notebooks, `reference` writes the pages of the
reference that follow from the code, and `docstrings` prepares docstrings for autodoc.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]  # the checkout first, so that it is what the pages describe
os.environ["JAX_PLATFORMS"] = "cpu"  # the reference is read from the imported modules

from speech_jax.core.version import __version__  # noqa: E402

project = "speech_jax"
author = "The speech_jax authors"
copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
extensions += ["repository_links", "notebooks", "reference", "docstrings"]
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # JSON that is shortened by "…" is shown all the same
exclude_patterns = ["_ext", "_static", "images", "**.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # `make notebooks` has executed them
nb_ipywidgets_js = {}  # nothing from another host
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Flax are written for its own site
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 100

html_theme = "furo"
html_title = "speech_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"  # no prompts and no output
highlight_language = "none"  # of blocks that name none
pygments_style = "tango"
pygments_dark_style = "monokai"
