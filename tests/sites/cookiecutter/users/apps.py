from django.apps import AppConfig


class UsersConfig(AppConfig):
    name = "tests.sites.cookiecutter.users"
