"""The site: `make docs`. Pages that other files hold (notebooks, figures, docstrings) are made here, at each build."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import emolens  # noqa: E402

project = "emolens"
author = copyright = "The emolens authors"
release = version = emolens.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "_site.mathml",
    "_site.api",
    "_site.pages",
]
exclude_patterns = ["_site", "_static", "course/about.md"]

# Notebooks are shown as they were committed. Nothing is run, and nothing is loaded from a network.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "image/svg+xml", 5), ("html", "image/png", 6)]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "smartquotes"]
myst_heading_anchors = 3
myst_dmath_allow_space = myst_dmath_allow_digits = False  # "$5 and $6" is no formula
myst_links_external_new_tab = False
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]  # notebooks of any make; a heading may skip a level

# API pages: docstrings are Google's, with Markdown's backticks; annotations are shown as they are written.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]  # types in signatures: most are other libraries', or have no page
html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = "emolens"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_sidebars = {"index": [], "map": [], "models": [], "nulls": [], "gallery": []}
html_theme_options = {
    "logo": {"text": "emolens"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 1,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
