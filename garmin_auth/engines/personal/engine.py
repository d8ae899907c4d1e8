"""The engine for Garmin's Personal API, built on Garmin's own client and imported on first use.

The user makes a key in Garmin Connect, and no password crosses the site. The key is exchanged for
an access token of about a day. Garmin's ``PersonalApiAuthenticator`` is not used for that, because
it writes the token to a file.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from ...conf import REFRESH_TIMEOUT, conf
from ...exceptions import (
    GarminAuthError,
    GarminUnavailable,
    InvalidKey,
    KeyRefused,
    SessionExpired,
    SessionUnreadable,
)
from ..base import After, Before, KeyEngine, NewSession, OpenSession, Renew, nothing
from ..calls import api_base, moment_of, user_name_of
from ..http.deadline import deadline
from ..http.redaction import guard_loggers, redaction
from ..http.transport import get_transport
from ..secret import Secret
from ..tracebacks import hide_frames
from ..verdicts import Answer, key_error
from .client import HOST, SessionClient
from .session import KeySession, new_session, parse_session, read_key

guard_loggers()

TOKEN_PATH = "/personalapitoken-service/personal-api/personal-api-key/token"  # noqa: S105
SETTINGS_PATH = "/userprofile-service/userprofile/settings"
KEY_FILE = "connect-personal-api-key"  # Garmin's name for it, in ~/.config/garmin.
# More characters than any key has.
LARGEST_FILE = 10_000
HOW_TO = (
    "Create a key at https://connect.garmin.com/app/settings/personalApiToken, and copy it all."
)


class PersonalSession(OpenSession):
    client: SessionClient

    def __init__(self, *arguments: Any) -> None:
        self.client = SessionClient(*arguments)

    @property
    def worked(self) -> bool:
        return self.client.calls.worked

    def close(self) -> None:
        self.client.close()


class PersonalEngine(KeyEngine):
    """Stores the key, and the access token that it was last exchanged for."""

    name = "personal"
    limited_alone = True
    label = _("Official: with a key from Garmin Connect")

    def read_key(self, key: Secret) -> Secret:
        return hide_frames(lambda: read_key(key.reveal()))

    def connect(self, key: Secret, ends_at: datetime | None) -> NewSession:
        return hide_frames(lambda: self._connect(new_session(self.domain, key.reveal(), ends_at)))

    @sensitive_variables()
    def refresh(self, session_data: str) -> str:
        def refreshed() -> str:
            with deadline(REFRESH_TIMEOUT):
                return _exchanged(parse_session(session_data, self.domain)).dumps()

        return hide_frames(refreshed)

    @sensitive_variables()
    def open(
        self, session_data: str, renew: Renew, *, before: Before = nothing, after: After = nothing
    ) -> PersonalSession:
        return hide_frames(lambda: PersonalSession(self.domain, session_data, renew, before, after))

    @sensitive_variables()
    def read_export(self, text: str) -> str:
        problem = ""
        try:
            return new_session(self.domain, read_key(text).reveal(), None).dumps()
        except InvalidKey as exc:
            problem = str(exc)
        raise SessionUnreadable(f"{problem} {HOW_TO}")

    @sensitive_variables()
    def read_folder(self, path: Path) -> str:
        file, problem = path / KEY_FILE, ""
        try:
            with file.open(encoding="utf-8-sig") as source:
                return self.read_export(source.read(LARGEST_FILE))
        except OSError as exc:
            problem = f"{file} cannot be read: {exc.strerror}."
        except ValueError:
            problem = f"{file} is not text."
        raise SessionUnreadable(problem)

    @sensitive_variables()
    def fetch_account_name(self, session: OpenSession) -> str:
        return user_name_of(session.client.connectapi(SETTINGS_PATH))

    def rate_limited_by(self, session_data: str) -> Secret:
        return Secret(parse_session(session_data, self.domain).key)

    def ends_at(self, session_data: str) -> datetime | None:
        return moment_of(parse_session(session_data, self.domain).key_ends_at)

    def access_ends_at(self, session_data: str) -> datetime:
        return parse_session(session_data, self.domain).access_ends_at

    def _connect(self, session: KeySession) -> NewSession:
        """Exchange the key, and use it once. If that call fails, the session is still good."""
        with deadline(conf.TIMEOUT):
            session_data = self._accepted(session).dumps()
            try:
                opened = PersonalSession(self.domain, session_data, _no_renewal, nothing, nothing)
                name = self.fetch_account_name(opened)
            except GarminAuthError:
                return NewSession(session_data, account_name=None, validated=False)
            return NewSession(session_data, account_name=name or None, validated=True)

    def _accepted(self, session: KeySession) -> KeySession:
        try:
            return _exchanged(session)
        except SessionExpired:
            pass
        raise KeyRefused("Garmin refused the key.")


def _exchanged(session: KeySession) -> KeySession:
    """Return the session with a fresh access token.

    Raises:
        SessionExpired: Garmin refuses the key.
        RateLimited, GarminUnavailable: Garmin did not judge the key.
    """
    with redaction():
        response = (
            get_transport(session.domain)
            .new_session()
            .post(
                api_base(session.domain, HOST) + TOKEN_PATH,
                headers={"Accept": "*/*", "Authorization": f"ApiKey {session.key}"},
                allow_redirects=False,
            )
        )
    answer = Answer.of(response)
    if answer.status != 200 or answer.is_html:
        raise key_error(answer)
    return session.with_token(answer.text)


def _no_renewal() -> str:
    raise GarminUnavailable("Garmin refused the access token that it had just issued.")
