"""Modules that are imported when they are first used.

Django imports the admin and the URLs of every app whenever it starts, also for a command that needs
neither. What they act with is a third of this app, and of no use before somebody acts.
"""

from functools import partial
from importlib import import_module
from typing import Any

from django.utils.functional import SimpleLazyObject


def deferred(name: str) -> Any:
    """Return a module of this package, imported at the first use of one of its names.

    Args:
        name: the module's name within the package.
    """
    return SimpleLazyObject(partial(import_module, f"{__package__}.{name}"))
