"""Exchange a service ticket for tokens: OAuth1 for garth, diauth for garminconnect, or a cookie.

"Assumed" means that nobody has recorded the words of the answer.
"""

import base64
import binascii
import re
import time

from . import answers, signatures
from .accounts import Refused
from .answers import Answer
from .diauth import CLIENT_IDS
from .journal import Journal
from .oauth1 import OAuth1
from .state import Garmin
from .wire import Request

SERVICE_TICKET_GRANT = re.compile(
    r"https://connectapi\.garmin\.(com|cn)/di-oauth2-service/oauth/grant/service_ticket"
)
WEB_CLIENT = "GarminConnect"


# garth


def consumer(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.consumer_file(garmin.oauth1.consumer)


def preauthorized(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        signatures.verify(request, garmin)
        account = garmin.sso.redeem(
            request.query.get("ticket", ""), request.query.get("login-url", "")
        )
    except Refused as refused:
        if refused.reason == "signature":
            journal.count("bad_signature")
        # Assumed words: nobody has recorded a refused ticket.
        return answers.tomcat(401, "Ticket is invalid")
    oauth1 = garmin.oauth1.issue(account)
    return answers.preauthorized(
        oauth1.token, oauth1.secret, oauth1.mfa_token, _mfa_expiration(oauth1)
    )


def _mfa_expiration(oauth1: OAuth1) -> str | None:
    if oauth1.mfa_expires_at is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S.000", time.gmtime(oauth1.mfa_expires_at))


def exchange(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        token = signatures.verify(request, garmin)
        return answers.as_json(garmin.oauth1.exchange(token, request.form.get("mfa_token")))
    except Refused as refused:
        if refused.reason == "mfa_token":
            # Assumed words: nobody has recorded an exchange without its mfa_token.
            return answers.tomcat(401, "MFA token is required")
        if refused.reason == "signature":
            journal.count("bad_signature")
        # A wrong consumer key gets the same words as an ended session. Clients cannot tell them
        # apart.
        return answers.dead()


# garminconnect


def di_exchange(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    form = request.form
    if not SERVICE_TICKET_GRANT.fullmatch(form.get("grant_type", "")):
        return answers.oauth_error("unsupported_grant_type", "Unsupported grant type")
    try:
        # Checked first, so that a client whose name is refused can try the ticket with another one.
        client_id = _client_id(request)
        account = garmin.sso.redeem(form.get("service_ticket", ""), form.get("service_url", ""))
    except Refused as refused:
        return _refusal(refused, "")
    return answers.as_json(garmin.diauth.issue(account, client_id))


def di_refresh(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        client_id = _client_id(request)
        tokens = garmin.diauth.refresh(request.form.get("refresh_token", ""), client_id)
    except Refused as refused:
        return _refusal(refused, request.form.get("refresh_token", ""))
    return answers.as_json(tokens)


def _client_id(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    try:
        named = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        raise Refused("client") from None
    if scheme != "Basic" or named != request.form.get("client_id") or named not in CLIENT_IDS:
        raise Refused("client")
    return named


def _refusal(refused: Refused, token: str) -> Answer:
    if refused.reason == "client":
        # Assumed: status and words are those of RFC 6749.
        return answers.oauth_error("invalid_client", "Bad client credentials", 401)
    if refused.reason == "ticket":
        # Assumed.
        return answers.oauth_error("invalid_grant", "Invalid service ticket")
    return answers.invalid_refresh_token(token)


# garminconnect's fallback: a cookie


def jwt_web(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    """Redeem the ticket as the service would. Everything but the cookie's name is assumed."""
    service = f"https://{request.host}{request.path}"
    try:
        account = garmin.sso.redeem(request.query.get("ticket", ""), service)
    except Refused:
        return answers.embed_page()
    token = garmin.access.issue(account, WEB_CLIENT)["access_token"]
    return answers.jwt_web(token, garmin.domain)
