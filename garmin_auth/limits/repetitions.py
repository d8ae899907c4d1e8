"""What a user submits twice goes to Garmin once.

A double click sends the same twice. The second request waits for the first, and gets its result.
With one synchronous worker the second request only begins when the first has ended: then the form's
idempotency key shows that it is the same.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

from django.utils.crypto import salted_hmac

from ..engines.secret import Secret
from ..exceptions import GarminAuthError, LoginRejected
from ..logins.records import from_record, to_record
from .shared_cache import shared_cache, tenant_cache_key
from .turns import turn

T = TypeVar("T")

# How many seconds the outcome of a form is remembered.
MEMORY = 600


@dataclass(frozen=True)
class Submission:
    """What a user sends to Garmin.

    Args:
        kind: ``"login"`` or ``"code"``.
        user: the user.
        contents: what they typed.
        service: the engine and the Garmin domain that get it; () if there is no choice.
        idempotency_key: names the form that they sent; "" if it has no name.
    """

    kind: str
    user: Any
    contents: tuple[Secret, ...]
    idempotency_key: str = ""
    service: tuple[str, ...] = ()
    _id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def outcome_key(self) -> str:
        name = self.idempotency_key or self._id
        return tenant_cache_key("outcome", self.kind, self.user.pk, name, self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Tells different contents apart, except for one pair in 65,536.

        SECURITY: so few bits, because they are stored in the cache. They let nobody find a
        password, not even with SECRET_KEY.
        """
        contents = "\0".join((*self.service, *(secret.reveal() for secret in self.contents)))
        key = "garmin_auth.limits.repetitions"
        return salted_hmac(key, contents, algorithm="sha256").hexdigest()[:4]


def send_once(
    submission: Submission,
    seconds: float,
    send: Callable[[], T],
    result_since: Callable[[datetime], T | None],
) -> T:
    """Send what a user submitted, unless they have submitted the same before.

    Args:
        submission: what they submitted.
        seconds: how long sending may take, and how long to wait for another submission.
        send: sends it.
        result_since: finds the result of an earlier success in the database, if it still holds.

    Returns:
        What ``send`` returned; or, if the submission is a repetition, the result of the first.

    Raises:
        GarminAuthError: this submission, or the one that it repeats, failed.
    """
    mark = [submission.fingerprint, submission.outcome_key]
    with turn(submission.kind, submission.user, seconds, mark) as waited_for:
        same = [outcome for fingerprint, outcome in waited_for if fingerprint == mark[0]]
        result = _result_of(same[-1], result_since, any_failure=True) if same else None
        if result is None and submission.idempotency_key:
            result = _result_of(submission.outcome_key, result_since, any_failure=False)
        return _send(submission, send) if result is None else result


def note_background(submission: Submission) -> None:
    """Record what the user's background login was begun with."""
    noted = [submission.fingerprint, submission.outcome_key, time.time()]
    shared_cache.set(_background_key(submission), noted, MEMORY)


def is_in_background(submission: Submission) -> bool:
    """Tell whether the user's last background login was begun with the same.

    It is not known if the cache has lost it. Then the answer is yes, because a login that is left
    alone does no harm.
    """
    noted = shared_cache.get(_background_key(submission))
    return noted is None or noted[0] == submission.fingerprint


def began_background(submission: Submission) -> datetime | None:
    """Return when the user's last background login was begun, if it was by this very form."""
    noted = shared_cache.get(_background_key(submission))
    if noted is None or noted[1] != submission.outcome_key:
        return None
    return datetime.fromtimestamp(noted[2], UTC)


def _background_key(submission: Submission) -> str:
    return tenant_cache_key("background", submission.user.pk)


def _send(submission: Submission, send: Callable[[], T]) -> T:
    began, failure = time.time(), ""
    try:
        result = send()
    except GarminAuthError as exc:
        # SECURITY: not the exception itself: a site's own engine may attach anything to it.
        failure = to_record(exc)
        shared_cache.set(submission.outcome_key, [began, failure], MEMORY)
        raise
    shared_cache.set(submission.outcome_key, [began, failure], MEMORY)
    return result


def _result_of(
    outcome_key: str, result_since: Callable[[datetime], T | None], any_failure: bool
) -> T | None:
    """Return the result of an earlier submission, or raise its failure; None if there is neither.

    Args:
        outcome_key: the earlier submission's.
        result_since: finds the result of a success.
        any_failure: whether to raise an outage too, which says nothing of what the user typed.
    """
    outcome = shared_cache.get(outcome_key)
    if outcome is None:
        return None
    began, failure = outcome
    if not failure:
        return result_since(datetime.fromtimestamp(began, UTC))
    error = from_record(failure)
    if any_failure or isinstance(error, LoginRejected):
        raise error
    return None
