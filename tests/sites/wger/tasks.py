from celery import shared_task
from django.contrib.auth import get_user_model

from garmin_auth.sessions import garmin_client


@shared_task
def sync(user_pk, day):
    """Return the user's summary of a day."""
    user = get_user_model().objects.get(pk=user_pk)
    with garmin_client(user) as client:
        return client.connectapi(f"/usersummary-service/usersummary/daily/?calendarDate={day}")
