"""Find out which step of Garmin's protocol a request is, and answer it."""

import re
import secrets
import time
import uuid

from . import answers, authorizing, personal, resources, signatures, signing_in, widget
from .accounts import Refused
from .answers import Answer
from .journal import Journal
from .state import DOMAINS, Garmin
from .wire import Request

KINDS_OF_HOST = ("sso", "connectapi", "diauth", "connect", "mobile.integration", personal.HOST)
HOSTS = {
    **{f"{kind}.{domain}": kind for kind in KINDS_OF_HOST for domain in DOMAINS},
    "thegarth.s3.amazonaws.com": "s3",
}

PATHS = (
    ("sso", r"/mobile/sso/[\w-]+/sign-in", "sign_in", "GET"),
    ("sso", r"/mobile/api/login", "login", "POST"),
    ("sso", r"/mobile/api/mfa/verifyCode", "verify_code", "POST"),
    ("sso", r"/portal/sso/embed", "embed", "GET"),
    ("sso", r"/portal/sso/[\w-]+/sign-in", "portal_sign_in", "GET"),
    ("sso", r"/portal/api/login", "portal_login", "POST"),
    ("sso", r"/portal/api/mfa/verifyCode", "portal_verify_code", "POST"),
    ("sso", r"/sso/embed", "widget_embed", "GET"),
    ("sso", r"/sso/signin", "widget_sign_in", "GET"),
    ("sso", r"/sso/signin", "widget_login", "POST"),
    ("sso", widget.CODE_PATH, "widget_code_page", "GET"),
    ("sso", r"/sso/verifyMFA/mfaCode", "widget_send_code", "POST"),
    ("sso", widget.CODE_PATH, "widget_verify_code", "POST"),
    ("sso", widget.SUCCESS_PATH, "widget_success", "GET"),
    ("s3", r"/oauth_consumer\.json", "consumer", "GET"),
    ("connectapi", r"/oauth-service/oauth/preauthorized", "preauthorized", "GET"),
    ("connectapi", r"/oauth-service/oauth/exchange/user/2\.0", "exchange", "POST"),
    ("connectapi", r"/(?!oauth-service/).*", "api", None),
    ("diauth", r"/di-oauth2-service/oauth/token", "di_exchange", "POST"),
    (personal.HOST, personal.TOKEN_PATH, "personal_token", "POST"),
    (personal.HOST, r"/(?!personalapitoken-service/).*", "api", None),
    ("connect", r"/app", "jwt_web", "GET"),
    ("mobile.integration", r"/gcm/(ios|android)", "jwt_web", "GET"),
)


def domain_of(host: str) -> str:
    """Return the domain of a host's region; S3, which serves both, counts as garmin.com's."""
    return next((domain for domain in DOMAINS if host.endswith(f".{domain}")), DOMAINS[0])


def step_of(request: Request) -> str:
    """Return the name of the step, or "other" for a request that no client of Garmin makes."""
    for kind, pattern, step, method in PATHS:
        if HOSTS[request.host] == kind and re.fullmatch(pattern, request.path):
            if method not in (None, request.method):
                continue
            return _told_apart(step, request)
    return "other"


def _told_apart(step: str, request: Request) -> str:
    """Tell apart the steps that share a method and path."""
    if step == "di_exchange" and request.form.get("grant_type") == "refresh_token":
        return "di_refresh"
    if step == "widget_embed" and "ticket" in request.query:
        return "jwt_web"
    return step


def owner(step: str, request: Request, garmin: Garmin) -> str | None:
    """Return the email address of the account whose credential was sent, valid or not."""
    find = OWNERS.get(step)
    return find(request, garmin) if find else None


def answer(step: str, request: Request, garmin: Garmin, journal: Journal) -> Answer:
    """Return Garmin's answer, and record the request in `journal`."""
    answer = ANSWERS[step](request, garmin, journal)
    if request.host.startswith("connectapi."):
        answer.headers += answers.cookie_headers(_api_cookies(request), request.host)
    return answer


