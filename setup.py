"""What setup.cfg cannot say: on PyPI, README's links lead to the documentation's site."""

import re
from pathlib import Path

from setuptools import setup

SITE = "https://django-garmin-auth.readthedocs.io/en/stable"

readme = Path("README.md").read_text(encoding="utf-8")
readme = readme.replace("](docs/screenshots/", f"]({SITE}/_images/")
readme = re.sub(r"\]\(docs/([\w/-]+)\.md", rf"]({SITE}/\1.html", readme)
# The site has no page for the rest.
readme = re.sub(r"\[([^\]]+)\]\((?!http|#)[^)]+\)", r"\1", readme)

setup(long_description=readme)
