"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extension"))
# Importing Airflow makes a configuration file and a log folder: they go beside the pages, not into the reader's home.
os.environ["AIRFLOW_HOME"] = str(HERE.parent / "build" / "docs-airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

import facts  # noqa: E402 (only now it is safe to import Airflow)

import airflow_provider_evoimage  # noqa: E402

project = "airflow-provider-evoimage"
author = "the authors of airflow-provider-evoimage"
release = version = airflow_provider_evoimage.__version__
html_title = f"{project} {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "generated_reference"]
exclude_patterns = ["_extension"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Every name must lead somewhere, except names that other packages document: their inventories are on the internet.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(airflow|collections|contextlib|datetime|decimal|httpx|os|pathlib|typing)\..*"),
    (r"py:.*", r"(any|bool|bytes|dict|float|frozenset|int|list|None|object|set|str|tuple)"),
    # What a hook hands to the rest of this package, and where prices are from.
    (r"py:class", r"airflow_provider_evoimage\.(client|evolink\.prices|hooks\.connection)\..*"),
]
# Modules with imports under TYPE_CHECKING show their annotations as written: names without a module.
nitpick_ignore = [("py:class", name) for name in facts.names_in_annotations()]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries = False

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "logo": {"text": f"evoimage {release}"},
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_depth": 3,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
html_sidebars = {"index": []}
html_copy_source = False
html_show_sourcelink = False
