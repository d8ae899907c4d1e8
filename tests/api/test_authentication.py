"""Who the user of a request is, and that a CSRF token is needed exactly where a cookie says it."""

import sys
from types import ModuleType

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied

from garmin_auth.accounts import account_of
from garmin_auth.models import GarminAuthenticationState
from tests.api.conftest import API, CONNECTION, KEY, LOGIN, MFA, ApiClient
from tests.conftest import EMAIL, PASSWORD, ROOT
from tests.markdown import blocks

pytestmark = pytest.mark.django_db(transaction=True)

FORM = {"email": EMAIL, "password": PASSWORD}
SESSION = "rest_framework.authentication.SessionAuthentication"
JWT = "rest_framework_simplejwt.authentication.JWTAuthentication"
UNSAFE = [("post", LOGIN), ("post", MFA), ("post", KEY), ("delete", LOGIN), ("delete", CONNECTION)]
STEPS = [("get", CONNECTION), *UNSAFE]


def strict(user=None):
    """A client that Django does not let off the CSRF check; of a user, with their cookie."""
    client = ApiClient(enforce_csrf_checks=True)
    if user:
        client.force_login(user)
    return client


def answer(client, method, path, **headers):
    if method == "get":
        return client.get(path, headers=headers)
    return client.send(path, FORM, method, **headers)


def code_of(response):
    return response.status_code, response.json().get("code")


# The site's session


@pytest.mark.parametrize(("method", "path"), STEPS)
def test_a_visitor_is_refused(api_urls, method, path):
    response = answer(strict(), method, path)

    assert code_of(response) == (401, "not_authenticated")
    assert response["WWW-Authenticate"] == 'Cookie cookie-name="sessionid"'
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_a_cookie_needs_a_token(user, api_urls, garmin, method, path):
    client = strict(user)

    assert code_of(answer(client, method, path)) == (403, "csrf_failed")
    client.get(CONNECTION)
    assert code_of(answer(client, method, path)) == (403, "csrf_failed")
    wrong = {"X-CSRFToken": "x" * 32}
    assert code_of(answer(client, method, path, **wrong)) == (403, "csrf_failed")
    token = {"X-CSRFToken": client.cookies["csrftoken"].value}
    assert code_of(answer(client, method, path, **token))[0] in (200, 422)


def test_another_origin_needs_more_than_a_token(user, api_urls):
    client = strict(user)
    client.get(CONNECTION)
    headers = {"X-CSRFToken": client.cookies["csrftoken"].value, "Origin": "https://evil.example"}

    assert code_of(answer(client, "delete", CONNECTION, **headers)) == (403, "csrf_failed")


def test_a_form_of_another_site_does_nothing(user, api_urls, connect):
    connect(user)
    client = strict(user)
    client.get(CONNECTION)
    form = {"csrfmiddlewaretoken": client.cookies["csrftoken"].value, **FORM}

    assert code_of(client.post(LOGIN, form)) == (415, "unsupported_media_type")
    assert account_of(user).connected


def test_an_inactive_user_is_nobody(user, api_urls):
    client = strict(user)
    user.is_active = False
    user.save()

    assert code_of(client.get(CONNECTION)) == (401, "not_authenticated")


