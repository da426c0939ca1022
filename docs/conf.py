"""Sphinx: `uv run --group docs sphinx-build -W docs docs/_build/html` builds these pages."""

from __future__ import annotations

import sys
from pathlib import Path

import skygraft

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "skygraft"
author = "The skygraft developers"
copyright = author
version = release = skygraft.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "generated_tables",
    "mathml",
]
exclude_patterns = ["_build", "_extensions"]
templates_path = ["_templates"]
default_role = "py:obj"  # single backticks in docstrings
nitpicky = False

# Notebooks are shown with the outputs that they were saved with; tests/docs runs them.
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True  # into docs/generated
autodoc_typehints = "none"  # numpydoc's sections have them, in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "skygraft"
html_static_path = ["_static"]
html_css_files = ["skygraft.css"]
html_show_sourcelink = False
html_sidebars = {"tutorial": [], "science": [], "accuracy": [], "changelog": [], "contributing": []}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