def _api_cookies(request: Request) -> dict[str, str]:
    cookies = {"_cfuvid": f"{secrets.token_urlsafe(32)}-{int(time.time())}-0.0.1.1-604800000"}
    if request.path.startswith(resources.PROFILE):
        page = uuid.uuid4()
        cookies |= {"ADRUM_BT1": f"R:0|i:{page.int % 10**6}", "ADRUM_BTa": f"R:0|g:{page}"}
    return cookies


def _api(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    token = _access_token(request)
    if not token:
        return answers.unauthorized_other()
    is_personal = HOSTS[request.host] == personal.HOST
    try:
        account = garmin.access.holder(token, personal=is_personal)
    except Refused:
        return answers.token_inactive()
    for name in request.path.split("/"):
        named = garmin.accounts.owner_of_name(name)
        if named is not None and named is not account:
            journal.count("foreign_bearer")
            return answers.forbidden()
    if is_personal:
        return personal.data(request, account)
    answer = resources.answer(request, account)
    if request.path == resources.UPLOAD and answer.status == 202:
        journal.upload(account.email, *resources.uploaded_file(request))
    return answer


def _access_token(request: Request) -> str:
    authorization = request.headers.get("authorization")
    if authorization is None:
        return request.cookies.get("JWT_WEB", "")
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _other(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    return answers.not_found()


ANSWERS = {
    "sign_in": signing_in.sign_in,
    "login": signing_in.login,
    "verify_code": signing_in.verify_code,
    "embed": signing_in.embed,
    "portal_sign_in": signing_in.sign_in,
    "portal_login": signing_in.login,
    "portal_verify_code": signing_in.verify_code,
    "widget_embed": widget.embed,
    "widget_sign_in": widget.sign_in,
    "widget_login": widget.login,
    "widget_code_page": widget.code_page,
    "widget_send_code": widget.send_code,
    "widget_verify_code": widget.verify_code,
    "widget_success": widget.success,
    "consumer": authorizing.consumer,
    "preauthorized": authorizing.preauthorized,
    "exchange": authorizing.exchange,
    "di_exchange": authorizing.di_exchange,
    "di_refresh": authorizing.di_refresh,
    "jwt_web": authorizing.jwt_web,
    "personal_token": personal.exchange,
    "api": _api,
    "other": _other,
}


def _owner_of_username(request: Request, garmin: Garmin) -> str | None:
    return garmin.accounts.owner_of_email(str(request.json.get("username", "")))


def _owner_of_session(request: Request, garmin: Garmin) -> str | None:
    account = garmin.sso.pending(request.cookies)
    return account and account.email


def _owner_of_ticket(request: Request, garmin: Garmin) -> str | None:
    return garmin.sso.owner_of_ticket(request.query.get("ticket", ""))


OWNERS = {
    "login": _owner_of_username,
    "verify_code": _owner_of_session,
    "portal_login": _owner_of_username,
    "portal_verify_code": _owner_of_session,
    "widget_login": lambda request, garmin: garmin.accounts.owner_of_email(
        request.form.get("username", "")
    ),
    "widget_send_code": _owner_of_session,
    "widget_verify_code": _owner_of_session,
    "preauthorized": _owner_of_ticket,
    "exchange": lambda request, garmin: garmin.oauth1.owner(signatures.oauth_token(request)),
    "di_exchange": lambda request, garmin: garmin.sso.owner_of_ticket(
        request.form.get("service_ticket", "")
    ),
    "di_refresh": lambda request, garmin: garmin.diauth.owner(
        request.form.get("refresh_token", "")
    ),
    "jwt_web": _owner_of_ticket,
    "personal_token": lambda request, garmin: garmin.keys.owner(personal.key_of(request)),
    "api": lambda request, garmin: garmin.access.owner(_access_token(request)),
}
