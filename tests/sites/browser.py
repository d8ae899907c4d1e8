"""A person's browser on a site that is served: cookies, forms and their CSRF tokens."""

import re
from urllib.parse import urlsplit

import requests

from tests.waiting import wait_until

TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


class Browser:
    """One person's visit.

    Args:
        url: where the site is served.
        host: the name by which it is asked for; None for the one in ``url``.
        verify: the certificate authority of the site, a path.
    """

    def __init__(self, url, host=None, verify=None):
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify
        # A server closes a connection that is idle, perhaps just when it is used again.
        self.session.headers["Connection"] = "close"
        if host:
            self.session.headers["Host"] = host

    def get(self, path, status=200, **options):
        page = self.session.get(self.url + path, timeout=30, **options)
        assert page.status_code == status, page.text
        return page

    def submit(self, path, **fields):
        """Fill in the form of a page, send it, and return the page that it leads to."""
        page = self.get(path)
        fields["csrfmiddlewaretoken"] = TOKEN.search(page.text)[1]
        headers = {"Referer": page.url}
        page = self.session.post(page.url, data=fields, headers=headers, timeout=30)
        assert page.status_code == 200, page.text
        return page

    def patch(self, path, fields):
        """Change an object of the site's API."""
        headers = {"X-CSRFToken": self.session.cookies["csrftoken"]}
        page = self.session.patch(self.url + path, json=fields, headers=headers, timeout=30)
        assert page.status_code == 200, page.text

    def log_in(self, username, password="site password"):
        page = self.submit("/accounts/login/?next=/garmin/", username=username, password=password)
        assert urlsplit(page.url).path == "/garmin/", page.text
        return self

    def begin_to_connect(self, email, password):
        """Give Garmin's password, and wait until Garmin wants its code."""
        page = self.submit("/garmin/login/", email=email, password=password)
        if urlsplit(page.url).path == "/garmin/progress/":
            json = {"Accept": "application/json"}
            path = "/garmin/progress/"
            wait_until(lambda: not self.get(path, headers=json).json()["under_way"])
            page = self.get(path)
        assert urlsplit(page.url).path == "/garmin/mfa/", page.text

    def give_code(self, code):
        page = self.submit("/garmin/mfa/", code=code)
        assert urlsplit(page.url).path == "/garmin/", page.text
        assert "Your Garmin account is connected." in page.text
