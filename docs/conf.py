"""Configuration of the documentation: `sphinx-build -W docs docs/_build/html`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
# Tutorials train small policies: more threads than one only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A kernel without ipywidgets warns about progress bars, which no tutorial shows.
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")

from sphinx.domains.python import PyObject

import rlalign

project = "rlalign"
author = "The rlalign authors"
project_copyright = "The rlalign authors"
version = release = rlalign.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "execution_time",
    "mathml",
    "stacked_tables",
]
exclude_patterns = ["_build", "_extensions", "_generate", "conf.py", "**/jupyter_execute"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}

# Pages. Quotes and dashes stay as written: `--flag` is no dash.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

# Tutorials are scripts in the percent format. A build executes those that changed; `.ci/run` executes all of them.
nb_custom_formats = {".py": ["percent.read", {}]}
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# API reference: Google sections; single backticks in docstrings are code.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 88
napoleon_attr_annotations = False
autodoc_type_aliases = {
    "Comparison": "rlalign.evaluation.before_after.Comparison",  # the oracle has one too
    **{
        name: name
        for name in ("ArrayLike", "FloatArray", "IntArray", "BoolArray", "Prompt", "Split", "Scope", "Specs", "Weight",
                     "Event", "OnError", "Rewards")
    },
}  # fmt: skip
for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.rolename = ""  # the names in `Attributes:` are no references to other objects

# References to names of the library must resolve. Names that no page has: those of other packages, aliases of types,
# type variables, and types that signatures name from modules inside the packages.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|gymnasium|numpy|pathlib|rich|torch)\..*"),
    ("py:(class|exc)", r"[A-Z]\w*"),
    ("py:.*", r"rlalign\.registry\.T"),
    ("py:class", r"rlalign\.\w+\.\w+(\.\w+)*\.\w+"),
]

html_theme = "pydata_sphinx_theme"
html_title = "rlalign"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
# Pages without pages below them need no room for a list of such pages.
html_sidebars = {"get_started": [], "speed": []}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
