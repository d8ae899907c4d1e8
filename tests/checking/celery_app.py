"""The Celery app of the tests: ``celery -A tests.checking.celery_app worker``.

``GARMIN_AUTH_TEST_BROKER`` is the broker's URL, ``GARMIN_AUTH_TEST_QUEUE`` names the queue, and is
the prefix of every other name at the broker, so that one run of the tests finds nothing of another.
A worker ends with the process that ``GARMIN_AUTH_TEST_PARENT`` names.
"""

import os
import signal
import threading
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from celery import Celery  # noqa: E402
from celery.signals import celeryd_init  # noqa: E402
from kombu import Exchange, Queue  # noqa: E402

BROKER = os.environ.get("GARMIN_AUTH_TEST_BROKER", "memory://")
QUEUE = os.environ.get("GARMIN_AUTH_TEST_QUEUE", "garmin_auth_test")
# Seconds after which Redis gives what a killed worker had to another. A site has an hour. Where
# nobody is killed, a slow start must not look like a death.
VISIBILITY = int(os.environ.get("GARMIN_AUTH_TEST_VISIBILITY", "600"))
# Seconds after which RabbitMQ removes the queue of a run that was killed itself.
FORGOTTEN = 600

app = Celery("garmin_auth_tests")
app.conf.update(
    broker_url=BROKER,
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
    task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, expires=FORGOTTEN)],
    task_default_exchange=QUEUE,
    task_default_routing_key=QUEUE,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)
if BROKER.startswith("redis"):
    app.conf.broker_transport_options = {
        "global_keyprefix": f"{QUEUE}:",
        "visibility_timeout": VISIBILITY,
        # More than a worker has greenlets. With Celery's 10, some cannot say what they have done.
        "max_connections": 40,
        "unacked_restore_interval": 1,  # Seconds between two looks for it, and each is one.
        "unacked_restore_throttle": 1,
    }
app.autodiscover_tasks(["garmin_auth"])


@celeryd_init.connect
def end_with_the_test(**kwargs):
    """Watch the parent: a test that is killed must not leave workers behind."""
    if parent := int(os.environ.get("GARMIN_AUTH_TEST_PARENT", "0")):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)  # The worker leads a group of its own.
