"""Chromium as the tests hold it, how to use a page without a mouse, and a port for a site."""

import os
import socket
from contextlib import contextmanager
from pathlib import Path

from django.utils import timezone

from tests.services import chromium_path, headless_path

SIZES = {"narrow": {"width": 320, "height": 720}, "wide": {"width": 1280, "height": 900}}
SCHEMES = ("light", "dark")
# Each size and each scheme once, for in the style sheet neither depends on the other.
LOOKS = (("wide", "light"), ("narrow", "dark"))
# With GARMIN_AUTH_SCREENSHOTS=1 the pictures of the docs are taken anew.
SCREENSHOTS = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
TAKE_SCREENSHOTS = os.environ.get("GARMIN_AUTH_SCREENSHOTS") == "1"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class StrictPolicy:
    """Middleware: the strictest Content-Security-Policy that a page with its own files can have."""

    policy = CONTENT_SECURITY_POLICY

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["Content-Security-Policy"] = self.policy
        return response


class NoScripts(StrictPolicy):
    """Middleware: a policy that blocks our script, though the browser has scripts enabled."""

    policy = CONTENT_SECURITY_POLICY.replace("script-src 'self'", "script-src 'none'")


def in_tokyo(get_response):
    """Middleware: the site has chosen a time zone for the user."""

    def middleware(request):
        with timezone.override("Asia/Tokyo"):
            return get_response(request)

    return middleware


@contextmanager
def kept_port():
    """Give a port of this machine for a server to listen at, which nobody else is given meanwhile.

    The socket that keeps it never listens. With SO_REUSEADDR, which runserver sets too, Linux lets
    a server listen there all the same; and whoever asks for any free port gets another one.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


LAUNCH = {
    "timeout": 120_000,  # For a busy machine.
    "args": [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-lcd-text",  # Without coloured edges the pictures are smaller.
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ],
}


@contextmanager
def chromium():
    """Run the system's Chromium, headless, reaching nothing but what a page asks it to."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=headless_path(), **LAUNCH)
        yield browser
        browser.close()


@contextmanager
def chromium_with_profile(folder):
    """Run the same with a user's profile, which holds saved passwords; give its context."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=chromium_path(), **LAUNCH
        )
        yield context
        context.close()


def focused(page):
    """Return what a screen reader would call the element that has the focus."""
    return page.evaluate(
        """() => {
            const element = document.activeElement;
            const label = element.labels && element.labels.length ? element.labels[0] : element;
            return label.innerText.trim().replace(/\\s+/g, " ");
        }"""
    )


def tab_to(page, name):
    """Press Tab until the element of that name has the focus."""
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
        seen.append(focused(page))
    raise AssertionError(f"Tab never comes to {name!r}, but to {seen}.")


def screenshot(page, name, whole=False):
    """Take a picture for the docs, where that is asked for.

    Args:
        page: what is seen.
        name: of the picture.
        whole: the page; else the card only, for what is around it is of no interest.
    """
    if not TAKE_SCREENSHOTS:
        return
    SCREENSHOTS.mkdir(exist_ok=True)
    clip = None
    if not whole:
        box = page.locator("main").bounding_box()
        edge = min(24, box["x"], box["y"])
        clip = {
            "x": box["x"] - edge,
            "y": box["y"] - edge,
            "width": box["width"] + 2 * edge,
            "height": box["height"] + 2 * edge,
        }
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, clip=clip)
