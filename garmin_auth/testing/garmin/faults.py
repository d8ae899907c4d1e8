"""The faults that the simulator can simulate, and the queues of those requested."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock

from . import answers, personal, widget
from .answers import Answer
from .journal import STEPS
from .state import DOMAINS

WEB = tuple(step for step in STEPS if step != "connect")
CODE = ("verify_code", "portal_verify_code")
SSO_JSON = ("login", "portal_login", *CODE)
PAGES = tuple(step for step in STEPS if step.startswith("widget_") and step != "widget_send_code")
TOKEN = ("di_exchange", "di_refresh")
FOREVER = 86_400.0  # seconds


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    `steps` are the steps that it applies to; `options` are its options, with defaults. If `answer`
    is set, the request is not processed and gets that answer. Otherwise `server.Connection`
    simulates the fault.
    """

    steps: tuple[str, ...]
    answer: Callable[..., Answer] | None = None
    options: dict = field(default_factory=dict)


def _status(status: int, body: str | None, headers: dict[str, str] | None) -> Answer:
    if body is None:
        body = f"<html><body><h1>{status} {answers.phrase(status)}</h1></body></html>"
    return answers.as_html(body, status, list((headers or {}).items()))


def _refusal(reason: str) -> Callable[..., Answer]:
    return lambda status: answers.sso_refusal(reason, status=status)


KINDS = {
    # The request is not processed; this answer is sent instead of Garmin's.
    "status": Kind(STEPS, _status, {"status": 503, "body": None, "headers": None}),
    "rate_limited": Kind(WEB, answers.rate_limited, {"retry_after": None}),
    "rate_limited_427": Kind(WEB, answers.rate_limited_427),
    "rate_limited_200": Kind(WEB, answers.rate_limited_200),
    "blocked": Kind(WEB, answers.blocked),
    "challenge_page": Kind(WEB, answers.challenge_page),
    "captcha": Kind(SSO_JSON, _refusal("captcha"), {"status": None}),
    "locked": Kind(SSO_JSON, _refusal("locked"), {"status": None}),
    "disabled": Kind(SSO_JSON, _refusal("disabled"), {"status": None}),
    # For the widget's refusals, which nobody has recorded. garminconnect reads the title.
    "titled_page": Kind(PAGES, widget.titled_page, {"title": "Account Locked", "status": 200}),
    "unknown_type": Kind(
        SSO_JSON,
        answers.sso_unknown_type,
        {"kind": "SOMETHING_NEW", "message": "", "status": 200},
    ),
    "code_409": Kind(CODE, _refusal("code_409"), {"status": None}),
    "code_invalid": Kind(CODE, _refusal("code_invalid"), {"status": None}),
    "code_expired": Kind(CODE, _refusal("code_expired"), {"status": None}),
    "code_max": Kind(CODE, _refusal("code_max"), {"status": None}),
    "dead": Kind(("exchange",), answers.dead),
    "app_validation": Kind(("preauthorized", "exchange"), answers.app_validation),
    "error_string": Kind(SSO_JSON, answers.error_string, {"status": 404}),
    "invalid_grant": Kind(TOKEN, answers.invalid_refresh_token),
    "oauth_error": Kind(
        TOKEN,
        answers.oauth_error,
        {"error": "invalid_client", "description": "", "status": 400},
    ),
    "key_refused": Kind(("personal_token",), personal.refused_key, {"status": 401}),
    "key_rate_limited": Kind(
        ("personal_token", "api"), personal.key_rate_limited, {"retry_after": 14}
    ),
    "token_inactive": Kind(("api",), answers.token_inactive),
    "unauthorized_other": Kind(WEB, answers.unauthorized_other),
    "html": Kind(WEB, lambda: answers.as_html("<html><body>Garmin Connect</body></html>")),
    "wrong_json": Kind(WEB, lambda value: answers.as_json(value), {"value": ["unexpected"]}),
    "empty": Kind(WEB, Answer),
    "no_content": Kind(WEB, lambda: Answer(204)),
    "redirect": Kind(WEB, answers.redirect, {"location": "https://evil.example/"}),
    # The connection fails before the request is processed.
    "reset": Kind(STEPS),
    "stall": Kind(STEPS, options={"seconds": FOREVER}),
    "refused": Kind(("connect",)),
    "tls_failure": Kind(("connect",)),
    "tls_stall": Kind(("connect",), options={"seconds": FOREVER}),
    # The request is processed, but its answer arrives damaged, late or not at all.
    "changed_json": Kind(("exchange", *TOKEN), options={"changes": {"access_token": ""}}),
    "truncated_json": Kind(WEB),
    "reset_mid_body": Kind(WEB),
    "slow_headers": Kind(STEPS, options={"interval": 1.0}),
    "trickle": Kind(WEB, options={"interval": 1.0}),
    "late": Kind(WEB, options={"seconds": 0.1}),
    "drop_after": Kind(WEB),
}


