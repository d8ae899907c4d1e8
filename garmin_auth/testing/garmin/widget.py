"""The widget flow: single sign-on with HTML forms, embedded in other pages.

Recorded: the redirects to the page for the code and to the page with the ticket, and these pages'
titles and variables. Reported: what garminconnect 0.3.20 reads elsewhere. Everything else is
assumed, above all the HTTP statuses of refusals.
"""

import json
from urllib.parse import urlencode

from . import answers
from .accounts import Account, Refused
from .answers import Answer
from .journal import Journal
from .sso import Login
from .state import Garmin
from .wire import Request

TITLE = "GARMIN Authentication Application"
CODE_TITLE = "Enter MFA code for login"
CODE_PATH, SUCCESS_PATH = "/sso/verifyMFA/loginEnterMfaCode", "/sso/login"
SENT_ON_REQUEST = ("email", "phone", "sms")  # other methods need no message


def embed(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    cookies = garmin.sso.open_session()
    return answers.embed_page(answers.cookie_headers(cookies, request.host))


def sign_in(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    cookies: dict[str, str] = {}
    try:
        csrf = garmin.sso.new_csrf(request.cookies)
    except Refused:
        # Assumed: a client without the cookies of the embed page gets new ones.
        cookies = garmin.sso.open_session()
        csrf = garmin.sso.new_csrf(cookies)
    page = _sign_in_page(csrf)
    page.headers += answers.cookie_headers(cookies, request.host)
    return page


def login(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    form = request.form
    try:
        garmin.sso.check_csrf(request.cookies, form.get("_csrf", ""))
        login = garmin.sso.log_in(
            request.cookies,
            form.get("username", ""),
            form.get("password", ""),
            request.query.get("service", ""),
            send_code=False,
        )
    except Refused as refused:
        if refused.reason != "password":
            return forbidden()
        # The status is reported: users of garth saw a 401 here, when garth used this flow.
        return _sign_in_page(garmin.sso.new_csrf(request.cookies), "Invalid sign in.", 401)
    if login.ticket:
        return _success_page(login)
    if login.account.mfa_method not in SENT_ON_REQUEST:
        garmin.sso.send_code(request.cookies)
    return answers.redirect(f"https://{request.host}{CODE_PATH}?{urlencode(request.query)}")


def code_page(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    account = garmin.sso.pending(request.cookies)
    if account is None:
        return forbidden()
    return _code_page(account, garmin.sso.new_csrf(request.cookies))


def send_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        garmin.sso.send_code(request.cookies, str(request.json.get("customerGuid", "")))
    except Refused:
        return answers.bad_request()
    return answers.as_json({})


def verify_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    form = request.form
    # If the page is shown again, it has the same token, because garminconnect keeps the first one.
    account, csrf = garmin.sso.pending(request.cookies), form.get("_csrf", "")
    try:
        garmin.sso.check_csrf(request.cookies, csrf)
        login = garmin.sso.verify_code(request.cookies, form.get("mfa-code", ""), None)
    except Refused as refused:
        if account is None or refused.reason not in {"code_invalid", "code_expired", "code_max"}:
            return forbidden()
        *_, message = answers.SSO_REFUSALS[refused.reason]
        page = _code_page(account, csrf, message)
        page.headers += answers.cookie_headers(refused.cookies, request.host)
        return page
    query = urlencode({"logintoken": garmin.sso.remember(login), "service": login.service})
    return answers.redirect(f"https://{request.host}{SUCCESS_PATH}?{query}")


def success(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    login = garmin.sso.recall(request.query.get("logintoken", ""))
    return _success_page(login) if login else forbidden()


def titled_page(title: str, status: int = 200) -> Answer:
    """Return a page whose title a client reads."""
    return _page(title, f"<h1>{title}</h1>", status)


def forbidden() -> Answer:
    return titled_page("Forbidden", 403)


def _page(title: str, body: str, status: int = 200) -> Answer:
    return answers.as_html(
        f'<!DOCTYPE html>\n<html lang="en">\n<head><title>{title}</title></head>\n'
        f"<body>{body}</body>\n</html>",
        status,
    )


def _hidden(csrf: str) -> str:
    return f'<input type="hidden" name="_csrf" value="{csrf}" />'


def _sign_in_page(csrf: str, error: str = "", status: int = 200) -> Answer:
    form = (
        f'<div id="status" class="error">{error}</div><form method="post">{_hidden(csrf)}'
        '<input name="username" /><input name="password" type="password" /></form>'
    )
    return _page(TITLE, form, status)


def _code_page(account: Account, csrf: str, error: str = "") -> Answer:
    method = "sms" if account.mfa_method == "phone" else account.mfa_method
    values = {
        "customerGuid": account.guid,
        "mfaMethod": method,
        "locale": "en_US",
        "clientId": "",
        # Empty: no code is sent until the client requests one.
        "codeSentTo": "",
    }
    script = " ".join(f"var {name} = {json.dumps(value)};" for name, value in values.items())
    form = (
        f"<script>{script}</script>"
        f'<div id="status" class="error">{error}</div><form method="post">{_hidden(csrf)}'
        '<input name="mfa-code" /></form>'
    )
    return _page(CODE_TITLE, form)


def _success_page(login: Login) -> Answer:
    url = json.dumps(f"{login.service}?ticket={login.ticket}")
    return _page("Success", f"<script>var response_url = {url};</script>")
