import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from celery import Celery  # noqa: E402

app = Celery("wger")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
