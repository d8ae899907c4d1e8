"""Generate the tables of docs/reference from the code. conf.py inserts them."""

# Django's own options, which every command has.
DJANGO_OPTIONS = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
DJANGO_OPTIONS |= {"--no-color", "--force-color", "--skip-checks"}


def generate(what: str) -> str:
    """Return a piece of Markdown.

    Args:
        what: ``"settings"``, or ``"command NAME"``.
    """
    kind, _, name = what.partition(" ")
    return {"settings": settings_table, "command": command_table}[kind](*name.split())


def settings_table() -> str:
    """Return a table of all settings: name, default, and the property's docstring."""
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
    """Return a command's help text and a table of its arguments."""
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
