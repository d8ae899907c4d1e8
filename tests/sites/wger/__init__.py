"""A site as wger is: no admin, an API with REST framework, and Celery workers of greenlets."""

from .celery import app as celery_app

__all__ = ["celery_app"]
