"""Each setting: its default, what it takes and what it refuses."""

import math
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse_lazy

from garmin_auth.conf import Settings, conf

DEFAULTS = {
    "ENGINE": None,
    "ENGINES": {},
    "DOMAIN": "garmin.com",
    "PROXIES": {},
    "CA_BUNDLE": None,
    "CACHE": "default",
    "TIMEOUT": 30,
    "LEASE": 20,
    "OAUTH_CONSUMER": None,
    "MFA_TTL": 600,
    "MFA_MAX_ATTEMPTS": 5,
    "LOGIN_WORKERS": 4,
    "ASYNC_WORKERS": 20,
    "CHECK_RATE": None,
    "THREAD_CONTEXT": None,
    "CLIENT_ADDRESS": None,
    "MAY_CONNECT": None,
    "API_AUTHENTICATION": "garmin_auth.api.authentication.session",
    "TERMS_URL": None,
    "FAILING_AFTER": 259_200,
    "FROZEN": False,
}
CONSUMER = {"consumer_key": "key", "consumer_secret": "secret"}

GOOD = [
    ("ENGINE", "another"),
    ("ENGINE", None),
    ("ENGINE", ["another", "garth"]),
    ("ENGINE", ("another", "garth")),
    ("ENGINES", {"mine": "site.engines.Mine"}),
    ("ENGINES", {"m" * 50: "site.engines.Mine"}),
    ("DOMAIN", "garmin.com"),
    ("DOMAIN", "garmin.cn"),
    ("DOMAIN", ["garmin.cn", "garmin.com"]),
    ("DOMAIN", ("garmin.com",)),
    ("PROXIES", {}),
    ("PROXIES", {"https": "http://proxy:3128"}),
    ("PROXIES", {"https": "https://name:password@proxy.example"}),
    ("PROXIES", {"https": "http://[::1]:3128"}),
    ("CA_BUNDLE", None),
    ("CA_BUNDLE", "/etc/ca.pem"),
    ("CACHE", "default"),
    ("TIMEOUT", 1),
    ("TIMEOUT", 0.5),
    ("LEASE", 60),
    ("OAUTH_CONSUMER", None),
    ("OAUTH_CONSUMER", CONSUMER),
    ("MFA_TTL", 60),
    ("MFA_TTL", 0.5),
    ("MFA_MAX_ATTEMPTS", 1),
    ("MFA_MAX_ATTEMPTS", 10),
    ("LOGIN_WORKERS", 1),
    ("ASYNC_WORKERS", 1),
    ("CHECK_RATE", None),
    ("CHECK_RATE", 0.1),
    ("CHECK_RATE", 50),
    ("THREAD_CONTEXT", None),
    ("THREAD_CONTEXT", "mysite.tenants.for_a_thread"),
    ("CLIENT_ADDRESS", None),
    ("MAY_CONNECT", None),
    ("MAY_CONNECT", "mysite.plans.may_connect"),
    ("CLIENT_ADDRESS", "mysite.proxies.client_address"),
    ("TERMS_URL", None),
    ("TERMS_URL", "/terms/"),
    ("TERMS_URL", reverse_lazy("garmin_auth:status")),
    ("FROZEN", True),
    ("FROZEN", False),
]

