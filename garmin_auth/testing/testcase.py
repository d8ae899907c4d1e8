"""A simulated Garmin for Django's ``TestCase``, as ``manage.py test`` runs it."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from django.test import override_settings

from .pauses import pauses

if TYPE_CHECKING:
    from .simulator import GarminSimulator


class GarminTestMixin:
    """Mixin for ``django.test.TestCase`` that gives each test a new Garmin, as ``self.garmin``.

    Put it before ``TestCase``, and call ``super().setUp()`` first in a ``setUp`` of your own. What
    is added in ``setUpTestData`` is forgotten, because each test begins with no accounts::

        class SyncTests(GarminTestMixin, TestCase):
            def test_a_user_connects(self):
                self.garmin.add_account("ana@example.com", "secret")
    """

    garmin: "GarminSimulator"

    @classmethod
    def setUpClass(cls) -> None:
        from . import GarminSimulator  # Needs the extra [testing].

        stack = ExitStack()
        cls.garmin = stack.enter_context(GarminSimulator())
        cls.addClassCleanup(stack.close)  # type: ignore[attr-defined]
        super().setUpClass()  # type: ignore[misc]

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.garmin.reset()
        this: Any = self
        this.enterContext(override_settings(**self.garmin.settings))
        for pause in pauses():
            this.enterContext(patch(pause, 0.0))
