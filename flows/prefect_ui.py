"""The Prefect server of ``featurefab up``, with its scheduler and its UI: run by `infra.supervisor`."""

from __future__ import annotations

import sys

from prefect.server.api.server import create_app

from flows.prefect_database import prepare_database
from infra.loopback import serve

if __name__ == "__main__":
    prepare_database()
    serve(create_app(final=True), sys.argv[1:])
