"""A text that is encrypted in the database and stays so in Python until the app opens it.

What reads whole rows (``dumpdata``, a join, a serialiser, an error report, a template) therefore
sees ciphertext, and no row that cannot be decrypted breaks it.
"""

import base64
import re
from typing import Any

from cryptography.fernet import InvalidToken
from django.utils.encoding import force_str
from fernet_fields import EncryptedTextField

from ..exceptions import SessionUnreadable

# A Fernet token: 0x80, a 64-bit time (whose first 28 bits are 0), and at least 64 bytes more, in
# base64 (https://github.com/fernet/spec/blob/master/Spec.md).
TOKEN = re.compile(r"gAAAAA[\w-]{92,}={0,2}", re.ASCII)
# Marks a damaged value in a dump, which may hold any bytes.
DAMAGED = "damaged:"


class Ciphertext(str):
    """An encrypted value as it is stored. Its text is the Fernet token.

    Args:
        token: the token; bytes that are none are kept one character each.
        field: the field, which has the keys.
    """

    __slots__ = ("_field",)

    _field: Any

    def __new__(cls, token: str, field: Any) -> "Ciphertext":
        value = super().__new__(cls, token)
        value._field = field
        return value

    def __deepcopy__(self, memo: object) -> "Ciphertext":
        return self

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (str(self),)  # A pickle needs no keys.

    def decrypt(self) -> str:
        """Return the plaintext.

        Raises:
            SessionUnreadable: no key in FERNET_KEYS decrypts it, or it is damaged.
        """
        problem = "No key in FERNET_KEYS decrypts the stored session."
        try:
            return force_str(self._field.fernet.decrypt(bytes(self)))
        except InvalidToken:
            if not TOKEN.fullmatch(self):
                problem = "The stored session is damaged."
        except UnicodeDecodeError:
            problem = "The stored session is damaged."
        raise SessionUnreadable(problem)

    def __bytes__(self) -> bytes:
        """Return it as the column holds it."""
        return self.encode("latin-1", "replace")


class CiphertextField(EncryptedTextField):  # type: ignore[misc] # It is untyped.
    """Reads as a ``Ciphertext``. Encrypts any other text when it is saved.

    The column has django-fernet-fields' format. In a dump the value is the ciphertext, which
    ``loaddata`` stores as it is.
    """

    def from_db_value(self, value: Any, *args: Any) -> Ciphertext | None:
        if value is None:
            return None
        # Text, in SQLite's binary column, is somebody's mistake.
        return Ciphertext(value if isinstance(value, str) else bytes(value).decode("latin-1"), self)

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        value = self.to_python(value)  # A token that was pickled is still one.
        if isinstance(value, Ciphertext):
            return connection.Database.Binary(bytes(value))
        return super().get_db_prep_save(value, connection)

    def value_to_string(self, obj: Any) -> str:
        value = self.value_from_object(obj)
        if not isinstance(value, Ciphertext):
            value = Ciphertext(force_str(self.fernet.encrypt(value.encode())), self)
        if TOKEN.fullmatch(value):
            return str(value)
        return DAMAGED + base64.b64encode(bytes(value)).decode()

    def to_python(self, value: Any) -> Any:
        """Take a ciphertext of a dump as such. Other text is plaintext."""
        if isinstance(value, str) and not isinstance(value, Ciphertext):
            if TOKEN.fullmatch(value):
                return Ciphertext(value, self)
            if value.startswith(DAMAGED):
                stored = base64.b64decode(value.removeprefix(DAMAGED))
                return Ciphertext(stored.decode("latin-1"), self)
        return value
