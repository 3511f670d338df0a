"""How our own Prefect servers make and write their SQLite database: those who write wait for each other.

Prefect begins most transactions as readers. One that goes on to write while another writes, or after another has
written, is refused at once, whatever `busy_timeout` says: what it read may be true no longer. The request is
answered 503; Prefect's own clients ask again, its UI does not. And what was refused leaves cursors to the garbage
collector, which may find them in the event loop, and waits there, and all with it, for their connections'
turns: a minute. No setting of Prefect's says how transactions begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from infra.settings import load_settings
from infra.turns import turn


class PatientSqlite(AioSqliteConfiguration):
    """Prefect's SQLite database, where each transaction waits for its turn to write before it reads."""

    @asynccontextmanager
    async def begin_transaction(
        self,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG002 - Prefect's signature
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """A transaction that waits up to a minute where Prefect's would fail."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def prepare_database() -> None:
    """Make the Prefect server of this process use `PatientSqlite`, up to date; call it before the server is made.

    Servers that begin at once in one home take turns: Prefect would make or migrate the database without a lock.
    """
    set_database_config(PatientSqlite(str(PREFECT_API_DATABASE_CONNECTION_URL.value())))
    with turn(load_settings().turns, "prefect-database", "another server"):
        asyncio.run(provide_database_interface().create_db())
