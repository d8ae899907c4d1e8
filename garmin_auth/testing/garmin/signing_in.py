"""The mobile and the portal flow of SSO, which use the same JSON."""

from . import answers
from .accounts import Refused
from .answers import Answer
from .journal import Journal
from .sso import Login
from .state import Garmin
from .wire import Request

IOS_CLIENT = "GCM_IOS_DARK"


def sign_in(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.sign_in_page(garmin.sso.open_session(), request.host)


def login(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        login = garmin.sso.log_in(
            request.cookies,
            str(request.json.get("username", "")),
            str(request.json.get("password", "")),
            request.query.get("service", ""),
        )
    except Refused as refused:
        if refused.reason == "no_session" and request.query.get("clientId") == IOS_CLIENT:
            # Reported by garminconnect: this client gets "rate limited" if it sends credentials
            # without the cookies of the sign-in page.
            return answers.rate_limited()
        return answers.sso_refusal(refused.reason)
    if not login.ticket:
        return answers.sso_mfa_required(login.account.email, login.account.mfa_method)
    return _logged_in(login, request)


def verify_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        login = garmin.sso.verify_code(
            request.cookies,
            str(request.json.get("mfaVerificationCode", "")),
            str(request.json.get("mfaMethod", "")),
        )
    except Refused as refused:
        return answers.sso_refusal(refused.reason, refused.cookies, request.host)
    return _logged_in(login, request, after_code=True)


def _logged_in(login: Login, request: Request, *, after_code: bool = False) -> Answer:
    # The ticket is for the service that the login named, even if the code arrives through the other
    # flow and its query names another service. This is assumed; garminconnect relies on it.
    return answers.sso_success(
        login.ticket, login.service, login.account.guid, request.host, after_code=after_code
    )


def embed(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.as_html("")
