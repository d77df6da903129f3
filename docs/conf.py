"""The site: ``sphinx-build -W docs build/site`` from the root of the repository, after ``pip install '.[docs]'``.

Pages that are made of code or data (the reference, a page a family, the picture of the rooms, what the playground
reads) are written before each build into ``docs/generated``, which git ignores. Tutorials are executed.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT)]  # the checkout is documented, whatever is installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # the kernels
for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(name, value)
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # by Agg the tutorials would show no figure

(DOCS / "generated" / "extra").mkdir(parents=True, exist_ok=True)  # filled at each build, and looked for before

import zoo  # noqa: E402

project, author, release = "zoo", "The zoo authors", zoo.__version__
copyright = "The zoo authors, Apache-2.0"
repository = "https://github.com/implicit-zoo/implicit-zoo"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "myst_nb",
    "docstrings",  # this and those below lie in _ext
    "reference",
    "results",
    "families",
    "rooms",
    "playground",
]
exclude_patterns = ["_ext", "_extra", "generated/extra"]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext"}
nitpicky = False

html_theme = "furo"
html_title = f"zoo {release}"
html_static_path = ["_static"]
html_extra_path = ["_extra", "generated/extra"]  # the playground, and the data that it reads
html_css_files = ["site.css"]
html_theme_options = {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

default_role = "py:obj"  # `name` in a docstring links to that name
suppress_warnings = ["ref.python"]  # a short name that two modules have: a link to either of them would be a guess
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar = False, True
autodoc_mock_imports = [
    name for name in ("fastapi", "starlette", "uvicorn", "litserve", "onnx") if find_spec(name) is None
]  # extras
autodoc_inherit_docstrings = False  # of torch and Lightning, whose roles only their own sites know
python_maximum_signature_line_length = 100

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "fieldlist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 180  # seconds that a cell may take
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of other packages, with the paths of the machine that built the site


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Where the code of a name lies, in the repository."""
    import inspect

    try:
        found: object = sys.modules[info["module"]]
        for part in info["fullname"].split("."):
            found = getattr(found, part)
        found = inspect.unwrap(found)  # type: ignore[arg-type]
        file = Path(inspect.getsourcefile(found)).relative_to(ROOT)  # type: ignore[arg-type]
        _, line = inspect.getsourcelines(found)  # type: ignore[arg-type]
    except (AttributeError, KeyError, TypeError, OSError, ValueError):
        return None
    return f"{repository}/blob/main/{file.as_posix()}#L{line}"


copybutton_prompt_text = r">>> |\.\.\. |\$ |In \[\d*\]: "
copybutton_prompt_is_regexp = True
