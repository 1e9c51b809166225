"""Settings of the documentation site; ``tox -e docs`` builds it."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs.generated_pages import draw_certificates, rewrite_links, write_pages  # noqa: E402 - found by the path above
from harness import __version__  # noqa: E402 - as above

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx

project = "mnist-harness"
author = "the mnist-harness authors"
copyright = author  # noqa: A001 - the name that Sphinx reads
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["generated/parts/*"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# No inventories of other projects are loaded, because the reader may be offline; only names of this project must resolve.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!(harness|mnist_models)\.).*")]
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"mnist-harness {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def accept_existing_name(_app: Sphinx, _env: object, node: Element, shown: Element) -> Element | None:
    """Show a reference to an existing name that no page documents, such as a module, as text; for other names return None."""
    target = str(node.get("reftarget"))
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return None
    return shown if node.get("refdomain") == "py" else None


def setup(app: Sphinx) -> None:
    """Write the generated pages before Sphinx reads the sources, and adapt the links of included files to the site."""
    docs = Path(__file__).parent
    write_pages(docs / "generated")
    draw_certificates(docs / "generated")
    app.connect("include-read", lambda _app, path, _docname, source: rewrite_links(docs / path, source))
    app.connect("missing-reference", accept_existing_name)
