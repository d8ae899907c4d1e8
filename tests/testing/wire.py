"""What clients send to Garmin, as plain requests, and what they read from its answers."""

import base64
import json
import os
import re
import socket

import pytest

ADA = ("ada@example.com", "correct horse")
BOB = ("bob@example.com", "battery staple")

SSO = "https://sso.garmin.com"
API = "https://connectapi.garmin.com"
PROFILE = f"{API}/userprofile-service/socialProfile"
EXCHANGE = f"{API}/oauth-service/oauth/exchange/user/2.0"
SIGN_IN = f"{SSO}/mobile/sso/en/sign-in?clientId=GCM_ANDROID_DARK"
LOGIN_QUERY = (
    "?clientId=GCM_ANDROID_DARK&locale=en-US"
    "&service=https://mobile.integration.garmin.com/gcm/android"
)
LOGIN = f"{SSO}/mobile/api/login{LOGIN_QUERY}"
VERIFY = f"{SSO}/mobile/api/mfa/verifyCode{LOGIN_QUERY}"
IOS_SERVICE = "https://mobile.integration.garmin.com/gcm/ios"
IOS_QUERY = f"?clientId=GCM_IOS_DARK&locale=en-US&service={IOS_SERVICE}"
PORTAL_QUERY = "?clientId=GarminConnect&locale=en-US&service=https://connect.garmin.com/app"
PORTAL_LOGIN = f"{SSO}/portal/api/login{PORTAL_QUERY}"
PORTAL_VERIFY = f"{SSO}/portal/api/mfa/verifyCode{PORTAL_QUERY}"
EMBED = f"{SSO}/sso/embed"
WIDGET_LOGIN = f"{SSO}/sso/signin?service={EMBED}"
WIDGET_SEND = f"{SSO}/sso/verifyMFA/mfaCode"
WIDGET_VERIFY = f"{SSO}/sso/verifyMFA/loginEnterMfaCode?service={EMBED}"
DIAUTH = "https://diauth.garmin.com/di-oauth2-service/oauth/token"
DI_CLIENT = "GARMIN_CONNECT_MOBILE_ANDROID_DI_2025Q2"
PERSONAL = "https://personal.connectapi.garmin.com"
TOKEN = f"{PERSONAL}/personalapitoken-service/personal-api/personal-api-key/token"
SETTINGS = f"{PERSONAL}/userprofile-service/userprofile/settings"
TICKET_GRANT = "https://connectapi.garmin.com/di-oauth2-service/oauth/grant/service_ticket"


def post_ios_login(http, email=ADA[0], password=ADA[1]):
    http.get(f"{SSO}/mobile/sso/en_US/sign-in{IOS_QUERY}", timeout=5)
    body = {"username": email, "password": password}
    return http.post(f"{SSO}/mobile/api/login{IOS_QUERY}", json=body, timeout=5)


def post_widget_login(http, email=ADA[0], password=ADA[1], **form):
    http.get(EMBED, params={"id": "gauth-widget"}, timeout=5)
    form = {"username": email, "password": password, "_csrf": csrf_of(open_widget(http))} | form
    return http.post(WIDGET_LOGIN, data=form, timeout=5)


def open_widget(http):
    return http.get(WIDGET_LOGIN, timeout=5)


def ask_widget_for_code(http, page, **changes):
    body = {"customerGuid": script_of(page)["customerGuid"], "mfaMethod": "email"} | changes
    return http.post(WIDGET_SEND, json=body, timeout=5)


def post_widget_code(http, page, code, **form):
    form = {"mfa-code": code, "_csrf": csrf_of(page), "fromPage": "setupEnterMfaCode"} | form
    return http.post(WIDGET_VERIFY, data=form, timeout=5)


def csrf_of(page):
    return re.search(r'name="_csrf"\s+value="(.+?)"', page.text)[1]


def script_of(page):
    return dict(re.findall(r'var (\w+) = "([^"]*)";', page.text))


def title_of(page):
    return re.search("<title>(.+?)</title>", page.text)[1]


def ticket_of(page):
    return re.search(r'\?ticket=(ST-[^"&\s]+)', page.text)[1]


def post_di(http, url=DIAUTH, basic=DI_CLIENT, **form):
    form = {"client_id": DI_CLIENT} | form
    return http.post(url, data=form, auth=(basic, ""), timeout=5)


def exchange_ticket(http, ticket, service=IOS_SERVICE, **options):
    form = {"grant_type": TICKET_GRANT, "service_ticket": ticket, "service_url": service}
    return post_di(http, **form, **options)


def refresh(http, token, **options):
    return post_di(http, grant_type="refresh_token", refresh_token=token, **options)


def issue_tokens(garmin, email=ADA[0], **options):
    session = json.loads(garmin.issue_session(email, "garminconnect", **options))
    return session["di_token"], session["di_refresh_token"]


def claims_of(access_token):
    payload = access_token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def get_profile(http, access_token):
    headers = {"Authorization": f"Bearer {access_token}"}
    return http.get(PROFILE, headers=headers, timeout=5)


def bearer(session):
    return "Bearer " + json.loads(base64.b64decode(session))[1]["access_token"]


def post_login(http, email, password):
    return http.post(LOGIN, json={"username": email, "password": password}, timeout=5)


def post_code(http, code, method="email"):
    body = {"mfaMethod": method, "mfaVerificationCode": code}
    return http.post(VERIFY, json=body, timeout=5)


def wrong(code):
    return f"{(int(code) + 1) % 10**6:06}"


def message(response):
    return response.json()["responseStatus"]["message"]


def tunnel(garmin, context, host="sso.garmin.com"):
    plain = socket.create_connection(("127.0.0.1", garmin.port), timeout=10)
    plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
    assert plain.recv(1000).startswith(b"HTTP/1.1 200")
    return context.wrap_socket(plain, server_hostname=host)


def assert_reset(connection):
    """Ask, and find that the answer is an RST (which `ssl` would show as an ordinary end)."""
    with socket.socket(fileno=os.dup(connection.fileno())) as below:
        below.settimeout(5)
        connection.sendall(b"GET /mobile/sso/en/sign-in HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            below.recv(1)
