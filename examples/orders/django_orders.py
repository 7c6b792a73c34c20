"""The order service in Django: ``python django_orders.py runserver`` in this folder.

A real project has these parts in files of their own; see "Use Django" in the documentation.
"""

from __future__ import annotations

import json
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST
from shop import PRICES, charge, reserve, ship

from durable_core import Durable, Event
from durable_core.sync import step
from durable_django import endpoint_adapter, install

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    MIDDLEWARE=["durable_django.DurableMiddleware"],
    ROOT_URLCONF=__name__,
)
durable = Durable(
    id="orders",
    endpoint_adapter=endpoint_adapter,
    store=os.environ.get("ORDERS_STORE", ".durable/orders.db"),
)
install(durable)


@require_POST
@durable.endpoint
def create_order(request: HttpRequest) -> HttpResponse:
    wanted = json.loads(request.body)
    if wanted.get("item") not in PRICES:
        return HttpResponse(status=422)
    order = step.run("reserve", reserve, wanted["item"])
    price = step.run("charge", charge, order, wanted["item"])
    step.wait_for_event("packed", event="order/packed", match="data.customer", timeout="7 days")
    parcel = step.run("ship", ship, order)
    return JsonResponse({"order": order, "price": price, "parcel": parcel}, status=201)


@require_POST
def packed(request: HttpRequest) -> HttpResponse:
    durable.send(Event("order/packed", {"customer": json.loads(request.body)["customer"]}))
    return HttpResponse(status=204)


urlpatterns = [path("orders", create_order), path("packed", packed)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
else:
    app = get_wsgi_application()
