"""A site as cookiecutter-django makes one: ASGI, ATOMIC_REQUESTS, WhiteNoise, users by e-mail."""
