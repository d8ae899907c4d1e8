"""Find the key that a value is encrypted with, and re-encrypt it with the first one."""

from collections.abc import Iterable
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ..models import GarminAuthenticationState
from .fields import Ciphertext

UNREADABLE_HINT = (
    "Append the key they were encrypted with to FERNET_KEYS (or the former SECRET_KEY, if "
    "FERNET_KEYS was not set then). If that key is lost, their users have to connect again."
)


def key_of(ciphertext: bytes) -> int | None:
    """Return the position in FERNET_KEYS of the key that ``ciphertext`` is signed with, or None.

    Only the signature is checked; nothing is decrypted.

    Args:
        ciphertext: a value of an encrypted column.
    """
    for position, key in enumerate(_keys()):
        try:
            Fernet(key).extract_timestamp(ciphertext)  # This verifies the signature.
        except InvalidToken:
            continue
        return position
    return None


def encrypt(text: str) -> Ciphertext:
    """Return the ciphertext to store for a text.

    What stores it passes through frames that error reporters show.

    Args:
        text: the plaintext.
    """
    field: Any = GarminAuthenticationState._meta.get_field("session_data")
    return Ciphertext(field.fernet.encrypt(text.encode()).decode(), field)


def decrypt(token: str) -> str:
    """Return the text that ``encrypt`` was given.

    Args:
        token: what it returned, as plain text.

    Raises:
        SessionUnreadable: no key in FERNET_KEYS decrypts it.
    """
    return Ciphertext(token, GarminAuthenticationState._meta.get_field("session_data")).decrypt()


def number_of_keys() -> int:
    """Return the number of keys that this process has."""
    return len(_keys())


def under_first_key(ciphertext: bytes) -> bytes:
    """Return the same plaintext, byte for byte, encrypted with the first key.

    Args:
        ciphertext: a value of an encrypted column.

    Raises:
        InvalidToken: no key decrypts it.
    """
    return MultiFernet([Fernet(key) for key in _keys()]).rotate(ciphertext)


def unreadable(pks: Iterable[Any]) -> set[Any]:
    """Return the rows whose stored session no key decrypts, with one query.

    Args:
        pks: primary keys of the rows to look at.
    """
    rows = (
        GarminAuthenticationState.objects.using_write_db()
        .with_session()
        .filter(pk__in=list(pks))
        .values_list("pk", "session_data")
    )
    return {pk for pk, ciphertext in rows if key_of(bytes(ciphertext)) is None}


def _keys() -> list[bytes]:
    """Return the keys as the encrypted field uses them: derived, and read once per process."""
    field: Any = GarminAuthenticationState._meta.get_field("session_data")
    return field.fernet_keys
