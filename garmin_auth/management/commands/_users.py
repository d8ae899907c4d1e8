from contextlib import suppress
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError


def user_named(name: str) -> Any:
    """Return the user with this value in USERNAME_FIELD.

    Raises:
        CommandError: there is no such user.
    """
    model = get_user_model()
    user = None
    with suppress(ValueError, ValidationError):  # The field may not accept the value.
        user = model._default_manager.filter(**{model.USERNAME_FIELD: name}).first()
    if user is None:
        raise CommandError(f"There is no user whose {model.USERNAME_FIELD} is {name!r}.")
    return user
