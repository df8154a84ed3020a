"""What an application does with asyncpg, through the pooler.

Arguments: host, port, user, database, the pool mode.
"""

import asyncio
import sys

import asyncpg

host, port, user, database, mode = sys.argv[1:]
where = {"host": host, "port": int(port), "user": user, "database": database, "ssl": False}


async def parameters():
    conn = await asyncpg.connect(**where)
    row = await conn.fetchrow("select $1::int + 1 as a, $2::text as b, $3::bytea as c", 41, "text", b"\x00\xff")
    assert tuple(row) == (42, "text", b"\x00\xff"), row
    await conn.close()


async def statements():
    # Not more than the pool has servers: prepare() ends with Flush, not Sync,
    # and so keeps its server until the statement runs.
    conns = [await asyncpg.connect(**where) for _ in range(2)]
    prepared = [await conn.prepare("select $1::text || ' of ' || $2::text") for conn in conns]
    for turn in range(10):
        for number, statement in enumerate(prepared):
            value = await statement.fetchval(str(turn), str(number))
            assert value == f"{turn} of {number}", value
    for conn in conns:
        await conn.close()


async def statement_cache():
    conn = await asyncpg.connect(**where, statement_cache_size=5)
    for turn in range(3):
        for number in range(20):
            assert await conn.fetchval(f"select {number} + $1::int", turn) == number + turn
    await conn.close()


async def changed_table():
    conns = [await asyncpg.connect(**where) for _ in range(3)]
    await conns[0].execute("drop table if exists asyncpg_w; create table asyncpg_w as select 1 as a")
    for conn in conns:
        assert tuple(await conn.fetchrow("select * from asyncpg_w")) == (1,)
    await conns[0].execute("alter table asyncpg_w add b int default 2")
    for _ in range(3):
        for conn in conns:
            assert tuple(await conn.fetchrow("select * from asyncpg_w")) == (1, 2)
    for conn in conns:
        await conn.close()


async def transactions():
    conn = await asyncpg.connect(**where)
    await conn.execute("create table if not exists asyncpg_t (x int); truncate asyncpg_t")
    async with conn.transaction():
        await conn.execute("insert into asyncpg_t values (1)")
        try:
            async with conn.transaction():
                await conn.execute("insert into asyncpg_t values (2)")
                await conn.fetchval("select 1/0")
        except asyncpg.DivisionByZeroError:
            pass
    assert await conn.fetchval("select array_agg(x) from asyncpg_t") == [1]
    await conn.close()


async def errors():
    conn = await asyncpg.connect(**where)
    for _ in range(3):
        try:
            await conn.fetchval("selct 1")
            raise AssertionError("a syntax error has to be told")
        except asyncpg.PostgresSyntaxError:
            pass
        assert await conn.fetchval("select 'goes on'") == "goes on"
    await conn.close()


async def executemany():
    conn = await asyncpg.connect(**where)
    async with conn.transaction():
        await conn.execute("create temp table many (x int, y text) on commit drop")
        await conn.executemany("insert into many values ($1, $2)", [(n, str(n)) for n in range(500)])
        assert await conn.fetchval("select sum(x) from many") == 124750
    await conn.close()


async def cursor():
    conn = await asyncpg.connect(**where)
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("select generate_series(1, 1000)", prefetch=100):
            total += row[0]
        assert total == 500500
    await conn.close()


async def copy():
    conn = await asyncpg.connect(**where)
    await conn.execute("create table if not exists asyncpg_c (x int, y text); truncate asyncpg_c")
    await conn.copy_records_to_table("asyncpg_c", records=[(n, "x" * 50) for n in range(5000)])
    chunks = []

    async def take(chunk):
        chunks.append(chunk)

    tag = await conn.copy_from_query("select * from asyncpg_c", output=take)
    assert tag == "COPY 5000", tag
    assert b"".join(chunks).count(b"\n") == 5000
    await conn.close()


async def timeouts():
    conn = await asyncpg.connect(**where)
    try:
        await conn.fetchval("select pg_sleep(60)", timeout=0.3)
        raise AssertionError("the query has to be cancelled")
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("select 'goes on'") == "goes on"
    await conn.close()


async def pool():
    async with asyncpg.create_pool(**where, min_size=2, max_size=6) as connections:
        async def one(number):
            async with connections.acquire() as conn:
                return await conn.fetchval("select $1::int * 2", number)

        found = await asyncio.gather(*(one(number) for number in range(100)))
        assert found == [number * 2 for number in range(100)]


async def types():
    conn = await asyncpg.connect(**where)
    await conn.execute("drop type if exists asyncpg_mood; create type asyncpg_mood as enum ('sad', 'ok')")
    assert await conn.fetchval("select 'ok'::asyncpg_mood") == "ok"
    assert await conn.fetchval("select array['sad', 'ok']::asyncpg_mood[]") == ["sad", "ok"]
    await conn.close()


async def listening():
    listener, speaker = [await asyncpg.connect(**where) for _ in range(2)]
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("asyncpg_news", lambda *news: heard.done() or heard.set_result(news[-1]))
    await speaker.execute("notify asyncpg_news, 'today'")
    assert await asyncio.wait_for(heard, 10) == "today"
    await listener.close()
    await speaker.close()


async def main():
    checks = [
        parameters, statements, statement_cache, changed_table, transactions, errors, executemany, cursor, copy,
        timeouts, pool, types,
    ]
    if mode == "session":
        checks.append(listening)
    for check in checks:
        try:
            await asyncio.wait_for(check(), 30)
        except Exception as error:
            raise SystemExit(f"asyncpg, {check.__name__}: {type(error).__name__}: {error}")
    print(f"{len(checks)} checks")


asyncio.run(main())
