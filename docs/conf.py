"""What Sphinx is told to make the site from this folder (`make docs`). Knows no page's words."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]  # the extensions, and benchmarks beside vila_lab

import vila_lab  # noqa: E402

project = "vila_lab"
author = "The vila_lab authors"
copyright = f"{author}, Apache-2.0"
release = vila_lab.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "course",
    "links",
    "names",
    "live",
    "truth",
]
nitpicky = True

# The notebooks are shown as they were committed: each is executed and compared by the tests.
nb_execution_mode = "off"
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_ivar = False
napoleon_use_rtype = False
napoleon_preprocess_types = False
default_role = "py:obj"

html_theme = "furo"
html_title = "vila_lab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["scrolling.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which a page opened from a file may not
