"""Settings of the documentation site, which `make docs` builds: pages of docs/ as they lie, made ones besides."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # site_pages

import bitrate_ext

project = "bitrate_ext"
author = "The bitrate_ext authors"
version = release = bitrate_ext.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_pages"]
exclude_patterns = ["_site", "made/whole"]

myst_heading_anchors = 4  # links to headings, as on GitHub
autodoc_member_order = "bysource"
autodoc_typehints, autodoc_typehints_format = "signature", "short"
autodoc_type_aliases = {"Latents": "Latents", "Projections": "Projections", "AnyProjection": "Projections"}
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"  # its fonts are the system's: a page asks for nothing from elsewhere
html_title = f"bitrate_ext {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_extra_path = ["made/whole"]  # files as they are
