"""The sample as ``support.asgi_host:application``, for servers in processes of their own.

Its store is named by the environment.
"""

from __future__ import annotations

import os

from support.asgi_sample import make_sample

__all__ = ["application"]

application = make_sample(os.environ["DURABLE_TEST_STORE"])
