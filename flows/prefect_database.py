"""Prefect's database in a home, which servers that begin at once must not make or migrate at once."""

from __future__ import annotations

import asyncio

from prefect.server.database import provide_database_interface

from infra.settings import load_settings
from infra.turns import turn


def make_database() -> None:
    """Bring the database up to date, when this process's turn has come: Prefect would do so without a lock."""
    with turn(load_settings().turns, "prefect-database", "another server"):
        asyncio.run(provide_database_interface().create_db())
