"""Garmin's words: every body and header that the simulator can send.

Unless a comment says otherwise, they follow recorded traffic. "Assumed" means that nobody has seen
Garmin's answer, so no test of a client should depend on it.
"""

import json
from dataclasses import dataclass, field
from http import HTTPStatus

CLOUDFLARE = ("Server", "cloudflare")

# The HTTP status, type and message key of each refusal by SSO. The message keys are those of
# Garmin's login page. For codes, and locked and disabled accounts, type and status are assumed.
SSO_REFUSALS = {
    "password": (401, "INVALID_USERNAME_PASSWORD", "generalLoginInvalidUsernameOrPassword"),
    "code_invalid": (409, "INVALID_MFA_CODE", "codeEntryInvalid"),
    "code_expired": (409, "EXPIRED_MFA_CODE", "codeEntryExpired"),
    "code_max": (409, "MFA_CODE_LIMIT", "codeEntryMaxLimit"),
    "code_409": (409, "CONFLICT", "somethingElse"),
    "locked": (401, "ACCOUNT_LOCKED", "generalLoginAccountLocked"),
    "disabled": (401, "ACCOUNT_DISABLED", "generalLoginAccountDisabled"),
    "captcha": (200, "CAPTCHA_REQUIRED", ""),
    # Assumed: the answer to a client without the cookies that it was given.
    "no_session": (400, "NO_SESSION", "sessionNotFound"),
}


def phrase(status: int) -> str:
    """Return the phrase of an HTTP status, even of a non-standard one (427)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


@dataclass(slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json;charset=UTF-8"
    headers: list[tuple[str, str]] = field(default_factory=list)

    def head(self, length: int | None = None) -> bytes:
        """Return the status line and headers, with `length` as the Content-Length if given."""
        lines = [f"HTTP/1.1 {self.status} {phrase(self.status)}"]
        given = {name.lower() for name, _ in self.headers}
        if self.status != HTTPStatus.NO_CONTENT:
            if "content-type" not in given:
                lines.append(f"Content-Type: {self.content_type}")
            lines.append(f"Content-Length: {len(self.body) if length is None else length}")
        if "server" not in given:
            lines.append(": ".join(CLOUDFLARE))
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join((*lines, "", "")).encode("latin-1")


def as_json(value: object, status: int = 200, headers=()) -> Answer:
    return Answer(status, json.dumps(value).encode(), headers=list(headers))


def redirect(location: str) -> Answer:
    return as_html("", 302, [("Location", location)])


def as_html(body: str, status: int = 200, headers=()) -> Answer:
    return Answer(status, body.encode(), "text/html;charset=UTF-8", list(headers))


def as_text(body: str, status: int = 200) -> Answer:
    return Answer(status, body.encode(), "text/plain;charset=utf-8")


def changed(answer: Answer, changes: dict) -> Answer:
    """Return an answer with some fields of its JSON replaced."""
    body = json.dumps(json.loads(answer.body) | changes).encode()
    return Answer(answer.status, body, answer.content_type, answer.headers)


def without(answer: Answer, *names: str) -> Answer:
    """Return an answer without some fields of its JSON."""
    body = {name: value for name, value in json.loads(answer.body).items() if name not in names}
    return Answer(answer.status, json.dumps(body).encode(), answer.content_type, answer.headers)


# SSO


def cookie_headers(cookies: dict[str, str], host: str) -> list[tuple[str, str]]:
    """Return the Set-Cookie headers.

    Cloudflare's __cf_bm and _cfuvid, and those that mark a signed-in user, have a Domain; the
    others are host-only.
    """
    domain = host.partition(".")[2]
    headers = []
    for name, value in cookies.items():
        parts = [f"{name}={value}", "Path=/"]
        if name == "__cf_bm":
            parts.append("Max-Age=1800")
        if name in {"__cf_bm", "_cfuvid", "GARMIN-SSO", "GARMIN-SSO-CUST-GUID", "GMN_TRACKABLE"}:
            parts.append(f"Domain={domain}")
        parts += ["Secure", "HttpOnly"]
        if name.startswith("_"):
            parts.append("SameSite=None")
        headers.append(("Set-Cookie", "; ".join(parts)))
    return headers


def sign_in_page(cookies: dict[str, str], host: str) -> Answer:
    page = (
        '<!DOCTYPE html><html lang="en"><head><title>Garmin SSO Portal</title>'
        '</head><body><div id="root"></div></body></html>'
    )
    return as_html(page, headers=cookie_headers(cookies, host))


def embed_page(headers=()) -> Answer:
    page = "<!DOCTYPE html><html><head><title>Success</title></head><body></body></html>"
    return as_html(page, headers=headers)


def _sso(kind: str, message: str = "", status: int = 200, **changes) -> Answer:
    http_status = phrase(status).upper().replace(" ", "_")
    body = {
        "serviceURL": None,
        "serviceTicketId": None,
        "responseStatus": {"type": kind, "message": message, "httpStatus": http_status},
        "responseReason": None,
        "customerMfaInfo": None,
        "consentTypeList": None,
        "captchaAlreadyPassed": False,
        "samlResponse": None,
        "authType": None,
    }
    return as_json(body | changes, status)


def sso_success(
    ticket: str, service: str, guid: str, host: str, *, after_code: bool = False
) -> Answer:
    answer = _sso("SUCCESSFUL", serviceURL=service, serviceTicketId=ticket, authType="CAS")
    if after_code:
        answer = without(answer, "customerMfaInfo", "consentTypeList", "captchaAlreadyPassed")
    cookies = {
        "CASTGC": f"TGT-{ticket[3:]}",
        "GARMIN-SSO": "1",
        "GARMIN-SSO-CUST-GUID": guid,
        "GMN_TRACKABLE": "1",
    }
    answer.headers += cookie_headers(cookies, host)
    return answer


def sso_mfa_required(email: str, method: str) -> Answer:
    name, _, provider = email.partition("@")
    by_phone = method in ("phone", "sms")
    info = {
        "email": None if by_phone else f"{name[:2]}*****@{provider}",
        "phoneNumber": "*****42" if by_phone else None,
        "mfaLastMethodUsed": method,
        "defaultMfaMethod": None,
        "mfaUISetting": {
            "allowPhoneOption": True,
            "allowAddEmailAddress": False,
            "chooseDifferentWayShown": False,
        },
    }
    return _sso("MFA_REQUIRED", customerMfaInfo=info, consentTypeList=[])


def sso_refusal(
    reason: str,
    cookies: dict[str, str] | None = None,
    host: str = "",
    *,
    status: int | None = None,
) -> Answer:
    """Return SSO's JSON for a refusal. `reason` is a key of `SSO_REFUSALS`."""
    default_status, kind, message = SSO_REFUSALS[reason]
    answer = _sso(kind, message, default_status if status is None else status)
    answer.headers += cookie_headers(cookies or {}, host)
    return answer


