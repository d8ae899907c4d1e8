"""Chromium's password manager: it fills the site's own login form, and not the form for Garmin."""

import hashlib
import os
import sqlite3
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from django.conf import settings as django_settings

from garmin_auth.forms import LoginForm
from garmin_auth.login import start_login
from tests.browser import chromium_with_profile
from tests.conftest import EMAIL, PASSWORD
from tests.services import why_not_browser
from tests.waiting import wait_until

if reason := why_not_browser():
    pytest.skip(reason, allow_module_level=True)

NAME, SAVED = "ana@site.example", "site password"


def encrypted(password):
    """Encrypt as Chromium does with --password-store=basic (os_crypt's "v10" on Linux)."""
    key = hashlib.pbkdf2_hmac("sha1", b"peanuts", b"saltysalt", 1, 16)
    fill = 16 - len(password) % 16
    encryptor = Cipher(algorithms.AES(key), modes.CBC(b" " * 16)).encryptor()
    padded = password.encode() + bytes([fill]) * fill
    return b"v10" + encryptor.update(padded) + encryptor.finalize()


def save_password(profile, origin):
    """Save the user's password for the site, where the profile's passwords are."""
    with closing(sqlite3.connect(profile / "Default" / "Login Data")) as database, database:
        columns = database.execute("PRAGMA table_info(logins)").fetchall()
        empty = {"INTEGER": 0, "BLOB": b""}
        row = {name: empty.get(kind, "") for _, name, kind, *_ in columns if name != "id"}
        row |= {"origin_url": origin, "signon_realm": origin}
        row |= {"username_value": NAME, "password_value": encrypted(SAVED)}
        row |= {"times_used": 1, "date_created": 13_400_000_000_000_000}
        marks = ", ".join(f":{name}" for name in row)
        database.execute(f"INSERT INTO logins ({', '.join(row)}) VALUES ({marks})", row)


@pytest.fixture
def context(live_server, client, user, tmp_path, monkeypatch):
    """A browser that has saved the user's password for the site."""
    # Playwright's loop runs in this thread, and Django thinks that the test runs in it.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    with chromium_with_profile(tmp_path):
        wait_until((tmp_path / "Default" / "Login Data").exists)
    save_password(tmp_path, f"{live_server.url}/")
    client.force_login(user)
    with chromium_with_profile(tmp_path) as context:
        cookie = client.cookies[django_settings.SESSION_COOKIE_NAME]
        context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])
        yield context


def values(page):
    """What the browser has filled in. It shows that to scripts once the visitor has acted."""
    page.bring_to_front()
    page.mouse.click(5, 5)
    return page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden])')]"
        ".map((field) => [field.name, field.value, field.matches(':autofill')])"
    )


def check_that_the_sites_own_form_is_filled(context, live_server):
    """Any page that was opened before this has had the time to be filled, too."""
    page = context.new_page()
    page.goto(f"{live_server.url}/accounts/login/")
    page.wait_for_function("document.querySelectorAll('input:autofill').length === 2")
    assert ["password", SAVED, True] in values(page)


def test_the_password_for_the_site_is_not_filled_into_the_form_for_garmin(context, live_server):
    page = context.new_page()
    page.goto(f"{live_server.url}/garmin/login/")
    check_that_the_sites_own_form_is_filled(context, live_server)

    assert values(page) == [["email", "", False], ["password", "", False]]


def test_nor_is_it_after_a_wrong_password(context, live_server, account):
    page = context.new_page()
    page.goto(f"{live_server.url}/garmin/login/")
    page.fill("input[name=email]", EMAIL)
    page.fill("input[name=password]", "wrong")
    page.click("button:has-text('Connect')")
    page.wait_for_selector("[role=alert]")
    check_that_the_sites_own_form_is_filled(context, live_server)

    assert values(page) == [["email", EMAIL, False], ["password", "", False]]


def test_nor_is_it_into_the_form_for_the_code(context, live_server, mfa_account, user):
    start_login(user, EMAIL, PASSWORD)
    page = context.new_page()
    page.goto(f"{live_server.url}/garmin/mfa/")
    check_that_the_sites_own_form_is_filled(context, live_server)

    assert values(page) == [["code", "", False]]


def test_a_form_with_the_usual_attributes_would_be_filled(context, live_server, monkeypatch):
    """What the tests above would see, if the attributes did not help."""
    fields = LoginForm.base_fields
    monkeypatch.setitem(fields["email"].widget.attrs, "autocomplete", "username")
    monkeypatch.setitem(fields["password"].widget.attrs, "autocomplete", "current-password")
    page = context.new_page()
    page.goto(f"{live_server.url}/garmin/login/")

    page.wait_for_function("document.querySelectorAll('input:autofill').length === 2")
    assert values(page) == [["email", NAME, True], ["password", SAVED, True]]
