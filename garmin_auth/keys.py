"""Which of the site's keys opens what is stored, and how it comes under the first of them."""

from collections.abc import Iterable
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.db.models import BinaryField, ExpressionWrapper, F
from django.utils.encoding import force_bytes

from .models import GarminAuthenticationState

UNREADABLE_HINT = (
    "Put the key that wrote them back at the end of FERNET_KEYS (or the former SECRET_KEY, if "
    "FERNET_KEYS was not set then). Users whose key is lost have to connect again."
)


def key_of(ciphertext: bytes) -> int | None:
    """Return the position in FERNET_KEYS of the key that signed ``ciphertext``, None: no key did.

    Told from the signature; nothing is decrypted.

    Args:
        ciphertext: a value as the encrypted column holds it.
    """
    for position, key in enumerate(_keys()):
        try:
            Fernet(key).extract_timestamp(ciphertext)  # It verifies the signature.
        except InvalidToken:
            continue
        return position
    return None


def number_of_keys() -> int:
    """Return how many keys this process has."""
    return len(_keys())


def under_first_key(ciphertext: bytes) -> bytes:
    """Return the same plaintext, byte for byte, encrypted with the first key.

    Args:
        ciphertext: a value as the encrypted column holds it.

    Raises:
        InvalidToken: no key opens it.
    """
    return MultiFernet([Fernet(key) for key in _keys()]).rotate(ciphertext)


def unreadable(pks: Iterable[Any]) -> set[Any]:
    """Return those of the rows whose stored session no key opens. One query.

    Args:
        pks: keys of rows.
    """
    rows = (
        GarminAuthenticationState.objects.current()
        .with_session()
        .filter(pk__in=list(pks))
        .values_list("pk", as_stored("session_data"))
    )
    return {pk for pk, ciphertext in rows if key_of(force_bytes(ciphertext)) is None}


def as_stored(column: str) -> "ExpressionWrapper[Any]":
    """Return an expression for an encrypted column's ciphertext, past the field that opens it."""
    return ExpressionWrapper(F(column), output_field=BinaryField())


def _keys() -> list[bytes]:
    """Return the keys as the encrypted field uses them: derived, and read once in a process."""
    field: Any = GarminAuthenticationState._meta.get_field("session_data")
    return field.fernet_keys
