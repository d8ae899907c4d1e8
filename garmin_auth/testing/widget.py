"""The widget flow: single sign-on as HTML forms, embedded in other pages.

What garminconnect 0.3.20 reads in the pages is reported: titles, the hidden `_csrf`, the variables
of the MFA page, the ticket. All else is assumed, the HTTP statuses of refusals above all.
"""

import json

from . import answers
from .accounts import Account, Refused
from .answers import Answer
from .garmin import Garmin
from .journal import Journal
from .sso import Login
from .wire import Request

TITLE = "GARMIN Authentication Application"
SENT_ON_REQUEST = ("email", "phone", "sms")  # to other methods nothing is sent


def embed(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    cookies = garmin.sso.open_session()
    return answers.embed_page(answers.cookie_headers(cookies, request.host))


def sign_in(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    cookies: dict[str, str] = {}
    try:
        csrf = garmin.sso.new_csrf(request.cookies)
    except Refused:
        # Assumed: who comes without the cookies of the embed page is given new ones.
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
        # Reported for the status: garth's users saw a 401 here, when it went this way.
        return _sign_in_page(garmin.sso.new_csrf(request.cookies), "Invalid sign in.", 401)
    if login.ticket:
        return _success_page(login)
    if login.account.mfa_method not in SENT_ON_REQUEST:
        garmin.sso.send_code(request.cookies)
    return _code_page(login.account, garmin.sso.new_csrf(request.cookies))


def send_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    try:
        garmin.sso.send_code(request.cookies, str(request.json.get("customerGuid", "")))
    except Refused:
        return answers.bad_request()
    return answers.as_json({})


def verify_code(request: Request, garmin: Garmin, journal: Journal) -> Answer:
    form = request.form
    # The page that is shown again has the same token: garminconnect goes on with the first one.
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
    return _success_page(login)


def titled_page(title: str, status: int = 200) -> Answer:
    """A page of which a client reads the title."""
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
        # Empty: no code is sent until the client asks for one.
        "codeSentTo": "",
    }
    script = " ".join(f"var {name} = {json.dumps(value)};" for name, value in values.items())
    form = (
        f"<script>{script}</script>"
        f'<div id="status" class="error">{error}</div><form method="post">{_hidden(csrf)}'
        '<input name="mfa-code" /></form>'
    )
    return _page(TITLE, form)


def _success_page(login: Login) -> Answer:
    url = json.dumps(f"{login.service}?ticket={login.ticket}")
    return _page("Success", f"<script>var response_url = {url};</script>")
