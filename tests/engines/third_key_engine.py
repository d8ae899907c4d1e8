"""A third engine, with keys, as docs/how-to/write-an-engine.md tells it: with requests alone."""

import json

from django.views.decorators.debug import sensitive_variables

from garmin_auth.conf import REFRESH_TIMEOUT, conf
from garmin_auth.engines.base import KeyEngine, NewSession, OpenSession, nothing
from garmin_auth.engines.calls import ApiCalls, api_base, is_header_safe
from garmin_auth.engines.http.deadline import deadline
from garmin_auth.engines.http.redaction import redaction
from garmin_auth.engines.http.transport import get_transport
from garmin_auth.engines.secret import Secret
from garmin_auth.engines.tracebacks import hide_frames
from garmin_auth.engines.verdicts import Answer, key_error
from garmin_auth.exceptions import (
    GarminUnavailable,
    InvalidKey,
    KeyRefused,
    SessionExpired,
    SessionUnreadable,
)

HOST = "personal.connectapi"
TOKEN_PATH = "/personalapitoken-service/personal-api/personal-api-key/token"
SETTINGS_PATH = "/userprofile-service/userprofile/settings"


class Session(OpenSession):
    """Is its own client: all that ``garmin_client`` gives to the site's code is ``connectapi``."""

    def __init__(self, domain, session_data, renew, before, after):
        self.client, self._renew_session = self, renew
        self._token = _session(session_data)["token"]
        self._session = get_transport(domain).new_session()
        self._calls = ApiCalls(
            self._session,
            lambda: f"Bearer {self._token}",
            lambda: not self._token,
            self._renew,
            before,
            after,
            api_base(domain, HOST),
        )

    def connectapi(self, path, method="GET", **kwargs):
        return hide_frames(lambda: self._calls.connectapi(path, method, **kwargs))

    @property
    def worked(self):
        return self._calls.worked

    def close(self):
        self._session.cookies.clear()

    def _renew(self):
        self._token = _session(self._renew_session())["token"]


class ThirdKeyEngine(KeyEngine):
    name = "third-key"
    limited_alone = True

    def read_key(self, key):
        key = super().read_key(key)
        if not is_header_safe(key.reveal()):
            raise InvalidKey
        return key

    def connect(self, key, ends_at):
        return hide_frames(lambda: self._connect(key.reveal()))

    @sensitive_variables()
    def refresh(self, session_data):
        return hide_frames(lambda: self._exchanged(_session(session_data)["key"], REFRESH_TIMEOUT))

    @sensitive_variables()
    def open(self, session_data, renew, *, before=nothing, after=nothing):
        return hide_frames(lambda: Session(self.domain, session_data, renew, before, after))

    def fetch_account_name(self, session):
        return str(session.client.connectapi(SETTINGS_PATH).get("displayName", ""))

    def read_export(self, text):
        return json.dumps({"key": text, "token": ""})

    def rate_limited_by(self, session_data):
        return Secret(_session(session_data)["key"])

    def _connect(self, key):
        try:
            data = self._exchanged(key, conf.TIMEOUT)
        except SessionExpired:
            data = ""
        if not data:
            raise KeyRefused
        return NewSession(data, account_name=None, validated=False)

    def _exchanged(self, key, seconds):
        """Return data with a fresh token. Raises SessionExpired if Garmin refuses the key."""
        with deadline(seconds), redaction():
            response = (
                get_transport(self.domain)
                .new_session()
                .post(
                    api_base(self.domain, HOST) + TOKEN_PATH,
                    headers={"Authorization": f"ApiKey {key}"},
                    allow_redirects=False,
                )
            )
        answer = Answer.of(response)
        if answer.status != 200:
            raise key_error(answer)
        if answer.is_html or not is_header_safe(answer.text):
            raise GarminUnavailable("Garmin answered without a token.")
        return json.dumps({"key": key, "token": answer.text})


def _session(session_data):
    try:
        session = json.loads(session_data)
    except (ValueError, RecursionError):
        session = None
    if not isinstance(session, dict) or not is_header_safe(session.get("key")):
        raise SessionUnreadable("The stored data is not a session of this engine.")
    return session
