"""A Django for the tests, whose views each test has of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import django
import pytest
from django.conf import settings
from django.test import override_settings

MIDDLEWARE = [
    "durable_django.DurableMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]


#: Django never closes a connection to a database in memory; Python 3.13 would complain of that.
FOLDER = TemporaryDirectory()


def pytest_configure() -> None:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES={
                "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER.name}/db"}
            },
            INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
            MIDDLEWARE=MIDDLEWARE,
            SECRET_KEY="of the tests",
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
            USE_TZ=True,
        )
        django.setup()


def pytest_unconfigure() -> None:
    FOLDER.cleanup()


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[ModuleType]:
    """The module of the routes, to be filled."""
    module = ModuleType("urls_of_this_test")
    module.urlpatterns = []  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    with override_settings(ROOT_URLCONF=module.__name__):
        yield module
    del sys.modules[module.__name__]
