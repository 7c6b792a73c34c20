"""A site of Django with the dashboard, in a process of its own: Django has one site in each.

``python -m support.dashboard_django STORE`` prints its URL, and serves until it is told to stop.
"""

from __future__ import annotations

import sys

import django
from django.conf import settings
from django.http import HttpRequest, JsonResponse

from durable_core import Durable
from durable_core.sync import step
from durable_django import endpoint_adapter, install
from durable_wsgi import create_endpoint_server

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[
        "durable_django.DurableMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402 - needs the settings
from django.urls import path, re_path  # noqa: E402 - needs the settings

durable = Durable(id="shop", store=sys.argv[1], endpoint_adapter=endpoint_adapter)


@durable.endpoint
def order(request: HttpRequest) -> JsonResponse:
    """Wait for an event."""
    step.wait_for_event("answer", event="go", timeout="1h")
    return JsonResponse({})


urlpatterns = [
    path("order/", order),
    re_path(r"^tools/dashboard/(?P<path>.*)$", durable.dashboard().view),
]

install(durable)

if __name__ == "__main__":
    with create_endpoint_server(get_wsgi_application(), durable=durable) as server:
        print(server.url, flush=True)
        server.serve_forever()