def sso_unknown_type(kind: str, message: str, status: int) -> Answer:
    return _sso(kind, message, status)


# OAuth and the API


def consumer_file(consumer: dict[str, str]) -> Answer:
    return as_json(consumer, headers=[("Server", "AmazonS3")])


def preauthorized(
    token: str, secret: str, mfa_token: str | None, mfa_expires_at: str | None
) -> Answer:
    fields = {"oauth_token": token, "oauth_token_secret": secret}
    if mfa_token:
        fields |= {"mfa_token": mfa_token, "mfa_expiration_timestamp": mfa_expires_at}
    # Nothing is percent-encoded, not even the space in the timestamp.
    return as_text("&".join(f"{name}={value}" for name, value in fields.items()))


def tomcat(status: int, message: str) -> Answer:
    title = f"HTTP Status {status} \u2013 {phrase(status)}"
    return as_html(
        f'<!doctype html><html lang="en"><head><title>{title}</title></head>'
        f"<body><h1>{title}</h1><hr />"
        f"<p><b>Type</b> Status Report</p><p><b>Message</b> {message}</p>"
        "<hr /><h3>Apache Tomcat</h3></body></html>",
        status,
    )


def dead() -> Answer:
    return tomcat(401, "OAuthToken is invalid")


def app_validation() -> Answer:
    return tomcat(403, "Client app validation failed")


def token_inactive() -> Answer:
    challenge = 'Bearer error="invalid_token", error_description="Token is not active"'
    return as_json(
        {"message": "Token is not active", "error": "UnauthorizedException"},
        401,
        [("www-authenticate", challenge)],
    )


def unauthorized_other() -> Answer:
    return as_json({"message": "HTTP 401 Unauthorized", "error": "NotAuthorizedException"}, 401)


def not_found() -> Answer:
    return as_json({"message": "HTTP 404 Not Found", "error": "NotFoundException"}, 404)


def method_not_allowed() -> Answer:
    return as_json({"message": "HTTP 405 Method Not Allowed", "error": "NotAllowedException"}, 405)


def forbidden() -> Answer:
    return as_json({"message": "HTTP 403 Forbidden", "error": "ForbiddenException"}, 403)


def bad_request() -> Answer:
    return as_json({"message": "HTTP 400 Bad Request", "error": "BadRequestException"}, 400)


def proxy_authentication_required() -> Answer:
    return Answer(407, headers=[("Proxy-Authenticate", 'Basic realm="simulator"')])


def oauth_error(error: str, description: str = "", status: int = 400) -> Answer:
    """Return a refusal of the token endpoint, as in RFC 6749."""
    return as_json({"error": error, "error_description": description}, status)


def invalid_refresh_token(token: str = "") -> Answer:
    # Reported, with the token itself.
    return oauth_error("invalid_grant", f"Invalid refresh token: {token}")


def error_string(status: int = 404) -> Answer:
    """Return JSON whose `error` is not an object. Reported: it breaks garminconnect's MFA step."""
    return as_json({"error": "Not Found"}, status)


def jwt_web(token: str, domain: str) -> Answer:
    cookie = f"JWT_WEB={token}; Path=/; Domain={domain}; Secure; HttpOnly"
    return as_html("<html><body></body></html>", headers=[("Set-Cookie", cookie)])


# Cloudflare


def cloudflare(status: int, title: str, text: str, headers=()) -> Answer:
    return as_html(
        f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1>"
        f"<p>{text}</p><p>Cloudflare Ray ID: 8f1c0ffee0ddba11</p></body></html>",
        status,
        [("CF-RAY", "8f1c0ffee0ddba11-FRA"), *headers],
    )


def rate_limited(retry_after: int | None = None) -> Answer:
    headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
    return cloudflare(429, "Error 1015", "You are being rate limited", headers)


def rate_limited_427() -> Answer:
    return as_json({"error": {"status-code": "427", "message": "rate limited"}}, 427)


def rate_limited_200() -> Answer:
    return as_json({"error": {"status-code": "429", "request-id": "8f1c0ffee0ddba11"}})


def blocked() -> Answer:
    return cloudflare(403, "Attention Required! | Cloudflare", "Sorry, you have been blocked")


def challenge_page() -> Answer:
    return cloudflare(200, "Just a moment...", "Checking your browser before accessing Garmin")
