"""What an application does with psycopg 3, through the pooler.

Arguments: the connection string, the pool mode.
"""

import sys
import threading
import time

import psycopg

dsn, mode = sys.argv[1:]


def connect(**settings):
    return psycopg.connect(dsn, **settings)


def parameters():
    with connect() as conn:
        row = conn.execute("select %s::int + 1, %s::text, %b::bytea", (41, "text", b"\x00\xff")).fetchone()
        assert row == (42, "text", b"\x00\xff"), row


def prepared():
    conns = [connect(prepare_threshold=0, autocommit=True) for _ in range(3)]
    for turn in range(10):
        for number, conn in enumerate(conns):
            row = conn.execute("select %s::text, %s::int", (f"conn {number}", turn)).fetchone()
            assert row == (f"conn {number}", turn), row
    for conn in conns:
        conn.close()


def many_prepared():
    with connect(prepare_threshold=0, autocommit=True) as conn:
        conn.prepared_max = 5
        for turn in range(3):
            for number in range(20):
                row = conn.execute(f"select {number} + %s::int", (turn,)).fetchone()
                assert row == (number + turn,), row


def deallocated():
    with connect(prepare_threshold=0, autocommit=True) as conn:
        for turn in range(3):
            conn.execute("select 'first' as x", prepare=True)
            names = conn.execute("select 1", prepare=False) and list(conn._prepared._names.values())
            for name in names:
                conn.execute(b"deallocate " + name, prepare=False)
            conn.execute(f"prepare mine (int) as select $1 + {turn}", prepare=False)
            # The second is prepared by the driver, too.
            for prepare in (False, True):
                assert conn.execute("execute mine(40)", prepare=prepare).fetchone() == (40 + turn,)
            conn.execute("deallocate mine", prepare=False)
            conn.execute("deallocate all", prepare=False)


def changed_table():
    with connect(prepare_threshold=0, autocommit=True) as conn, connect(autocommit=True) as other:
        other.execute("drop table if exists psycopg_w")
        other.execute("create table psycopg_w as select 1 as a")
        for _ in range(3):
            assert conn.execute("select * from psycopg_w").fetchone() == (1,)
        other.execute("alter table psycopg_w add b int default 2")
        for _ in range(3):
            assert conn.execute("select * from psycopg_w").fetchone() == (1, 2)


def transactions():
    with connect(autocommit=True) as conn:
        conn.execute("create table if not exists psycopg_t (x int)")
        conn.execute("truncate psycopg_t")
        with conn.transaction():
            conn.execute("insert into psycopg_t values (1)")
            try:
                with conn.transaction():
                    conn.execute("insert into psycopg_t values (2)")
                    conn.execute("select 1/0")
            except psycopg.errors.DivisionByZero:
                pass
        assert conn.execute("select array_agg(x) from psycopg_t").fetchone() == ([1],)


def errors():
    with connect() as conn:
        for _ in range(3):
            try:
                conn.execute("selct 1")
                raise AssertionError("a syntax error has to be told")
            except psycopg.errors.SyntaxError:
                conn.rollback()
            assert conn.execute("select 'goes on'").fetchone() == ("goes on",)


def pipeline():
    with connect(autocommit=True) as conn:
        with conn.pipeline():
            cursors = [conn.execute("select %s::int", (number,)) for number in range(100)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(100))
        try:
            with conn.pipeline():
                conn.execute("select 1")
                conn.execute("select 1/0")
                conn.execute("select 2")
            raise AssertionError("an error has to be told")
        except psycopg.errors.DivisionByZero:
            pass
        assert conn.execute("select 'goes on'").fetchone() == ("goes on",)


def executemany():
    with connect() as conn:
        cursor = conn.cursor()
        cursor.execute("create temp table many (x int, y text) on commit drop")
        cursor.executemany("insert into many values (%s, %s)", [(n, str(n)) for n in range(500)])
        assert conn.execute("select count(*), sum(x) from many").fetchone() == (500, 124750)


def copy():
    with connect() as conn:
        cursor = conn.cursor()
        cursor.execute("create temp table copied (x int, y text) on commit drop")
        with cursor.copy("copy copied from stdin") as copy_in:
            for number in range(10000):
                copy_in.write_row((number, "x" * 50))
        with cursor.copy("copy copied to stdout") as copy_out:
            assert sum(1 for _ in copy_out.rows()) == 10000
    with connect() as conn:
        try:
            with conn.cursor().copy("copy (select 1/(x - 5) from generate_series(1, 9) x) to stdout") as copy_out:
                list(copy_out.rows())
            raise AssertionError("an error has to be told")
        except psycopg.errors.DivisionByZero:
            conn.rollback()
        assert conn.execute("select 'goes on'").fetchone() == ("goes on",)


def server_cursor():
    with connect() as conn:
        with conn.cursor("named") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500500


def streaming():
    with connect() as conn:
        rows = conn.cursor().stream("select generate_series(1, 5000)")
        assert sum(row[0] for row in rows) == 12502500


def cancelling():
    with connect(autocommit=True) as conn:
        def later():
            time.sleep(0.3)
            conn.cancel_safe(timeout=10)

        thread = threading.Thread(target=later)
        thread.start()
        try:
            conn.execute("select pg_sleep(60)")
            raise AssertionError("the query has to be cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        thread.join()
        assert conn.execute("select 'goes on'").fetchone() == ("goes on",)


def large():
    with connect() as conn:
        text = "ü" * 2_000_000
        assert conn.execute("select %s", (text,)).fetchone() == (text,)


def listening():
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("listen psycopg_news")
        speaker.execute("notify psycopg_news, 'today'")
        notice = next(listener.notifies(timeout=10, stop_after=1))
        assert notice.payload == "today", notice


checks = [
    parameters, prepared, many_prepared, deallocated, transactions, errors, pipeline, executemany, copy,
    server_cursor, streaming, cancelling, large,
]
checks.append(listening if mode == "session" else changed_table)
for check in checks:
    try:
        check()
    except Exception as error:
        raise SystemExit(f"psycopg, {check.__name__}: {type(error).__name__}: {error}")
print(f"{len(checks)} checks")
