"""Signals. All are sent after commit, with ``send_robust``: a receiver that raises does no harm.

Every signal has ``sender=GarminAuthenticationState`` and ``user``, an ``AUTH_USER_MODEL`` instance.
None carries anything secret.
"""

from django.dispatch import Signal

#: A session was stored: by a login, a code or an import.
#: Arguments: ``user``; ``engine`` (str), the engine's name.
session_connected = Signal()

#: Garmin wants a code before a login goes on.
#: Arguments: ``user``; ``sent_to`` (str), where the code went, masked by Garmin, "" if it did not
#: say; ``expires_at`` (aware datetime).
mfa_required = Signal()

#: A stored session was given a fresh access token.
#: Arguments: ``user``; ``engine`` (str).
session_refreshed = Signal()

#: Garmin refused the session for good, and it was cleared: the user has to log in again.
#: Arguments: ``user``; ``engine`` (str).
session_expired = Signal()

#: A session was removed on request.
#: Arguments: ``user``; ``reason`` (str), ``"user"`` or ``"staff"``.
session_disconnected = Signal()
