"""Which step of Garmin's protocol a request is, and what Garmin answers to it."""

import re
import time

from . import answers, resources, signatures
from .accounts import Garmin, Login, OAuth1, Refused
from .answers import Answer
from .journal import Journal
from .wire import Request

HOSTS = {
    "sso.garmin.com": "sso",
    "sso.garmin.cn": "sso",
    "connectapi.garmin.com": "connectapi",
    "connectapi.garmin.cn": "connectapi",
    "thegarth.s3.amazonaws.com": "s3",
}

PATHS = (
    ("sso", r"/mobile/sso/[\w-]+/sign-in", "sign_in", "GET"),
    ("sso", r"/mobile/api/login", "login", "POST"),
    ("sso", r"/mobile/api/mfa/verifyCode", "verify_code", "POST"),
    ("sso", r"/portal/sso/embed", "embed", "GET"),
    ("s3", r"/oauth_consumer\.json", "consumer", "GET"),
    ("connectapi", r"/oauth-service/oauth/preauthorized", "preauthorized", "GET"),
    ("connectapi", r"/oauth-service/oauth/exchange/user/2\.0", "exchange", "POST"),
    ("connectapi", r"/(?!oauth-service/).*", "api", None),
)


def step_of(request: Request) -> str:
    """The name of the step; "other" for what no client of Garmin asks."""
    for kind, pattern, step, method in PATHS:
        if HOSTS[request.host] == kind and re.fullmatch(pattern, request.path):
            return step if method in (None, request.method) else "other"
    return "other"


def owner(step: str, request: Request, garmin: Garmin) -> str | None:
    """The e-mail address of the account whose credential the request carries, valid or not."""
    if step == "login":
        return garmin.owner_of_email(str(request.json.get("username", "")))
    if step == "verify_code":
        return garmin.owner_of_session(request.cookies)
    if step == "preauthorized":
        return garmin.owner_of_ticket(request.query.get("ticket", ""))
    if step == "exchange":
        return garmin.owner_of_oauth1(signatures.oauth_token(request))
    if step == "api":
        return garmin.owner_of_access(_bearer(request))
    return None


def answer(step: str, request: Request, garmin: Garmin, journal: Journal) -> Answer:
    """What Garmin answers; `journal` keeps what a test wants to know."""
    return ANSWERS[step](request, garmin, journal)


def _sign_in(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.sign_in_page(garmin.open_session(), request.host)


def _login(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    service = request.query.get("service", "")
    try:
        login = garmin.log_in(
            request.cookies,
            str(request.json.get("username", "")),
            str(request.json.get("password", "")),
            service,
        )
    except Refused as refused:
        return answers.sso_refusal(refused.reason)
    if login.ticket is None:
        return answers.sso_mfa_required(login.account.email, login.account.mfa_method)
    return _logged_in(login, request)


def _verify_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        login = garmin.verify_code(
            request.cookies,
            str(request.json.get("mfaVerificationCode", "")),
            str(request.json.get("mfaMethod", "")),
        )
    except Refused as refused:
        return answers.sso_refusal(refused.reason, refused.cookies, request.host)
    return _logged_in(login, request)


def _logged_in(login: Login, request: Request) -> Answer:
    service = request.query.get("service", "")
    return answers.sso_success(login.ticket, service, login.account.guid, request.host)


def _embed(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.embed_page()


def _consumer(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.consumer_file(garmin.consumer)


def _preauthorized(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        signatures.verify(request, garmin)
        oauth1 = garmin.redeem_ticket(
            request.query.get("ticket", ""), request.query.get("login-url", "")
        )
    except Refused as refused:
        if refused.reason == "signature":
            journal.count("bad_signature")
        # Assumed words: nobody has recorded a refused ticket.
        return answers.tomcat(401, "Ticket is invalid")
    return answers.preauthorized(
        oauth1.token, oauth1.secret, oauth1.mfa_token, _mfa_expiration(oauth1)
    )


def _mfa_expiration(oauth1: OAuth1) -> str | None:
    if oauth1.mfa_expires_at is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S.000", time.gmtime(oauth1.mfa_expires_at))


def _exchange(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        token = signatures.verify(request, garmin)
        return answers.as_json(garmin.exchange(token, request.form.get("mfa_token")))
    except Refused as refused:
        if refused.reason == "mfa_token":
            # Assumed words: nobody has recorded an exchange without its mfa_token.
            return answers.tomcat(401, "MFA token is required")
        if refused.reason == "signature":
            journal.count("bad_signature")
        # A foreign consumer key gets the words of a dead session too: that is the trap.
        return answers.dead()


def _api(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    token = _bearer(request)
    if not token:
        return answers.unauthorized_other()
    try:
        account = garmin.bearer(token)
    except Refused:
        return answers.token_inactive()
    for name in request.path.split("/"):
        named = garmin.owner_of_name(name)
        if named is not None and named is not account:
            journal.count("foreign_bearer")
            return answers.forbidden()
    answer = resources.answer(request, account)
    if request.path == resources.UPLOAD and answer.status == 202:
        journal.upload(account.email, *resources.uploaded_file(request))
    return answer


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _other(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.not_found()


ANSWERS = {
    "sign_in": _sign_in,
    "login": _login,
    "verify_code": _verify_code,
    "embed": _embed,
    "consumer": _consumer,
    "preauthorized": _preauthorized,
    "exchange": _exchange,
    "api": _api,
    "other": _other,
}
