from contextlib import suppress
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError


def user_named(name: str) -> Any:
    """Return the user with this value in USERNAME_FIELD, even one whom the default manager hides.

    Raises:
        CommandError: there is no such user, or more than one.
    """
    model = get_user_model()
    users: list[Any] = []
    with suppress(ValueError, ValidationError):  # The field may not accept the value.
        users = list(model._base_manager.filter(**{model.USERNAME_FIELD: name})[:2])
    if not users:
        raise CommandError(f"There is no user whose {model.USERNAME_FIELD} is {name!r}.")
    if len(users) > 1:  # It need not be unique, if the site has an authentication backend for that.
        raise CommandError(
            f"More than one user has the {model.USERNAME_FIELD} {name!r}. Use the Python API to "
            "choose one of them."
        )
    return users[0]