BAD = [
    ("ENGINE", 5),
    ("ENGINE", []),
    ("ENGINE", ["garth", 5]),
    ("ENGINE", ["garth", "garth"]),
    ("ENGINE", {"garth"}),
    ("ENGINES", None),
    ("ENGINES", ["garth"]),
    ("ENGINES", {"mine": 5}),
    ("ENGINES", {"mine": None}),
    ("ENGINES", {5: "site.engines.Mine"}),
    ("ENGINES", {"mine": "NoModule"}),
    ("ENGINES", {"mine": ""}),
    ("ENGINES", {"m" * 51: "site.engines.Mine"}),
    ("ENGINES", {"": "site.engines.Mine"}),
    ("DOMAIN", None),
    ("DOMAIN", ""),
    ("DOMAIN", "GARMIN.COM"),
    ("DOMAIN", "evil.example"),
    ("DOMAIN", "garmin.com.evil.example"),
    ("DOMAIN", []),
    ("DOMAIN", ["garmin.com", "evil.example"]),
    ("DOMAIN", ["garmin.com", "garmin.com"]),
    ("DOMAIN", ["garmin.com", None]),
    ("DOMAIN", [["garmin.com"]]),
    ("DOMAIN", {"garmin.com"}),
    ("PROXIES", None),
    ("PROXIES", "http://proxy:3128"),
    ("PROXIES", {"http": "http://proxy:3128"}),
    ("PROXIES", {"https": "http://proxy:3128", "http": "http://proxy:3128"}),
    ("PROXIES", {"https": "socks5://proxy:1080"}),
    ("PROXIES", {"https": "proxy:3128"}),
    ("PROXIES", {"https": "proxy"}),
    ("PROXIES", {"https": "//proxy:3128"}),
    ("PROXIES", {"https": "http://"}),
    ("PROXIES", {"https": "http:///path"}),
    ("PROXIES", {"https": "http://proxy:port"}),
    ("PROXIES", {"https": "http://proxy:99999"}),
    ("PROXIES", {"https": "http://[::1"}),
    ("PROXIES", {"https": "http://[nonsense]:3128"}),
    ("PROXIES", {"https": ""}),
    ("PROXIES", {"https": None}),
    ("PROXIES", {"https": b"http://proxy:3128"}),
    ("CA_BUNDLE", 5),
    ("CA_BUNDLE", True),
    ("CA_BUNDLE", ["/etc/ca.pem"]),
    ("CACHE", None),
    ("CACHE", "no such cache"),
    ("CACHE", ["default"]),
    ("OAUTH_CONSUMER", "key"),
    ("OAUTH_CONSUMER", {}),
    ("OAUTH_CONSUMER", {"consumer_key": "key"}),
    ("OAUTH_CONSUMER", {**CONSUMER, "consumer_secret": ""}),
    ("OAUTH_CONSUMER", {**CONSUMER, "consumer_key": 5}),
    ("OAUTH_CONSUMER", ["key", "secret"]),
    ("MFA_MAX_ATTEMPTS", 0.5),
    ("MFA_MAX_ATTEMPTS", 2.5),
    ("LOGIN_WORKERS", 1.5),
    ("MFA_TTL", 1e300),
    ("LEASE", 14),
    ("THREAD_CONTEXT", "for_a_thread"),
    ("API_AUTHENTICATION", "authenticate"),
    ("API_AUTHENTICATION", 5),
    ("THREAD_CONTEXT", 5),
    ("CLIENT_ADDRESS", "client_address"),
    ("CLIENT_ADDRESS", 5),
    ("MAY_CONNECT", "may_connect"),
    ("MAY_CONNECT", True),
    ("TERMS_URL", 5),
    ("TERMS_URL", ["/terms/"]),
    *(("FROZEN", value) for value in (None, "True", "False", "", 0, 1, [True])),
    *(("CHECK_RATE", value) for value in (0, -1, "5", "5/s", True, math.nan, math.inf)),
    *(
        (name, value)
        for name in (
            "TIMEOUT",
            "LEASE",
            "MFA_TTL",
            "MFA_MAX_ATTEMPTS",
            "LOGIN_WORKERS",
            "ASYNC_WORKERS",
            "FAILING_AFTER",
        )
        for value in (0, -1, "5", None, True, [5], math.nan, math.inf)
    ),
]


def test_no_setting_is_forgotten_here():
    names = {name for name in vars(Settings) if name.isupper()}

    assert names == set(DEFAULTS) == {name for name, _ in BAD}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default(settings, name):
    if hasattr(settings, f"GARMIN_AUTH_{name}"):
        delattr(settings, f"GARMIN_AUTH_{name}")

    value = getattr(conf, name)

    assert value == DEFAULTS[name]
    assert type(value) is type(DEFAULTS[name])


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_a_good_value_is_given_back(settings, name, value):
    setattr(settings, f"GARMIN_AUTH_{name}", value)

    assert getattr(conf, name) == value


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name(settings, name, value):
    setattr(settings, f"GARMIN_AUTH_{name}", value)

    with pytest.raises(ImproperlyConfigured, match=rf"^GARMIN_AUTH_{name} .*\.$"):
        getattr(conf, name)


def test_a_ca_bundle_may_be_a_path(settings):
    settings.GARMIN_AUTH_CA_BUNDLE = Path("/etc/ca.pem")

    assert conf.CA_BUNDLE == "/etc/ca.pem"


def test_a_cache_of_the_sites_may_be_named(settings):
    settings.CACHES = {"default": {}, "shared": {}}
    settings.GARMIN_AUTH_CACHE = "shared"

    assert conf.CACHE == "shared"


def test_a_refusal_does_not_repeat_a_proxys_password(settings):
    settings.GARMIN_AUTH_PROXIES = "http://name:proxy-password@proxy:3128"

    with pytest.raises(ImproperlyConfigured) as caught:
        _ = conf.PROXIES

    assert "proxy-password" not in str(caught.value)


def test_a_refusal_does_not_repeat_the_consumers_secret(settings):
    settings.GARMIN_AUTH_OAUTH_CONSUMER = {"consumer_secret": "a-secret"}

    with pytest.raises(ImproperlyConfigured) as caught:
        _ = conf.OAUTH_CONSUMER

    assert "a-secret" not in str(caught.value)
