"""Fills in what the pages of docs/reference say of the code, while mkdocs builds them.

A line ``<!-- generated: settings -->`` or ``<!-- generated: command NAME -->`` becomes a table,
taken from the code, so that it is never out of date.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Django's own, which every command has.
DJANGO_OPTIONS = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
DJANGO_OPTIONS |= {"--no-color", "--force-color", "--skip-checks"}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Replace the lines of a page that ask for something generated; called by mkdocs."""
    return re.sub(
        r"^<!-- generated: (.+) -->$", lambda found: generate(found[1]), markdown, flags=re.M
    )


def generate(what: str) -> str:
    """Return a piece of Markdown.

    Args:
        what: ``"settings"``, or ``"command NAME"``.
    """
    _set_up_django()
    kind, _, name = what.partition(" ")
    return {"settings": settings_table, "command": command_table}[kind](*name.split())


def settings_table() -> str:
    """Return a table of all settings: the name, the default, and the property's docstring."""
    from django.conf import settings
    from django.test import override_settings

    from garmin_auth.conf import Settings, conf

    rows = [("setting", "default", "meaning")]
    for name in [name for name in vars(Settings) if name.isupper()]:
        with override_settings():
            if hasattr(settings, f"GARMIN_AUTH_{name}"):
                delattr(settings, f"GARMIN_AUTH_{name}")
            default = repr(getattr(conf, name)).replace("'", '"')
        rows.append((f"`GARMIN_AUTH_{name}`", f"`{default}`", _text(vars(Settings)[name].__doc__)))
    return _table(rows)


def command_table(name: str) -> str:
    """Return what a command does, its usage, and a table of its arguments, from its ``--help``."""
    from django.core.management import get_commands, load_command_class

    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    rows = [("argument", "meaning")]
    for action in parser._actions:
        option = max(action.option_strings, key=len, default="")
        if option in DJANGO_OPTIONS:
            continue
        value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        if action.choices:
            value = "|".join(map(str, action.choices))
        rows.append(
            (f"`{option} {value}`".replace("` ", "`").replace(" `", "`"), action.help or "")
        )
    return f"{_text(command.help)}\n\n{_table(rows)}"


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *rest = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").replace("``", "`").split())


def _set_up_django() -> None:
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
