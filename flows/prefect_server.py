"""The private Prefect server: run by ``flows.runtime`` in a process of its own, in an isolated environment."""

from __future__ import annotations

import sys

from prefect.server.api.server import create_app

from flows.prefect_database import prepare_database
from infra.loopback import serve

if __name__ == "__main__":
    prepare_database()
    # Without background services: they schedule deployments and record events, which nobody reads
    # here, and they compete with the flows for SQLite's one write lock (see `flows.runtime`).
    serve(create_app(webserver_only=True, final=True), sys.argv[1:])
