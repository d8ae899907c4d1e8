"""Signals. They are sent after commit, with ``send_robust``: a receiver that raises does no harm.

The sender is ``GarminAuthenticationState``. Every signal has the argument ``user``, an
``AUTH_USER_MODEL`` instance. None carries a secret.
"""

from django.dispatch import Signal

#: A session was stored, by a login, a code or an import.
#: Arguments: ``user``; ``engine`` (str), the name of the session's engine.
session_connected = Signal()

#: Garmin asks for a code to finish a login.
#: Arguments: ``user``; ``sent_to`` (str), where Garmin sent the code, masked, "" if it did not say;
#: ``expires_at`` (aware datetime), when this site drops the pending login.
mfa_required = Signal()

#: A stored session was refreshed.
#: Arguments: ``user``; ``engine`` (str).
session_refreshed = Signal()

#: Garmin has ended the session, which was cleared. The user has to connect again.
#: Arguments: ``user``; ``engine`` (str).
session_expired = Signal()

#: A connection has been failing for ``GARMIN_AUTH_FAILING_AFTER``, while others worked. Nothing was
#: cleared. Sent once, until ``session_recovered``.
#: Arguments: ``user``; ``since`` (aware datetime), the first failure; ``reason`` (str):
#: ``"refused"``, ``"unavailable"`` or ``"account"``.
session_failing = Signal()

#: A connection of which ``session_failing`` told works again, or the user has connected again.
#: Arguments: ``user``; ``failed_since`` (aware datetime), the ``since`` of ``session_failing``.
session_recovered = Signal()

#: A session ends soon, so the user should connect again. Sent by a run of checks, 30 days and 7
#: days before the end; of a session that use prolongs, once, if a check has not prolonged it.
#: Arguments: ``user``; ``engine`` (str); ``ends_at`` (aware datetime).
session_ending = Signal()

#: A session was removed on request.
#: Arguments: ``user``; ``reason`` (str), who asked for it: ``"user"`` or ``"staff"``.
session_disconnected = Signal()
