"""How the site is built: `make docs`, or `make docs-quick` without running the gallery.

Nothing is fetched while it is built, and no page loads anything from elsewhere.
"""

import logging
import re
import sys
import warnings
from typing import Any, ClassVar

from pygments.lexer import inherit
from pygments.lexers.shell import BashLexer
from pygments.token import Name

import pursuitnet

sys.argv[0] = "pursuitnet"  # what the usage of a command begins with, instead of python -m sphinx

project = "pursuitnet"
copyright = "the pursuitnet authors, BSD-3-Clause"
version = release = pursuitnet.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
    "cyclopts.ext.sphinx",
]
exclude_patterns = ["_build"]
default_role = "code"  # `name` in a docstring is code
nitpicky = True
nitpick_ignore_regex = [(r"py:(class|obj)", r"(?!pursuitnet\.\w+$).*")]  # of PyTorch, of typing, and of modules inside
highlight_language = "none"
suppress_warnings = ["config.cache"]  # the gallery's choices hold functions

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "attrs_inline"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autosummary_generate = False  # the pages of the reference are written; what stands on them is generated

plot_html_show_formats = plot_html_show_source_link = False
plot_formats = [("png", 160)]
plot_rcparams = {"figure.autolayout": False}


def strict(gallery: dict[str, Any], script: str) -> None:
    """Let a script that warns fail: its page would show the warning, and a path of this machine."""
    warnings.filterwarnings("error", category=UserWarning)


sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "subsection_order": [f"../examples/{part}" for part in ("coding", "learning", "networks", "white_box", "runs")],
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 0,
    "image_srcset": ["2x"],
    "capture_repr": (),
    "reset_modules": ("matplotlib", strict),
    "write_computation_times": False,  # its page would load scripts from elsewhere
}

html_theme = "furo"
html_title = f"pursuitnet {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7db8ff", "color-brand-content": "#7db8ff"},
}

for chatty in ("onnx_ir", "matplotlib"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

LITERAL = re.compile(r"(``.+?``|`[^`]+`)")
MARKUP = re.compile(r"\*(?=[a-zA-Z]+[\w−+]*[\s,)\]'\"])|(?<=\w)_(?=\s|$)|\|")


class CommandLexer(BashLexer):
    """A shell in which an option is one token, so that no line of a page ends inside of ``--option``."""

    tokens: ClassVar = {"data": [(r"(?<!\S)--?[a-zA-Z][\w-]*", Name.Tag), inherit]}


def escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep |Γ| and *size in docstrings from being read as markup: they are formulas and shapes."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = LITERAL.split(line)
        parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts).replace("jaxtyping.", "")


def undescribed(app: object, what: str, name: str, obj: Any, skip: bool, options: object) -> bool | None:
    """Leave out a ``forward`` that says nothing itself: PyTorch's text about all modules would stand there."""
    return True if name == "forward" and not obj.__doc__ else None


def setup(app: Any) -> None:
    """Let docstrings be what they are in the source, and commands break between words."""
    app.add_lexer("sh", CommandLexer)
    app.connect("autodoc-skip-member", undescribed)
    app.connect("autodoc-process-docstring", escape, priority=600)  # after napoleon
