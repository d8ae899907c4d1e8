"""What the simulated Garmin knows: accounts, SSO sessions, tickets and tokens.

Plain state under one lock: no network, no wire format. A step that Garmin refuses raises
`Refused` with the reason in one word; `steps` puts it into Garmin's words.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

ACCESS_TOKEN_LIFETIME = 75017  # seconds; recorded traffic (65,000 to 107,000 are seen)
REFRESH_TOKEN_LIFETIME = 2591999  # seconds; recorded traffic
MFA_TOKEN_LIFETIME = 365 * 86400  # seconds; recorded traffic
MFA_LIFETIME = 600  # seconds; nobody knows Garmin's, ten minutes is the usual choice
MFA_MAX_ATTEMPTS = 5  # wrong codes after which every answer is "codeEntryMaxLimit"; assumed
ACCESS_TOKENS_KEPT = 100  # of each account: the oldest are forgotten, so that a soak stays small

SSO_COOKIES = ("SESSION", "__VCAP_ID__", "__cflb", "__cf_bm", "_cfuvid")

CONSUMER = {
    "consumer_key": "5e1f0a7c-0b1d-4c55-9a3e-51a1a70c0de5",
    "consumer_secret": "S1MULAT0RconsumerSecretOfNoOtherUse",
}

SCOPE = (
    "COMMUNITY_COURSE_READ GARMINPAY_WRITE GOLF_API_READ ATP_READ GHS_SAMD GHS_UPLOAD "
    "INSIGHTS_READ DIVE_API_READ CONNECT_READ CONNECT_WRITE OT_READ OT_WRITE"
)


class Refused(Exception):
    """Garmin says no.

    `reason` is one of: no_session, password, code_invalid, code_expired, code_max, ticket,
    signature, oauth1, mfa_token, no_bearer, bearer. `cookies` are those the refusal sets.
    """

    def __init__(self, reason: str, cookies: dict[str, str] | None = None):
        super().__init__(reason)
        self.reason = reason
        self.cookies = cookies or {}


@dataclass(slots=True)
class Account:
    email: str
    password: str
    mfa: bool
    mfa_method: str
    display_name: str
    full_name: str
    steps: int | None
    profile_id: int
    guid: str
    code: str | None = None
    access_tokens: deque[str] = field(default_factory=deque)


@dataclass(slots=True)
class PendingLogin:
    account: Account
    service: str
    code: str
    expires_at: float
    wrong_codes: int = 0


@dataclass(slots=True)
class SsoSession:
    cookies: dict[str, str]
    pending: PendingLogin | None = None


@dataclass(slots=True)
class Ticket:
    account: Account
    service: str


@dataclass(slots=True)
class OAuth1:
    account: Account
    token: str
    secret: str
    mfa_token: str | None
    mfa_expires_at: float | None
    active: bool = True


@dataclass(slots=True)
class AccessToken:
    account: Account
    expires_at: float
    active: bool = True


@dataclass(slots=True)
class Login:
    """What a right password (or code) opens: the ticket, or the pending login to finish first."""

    account: Account
    ticket: str | None = None


@dataclass
class Garmin:
    """The state of one simulated Garmin. Every method is safe to call from any thread."""

    code_sent: Callable[[str, str], None] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget everything, the settings of the simulator included."""
        with self.lock:
            self.consumer = dict(CONSUMER)
            self.access_token_lifetime = ACCESS_TOKEN_LIFETIME
            self.rotate_mfa_cookie = True
            self._accounts: dict[str, Account] = {}
            self._by_display_name: dict[str, Account] = {}
            self._sso: dict[str, SsoSession] = {}
            self._tickets: dict[str, Ticket] = {}
            self._oauth1: dict[str, OAuth1] = {}
            self._access: dict[str, AccessToken] = {}

    # Accounts

    def add_account(
        self,
        email: str,
        password: str,
        *,
        mfa: bool = False,
        mfa_method: str = "email",
        display_name: str | None = None,
        full_name: str | None = None,
        steps: int | None = None,
    ) -> Account:
        seed = hashlib.sha256(email.lower().encode()).digest()
        account = Account(
            email=email,
            password=password,
            mfa=mfa,
            mfa_method=mfa_method,
            display_name=display_name or str(uuid.UUID(bytes=seed[:16], version=4)),
            full_name=full_name or email.partition("@")[0].replace(".", " ").title(),
            steps=steps,
            profile_id=10_000_000 + int.from_bytes(seed[16:20], "big") % 89_999_999,
            guid=str(uuid.UUID(bytes=seed[16:32], version=4)),
        )
        with self.lock:
            if email.lower() in self._accounts:
                raise ValueError(f"There is an account {email} already.")
            if account.display_name in self._by_display_name:
                raise ValueError(f"There is an account with the name {display_name} already.")
            self._accounts[email.lower()] = account
            self._by_display_name[account.display_name] = account
        return account

    def account(self, email: str) -> Account:
        with self.lock:
            try:
                return self._accounts[email.lower()]
            except KeyError:
                raise LookupError(f"No account {email}: add it with add_account().") from None

    def owner_of_name(self, display_name: str) -> Account | None:
        with self.lock:
            return self._by_display_name.get(display_name)

    def set_password(self, email: str, password: str, sign_out_everywhere: bool = True) -> None:
        with self.lock:
            self.account(email).password = password
            if sign_out_everywhere:
                self.revoke(email)

    def revoke(self, email: str) -> None:
        account = self.account(email)
        with self.lock:
            for token in (*self._oauth1.values(), *self._access.values()):
                if token.account is account:
                    token.active = False

    def expire_access_tokens(self, email: str | None = None) -> None:
        account = self.account(email) if email is not None else None
        with self.lock:
            for token in self._access.values():
                if account is None or token.account is account:
                    token.active = False

    def expire_mfa(self, email: str) -> None:
        account = self.account(email)
        with self.lock:
            for session in self._sso.values():
                if session.pending and session.pending.account is account:
                    session.pending.expires_at = 0

    def mfa_code(self, email: str) -> str:
        code = self.account(email).code
        if code is None:
            raise LookupError(f"No code has been sent to {email} yet.")
        return code

    # SSO: steps 1 to 3

    def open_session(self) -> dict[str, str]:
        """Begin an SSO session; return its cookies."""
        cookies = {
            "SESSION": base64.b64encode(str(uuid.uuid4()).encode()).decode(),
            "__VCAP_ID__": str(uuid.uuid4()),
            "__cflb": secrets.token_urlsafe(32),
            "__cf_bm": f"{secrets.token_urlsafe(32)}-{int(time.time())}-1.0.1.1",
            "_cfuvid": f"{secrets.token_urlsafe(32)}-{int(time.time())}-0.0.1.1-604800000",
        }
        with self.lock:
            self._sso[cookies["SESSION"]] = SsoSession(cookies)
        return dict(cookies)

    def log_in(self, cookies: dict[str, str], email: str, password: str, service: str) -> Login:
        """Check the password, for `service` (a URL).

        Raises `Refused`: no_session without the SESSION cookie of step 1, or password.
        """
        with self.lock:
            session = self._session(cookies, ("SESSION",))
            account = self._accounts.get(email.lower())
            if account is None or not secrets.compare_digest(
                account.password.encode(), password.encode()
            ):
                raise Refused("password")
            if not account.mfa:
                session.pending = None
                return Login(account, self._issue_ticket(account, service))
            code = f"{secrets.randbelow(10**6):06}"
            session.pending = PendingLogin(account, service, code, time.monotonic() + MFA_LIFETIME)
            account.code = code
        if self.code_sent:
            self.code_sent(account.email, code)
        return Login(account)

    def verify_code(self, cookies: dict[str, str], code: str, method: str) -> Login:
        """Finish the pending login of this SSO session; its code works once.

        Raises `Refused`: no_session if one of the session's five cookies is missing or old;
        code_invalid, code_expired or code_max.
        """
        with self.lock:
            session = self._session(
                cookies, {"SESSION", "__VCAP_ID__", "__cflb", "__cf_bm", "_cfuvid"}
            )
            pending = session.pending
            if pending is None:
                raise Refused("no_session")
            if pending.expires_at <= time.monotonic():
                raise Refused("code_expired")
            if pending.wrong_codes >= MFA_MAX_ATTEMPTS:
                raise Refused("code_max")
            right = secrets.compare_digest(pending.code.encode(), code.encode())
            if not right or method != pending.account.mfa_method:
                pending.wrong_codes += 1
                raise Refused("code_invalid", self._rotate(session))
            session.pending = None
            return Login(pending.account, self._issue_ticket(pending.account, pending.service))

    def _session(self, cookies: dict[str, str], needed: tuple[str, ...]) -> SsoSession:
        session = self._sso.get(cookies.get("SESSION", ""))
        if session is None or any(cookies.get(n) != session.cookies[n] for n in needed):
            raise Refused("no_session")
        return session

    def _rotate(self, session: SsoSession) -> dict[str, str]:
        if not self.rotate_mfa_cookie:
            return {}
        del self._sso[session.cookies["SESSION"]]
        session.cookies["SESSION"] = base64.b64encode(str(uuid.uuid4()).encode()).decode()
        self._sso[session.cookies["SESSION"]] = session
        return {"SESSION": session.cookies["SESSION"]}

    def _issue_ticket(self, account: Account, service: str) -> str:
        ticket = f"ST-{secrets.randbelow(10**7):07}-{secrets.token_hex(10)}-sso"
        self._tickets[ticket] = Ticket(account, service)
        return ticket

    # OAuth: steps 6 to 8

    def secret_of(self, consumer_key: str, oauth_token: str) -> tuple[str, str]:
        """Return the consumer secret and the token secret (empty without a token) to check with.

        Raises `Refused`: signature for a foreign consumer key, oauth1 for an unknown token.
        """
        with self.lock:
            if consumer_key != self.consumer["consumer_key"]:
                raise Refused("signature")
            if not oauth_token:
                return self.consumer["consumer_secret"], ""
            if oauth_token not in self._oauth1:
                raise Refused("oauth1")
            return self.consumer["consumer_secret"], self._oauth1[oauth_token].secret

    def redeem_ticket(self, ticket: str, service: str) -> OAuth1:
        """Turn a service ticket, which works once, into a token. Raises `Refused`: ticket."""
        with self.lock:
            found = self._tickets.pop(ticket, None)
            if found is None or found.service != service:
                raise Refused("ticket")
            return self._issue_oauth1(found.account)

    def exchange(self, oauth_token: str, mfa_token: str | None) -> dict:
        """Issue an access token; return the exchange's JSON.

        Raises `Refused`: oauth1, or mfa_token when that is missing or foreign.
        """
        with self.lock:
            oauth1 = self._oauth1.get(oauth_token)
            if oauth1 is None or not oauth1.active:
                raise Refused("oauth1")
            if oauth1.mfa_token and mfa_token != oauth1.mfa_token:
                raise Refused("mfa_token")
            return self._issue_access(oauth1.account)

    def bearer(self, access_token: str) -> Account:
        """Return whose access token this is. Raises `Refused`: bearer."""
        with self.lock:
            found = self._access.get(access_token)
            if found is None or not found.active or found.expires_at <= time.time():
                raise Refused("bearer")
            return found.account

    def issue_session(self, email: str, *, access_expired: bool = False, domain: str) -> str:
        """Mint a session without a login, as the text that garth's `dumps()` gives."""
        account = self.account(email)
        with self.lock:
            oauth1 = self._issue_oauth1(account)
            access = self._issue_access(account)
            now = int(time.time())
            expires_at = now + access["expires_in"]
            if access_expired:
                self._access[access["access_token"]].active = False
                expires_at = now - 60
        tokens = [
            {
                "oauth_token": oauth1.token,
                "oauth_token_secret": oauth1.secret,
                "mfa_token": oauth1.mfa_token,
                "mfa_expiration_timestamp": oauth1.mfa_expires_at
                and time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(oauth1.mfa_expires_at)),
                "domain": domain,
            },
            {
                "scope": access["scope"],
                "jti": access["jti"],
                "token_type": access["token_type"],
                "access_token": access["access_token"],
                "refresh_token": access["refresh_token"],
                "expires_in": access["expires_in"],
                "expires_at": expires_at,
                "refresh_token_expires_in": access["refresh_token_expires_in"],
                "refresh_token_expires_at": now + access["refresh_token_expires_in"],
            },
        ]
        return base64.b64encode(json.dumps(tokens).encode()).decode()

    def _issue_oauth1(self, account: Account) -> OAuth1:
        oauth1 = OAuth1(
            account=account,
            token=str(uuid.uuid4()),
            secret=secrets.token_urlsafe(26),
            mfa_token=f"MFA-{secrets.token_urlsafe(32)}" if account.mfa else None,
            mfa_expires_at=time.time() + MFA_TOKEN_LIFETIME if account.mfa else None,
        )
        self._oauth1[oauth1.token] = oauth1
        return oauth1

    def _issue_access(self, account: Account) -> dict:
        now = int(time.time())
        jti = str(uuid.uuid4())
        claims = {
            "scope": SCOPE.split(),
            "iss": "https://diauth.garmin.com",
            "exp": now + self.access_token_lifetime,
            "iat": now,
            "garmin_guid": account.guid,
            "jti": jti,
            "client_id": "GARMIN_CONNECT_MOBILE_ANDROID_DI",
        }
        header = {"alg": "RS256", "typ": "JWT", "kid": "di-oauth-simulator"}
        access_token = ".".join(
            (_base64url(header), _base64url(claims), secrets.token_urlsafe(256))
        )
        self._access[access_token] = AccessToken(account, time.time() + self.access_token_lifetime)
        account.access_tokens.append(access_token)
        if len(account.access_tokens) > ACCESS_TOKENS_KEPT:
            del self._access[account.access_tokens.popleft()]
        return {
            "scope": SCOPE,
            "jti": jti,
            "access_token": access_token,
            "token_type": "bearer",
            "refresh_token": _base64url({"refreshTokenValue": str(uuid.uuid4()), "id": jti}),
            "expires_in": self.access_token_lifetime,
            "refresh_token_expires_in": REFRESH_TOKEN_LIFETIME,
        }

    # Whose credential a request carries, valid or not: for the log and for faults of one account

    def owner_of_session(self, cookies: dict[str, str]) -> str | None:
        with self.lock:
            session = self._sso.get(cookies.get("SESSION", ""))
            return session.pending.account.email if session and session.pending else None

    def owner_of_email(self, email: str) -> str | None:
        with self.lock:
            account = self._accounts.get(email.lower())
            return account.email if account else None

    def owner_of_ticket(self, ticket: str) -> str | None:
        return self._owner(self._tickets, ticket)

    def owner_of_oauth1(self, token: str) -> str | None:
        return self._owner(self._oauth1, token)

    def owner_of_access(self, token: str) -> str | None:
        return self._owner(self._access, token)

    def _owner(self, credentials: dict, key: str) -> str | None:
        with self.lock:
            found = credentials.get(key)
            return found.account.email if found else None


def _base64url(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