@dataclass
class Fault:
    name: str
    times: int | None
    account: str | None
    domain: str | None
    options: dict

    def answer(self) -> Answer | None:
        """Return the answer to send instead of Garmin's, None if `server` simulates the fault."""
        make = KINDS[self.name].answer
        return make(**self.options) if make else None


class Faults:
    """The queued faults of each step, in order."""

    def __init__(self, lock: RLock):
        self._lock = lock
        self._queues: dict[str, deque[Fault]] = {step: deque() for step in STEPS}

    def add(
        self,
        step: str,
        name: str,
        times: int | None = 1,
        account: str | None = None,
        domain: str | None = None,
        **options,
    ) -> None:
        """Queue a fault.

        Raises `ValueError` for an unknown step, fault, domain or option. The message lists the
        known ones.
        """
        check(step, STEPS, "step")
        check(name, KINDS, "fault")
        kind = KINDS[name]
        check(step, kind.steps, f"step for the fault {name!r}")
        if domain is not None:
            check(domain, DOMAINS, "domain")
        for option in options:
            check(option, kind.options, f"option of the fault {name!r}")
        if times is not None and (not isinstance(times, int) or times < 1):
            raise ValueError(f"times must be at least 1, or None until healed, not {times!r}.")
        fault = Fault(name, times, account and account.lower(), domain, kind.options | options)
        _check_values(fault)
        with self._lock:
            self._queues[step].append(fault)

    def heal(self, step: str | None = None) -> None:
        """Remove the faults of one step, or of all."""
        if step is not None:
            check(step, STEPS, "step")
        with self._lock:
            for queue in [self._queues[step]] if step else self._queues.values():
                queue.clear()

    def take(self, step: str, domain: str, owner: str | None = None) -> Fault | None:
        """Remove and return the next fault for a request of this step, domain and account."""
        with self._lock:
            for fault in self._queues.get(step, ()):
                if fault.account is not None and fault.account != (owner or "").lower():
                    continue
                if fault.domain not in (None, domain):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._queues[step].remove(fault)
                return fault
        return None


def check(value: str, legal, what: str) -> None:
    """Raise `ValueError`, which lists what is `legal`, unless `value` is."""
    if value not in legal:
        names = ", ".join(sorted(legal)) or "none"
        raise ValueError(f"Unknown {what} {value!r}. Choose one of {names}.")


def _check_values(fault: Fault) -> None:
    # Raise here, in the test, rather than later in a thread of the server.
    try:
        for option in ("seconds", "interval"):
            if not fault.options.get(option, 0) >= 0:
                raise ValueError(f"{option} is negative")
        if not isinstance(fault.options.get("changes", {}), dict):
            raise ValueError("changes is a dict of fields")
        if answer := fault.answer():
            if not 200 <= answer.status <= 599:
                raise ValueError("status is a number from 200 to 599")
            answer.head()
    except (TypeError, ValueError, AttributeError) as error:
        message = f"The fault {fault.name!r} cannot have {fault.options}: {error}."
        raise ValueError(message) from None
