from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import text

from flows.prefect_database import PatientSqlite


def test_transactions_that_read_and_then_write_wait_for_each_other(tmp_path: Path) -> None:
    async def counted(times: int) -> int:
        database = PatientSqlite(f"sqlite+aiosqlite:///{tmp_path / 'counter.db'}")
        engine = await database.engine()

        async def count() -> None:
            async with await database.session(engine) as session, database.begin_transaction(session):
                number = (await session.execute(text("SELECT number FROM counter"))).scalar_one()
                await session.execute(text("UPDATE counter SET number = :next"), {"next": number + 1})

        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE counter AS SELECT 0 AS number"))
        await asyncio.gather(*[count() for _ in range(times)])
        async with engine.begin() as connection:
            return int((await connection.execute(text("SELECT number FROM counter"))).scalar_one())

    assert asyncio.run(counted(8)) == 8