def test_login_required_middleware_does_not_redirect(api_urls, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert code_of(strict().get(CONNECTION)) == (401, "not_authenticated")
    assert strict().get(f"{API}openapi.json").status_code == 200


# REST framework


@pytest.fixture
def rest_framework(settings, api_urls):
    """Let these classes of REST framework find the user."""
    pytest.importorskip("rest_framework_simplejwt", reason="simplejwt is not installed")

    def use(*classes):
        settings.GARMIN_AUTH_API_AUTHENTICATION = "garmin_auth.api.authentication.rest_framework"
        settings.REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": classes}
        # The key of a test's site is shorter than JWT wants.
        settings.SIMPLE_JWT = {"SIGNING_KEY": "a key for tests that is long enough for HMAC-SHA256"}

    return use


def jwt(user):
    from rest_framework_simplejwt.tokens import AccessToken

    return {"Authorization": f"Bearer {AccessToken.for_user(user)}"}


def test_a_jwt_needs_no_csrf_token(user, account, rest_framework):
    rest_framework(JWT)

    response = strict().send(LOGIN, FORM, **jwt(user))

    assert code_of(response) == (200, None)
    assert account_of(user).connected
    assert "csrftoken" not in response.cookies


@pytest.mark.parametrize("token", [None, "Bearer nonsense", "Bearer", "Basic YTpi"])
def test_a_jwt_that_is_none(account, rest_framework, token):
    rest_framework(JWT)
    headers = {"Authorization": token} if token else {}

    response = strict().send(LOGIN, FORM, **headers)

    assert code_of(response) == (401, "not_authenticated")
    assert response["WWW-Authenticate"] == 'Bearer realm="api"'


def test_a_jwt_of_an_inactive_user(user, rest_framework):
    rest_framework(JWT)
    headers = jwt(user)
    user.is_active = False
    user.save()

    assert code_of(strict().get(CONNECTION, headers=headers)) == (401, "not_authenticated")


def test_with_jwt_alone_a_cookie_is_nothing(user, rest_framework):
    rest_framework(JWT)

    assert code_of(strict(user).get(CONNECTION)) == (401, "not_authenticated")


def test_a_jwt_decides_whose_connection_it_is_and_not_the_cookie(
    user, other_user, account, rest_framework
):
    rest_framework(JWT, SESSION)

    response = strict(other_user).send(LOGIN, FORM, **jwt(user))

    assert code_of(response) == (200, None)
    assert (account_of(user).connected, account_of(other_user).connected) == (True, False)


@pytest.mark.parametrize("classes", [(SESSION,), (JWT, SESSION)])
def test_rest_frameworks_session_needs_a_csrf_token(user, account, rest_framework, classes):
    rest_framework(*classes)
    client = strict(user)

    assert code_of(client.send(LOGIN, FORM)) == (403, "csrf_failed")
    client.cookies["csrftoken"] = token = "a" * 32
    assert code_of(client.send(LOGIN, FORM, **{"X-CSRFToken": token})) == (200, None)
    assert code_of(client.delete(CONNECTION)) == (403, "csrf_failed")


def test_rest_framework_without_classes_finds_nobody(user, rest_framework):
    rest_framework()

    response = strict(user).get(CONNECTION)

    assert code_of(response) == (401, "not_authenticated")
    assert "WWW-Authenticate" not in response


# A site's own


@pytest.fixture
def own(settings, api_urls):
    """Let this function find the user."""

    def use(function):
        monkey = ModuleType("own_authentication")
        monkey.authenticate = function
        sys.modules["own_authentication"] = monkey
        settings.GARMIN_AUTH_API_AUTHENTICATION = "own_authentication.authenticate"

    yield use
    sys.modules.pop("own_authentication", None)


def test_a_sites_own_function_is_asked(user, own):
    own(lambda request: user if request.headers.get("X-Key") == "ana's" else None)

    assert strict().get(CONNECTION, headers={"X-Key": "ana's"}).status_code == 200
    response = strict().get(CONNECTION)
    assert code_of(response) == (401, "not_authenticated")
    assert "WWW-Authenticate" not in response


def test_a_sites_own_function_permits_nothing(own):
    def refuse(request):
        raise PermissionDenied("a secret reason")

    own(refuse)

    response = strict().get(CONNECTION)
    assert code_of(response) == (403, "permission_denied")
    assert "secret" not in response.content.decode()


@pytest.mark.parametrize("answer", ["a token", 5, True, GarminAuthenticationState()])
def test_what_is_no_user_has_no_connection(own, answer):
    own(lambda request: answer)

    with pytest.raises(ImproperlyConfigured, match=f"returned {type(answer).__name__}"):
        strict().get(CONNECTION)


def test_the_sites_code_sees_the_same_user(user, other_user, own, settings, account):
    own(lambda request: user)
    settings.GARMIN_AUTH_CLIENT_ADDRESS = "tests.api.test_authentication.address_of"
    seen.clear()

    strict(other_user).send(LOGIN, FORM)

    assert seen == [user]


seen = []


def address_of(request):
    seen.append(request.user)
    return "192.0.2.1"


# What the how-to shows for django-ninja


@pytest.fixture
def ninja(settings, api_urls, monkeypatch):
    pytest.importorskip("ninja", reason="django-ninja is not installed")
    page = ROOT / "docs" / "how-to" / "api.md"
    (block,) = [each for each in blocks(page) if each.title == "mysite/authentication.py"]
    module = ModuleType("ninja_authentication")
    exec(block.text, vars(module))
    monkeypatch.setitem(sys.modules, "ninja_authentication", module)
    settings.GARMIN_AUTH_API_AUTHENTICATION = "ninja_authentication.user_of"
    return module


def test_the_example_for_ninja(user, other_user, account, ninja):
    headers = {"Authorization": f"Bearer {ninja.token_for(user)}"}

    assert code_of(strict(other_user).send(LOGIN, FORM, **headers)) == (200, None)
    assert (account_of(user).connected, account_of(other_user).connected) == (True, False)


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Bearer 1", "nonsense"])
def test_the_example_for_ninja_refuses_what_it_does_not_know(user, ninja, header):
    headers = {"Authorization": header} if header else {}

    assert code_of(strict(user).get(CONNECTION, headers=headers)) == (401, "not_authenticated")
