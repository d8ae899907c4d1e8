"""Sphinx's configuration for docs/ (``make docs``). It makes no network requests.

In the pages, a line ``<!-- generated: settings -->`` or ``<!-- generated: command NAME -->`` is
replaced with a table from the code, so it is never out of date.
"""

import os
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parent.parent)]
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from generate import generate

import garmin_auth

project = "django-garmin-auth"
author = "The django-garmin-auth developers"
release = garmin_auth.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
add_module_names = False

# Our names of languages, and those of Pygments.
LEXERS = {"html": "html+django", "cron": "text"}

html_theme = "furo"
html_title = "django-garmin-auth"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def fill_in(app, docname, source):
    """Replace the "generated" lines of a page, and show the file names of code blocks."""
    text = re.sub(
        r"^<!-- generated: (.+) -->$", lambda found: generate(found[1]), source[0], flags=re.M
    )
    source[0] = re.sub(r"^( *```)(\w+)(?: title=\"(.+)\")?$", fence, text, flags=re.M)


def fence(found):
    """Write a fenced block as Sphinx wants it: a lexer that it knows, a file's name as caption."""
    ticks, language, title = found.groups()
    language = LEXERS.get(language, language)
    if not title:
        return f"{ticks}{language}"
    indent = " " * (len(ticks) - 3)
    return f"{ticks}{{code-block}} {language}\n{indent}:caption: {title}\n"


def setup(app):
    app.connect("source-read", fill_in)
