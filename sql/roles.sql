-- The roles pgweir itself logs in with, each with the least it needs. Once for
-- each cluster, as a superuser; running it again changes nothing.
--
--   psql -f sql/roles.sql
--
-- They have no password yet, so nobody can log in with one. Then, in psql:
--
--   \password pgweir_auth
--   \password pgweir_prepare
--   \password pgweir_monitor
\set ON_ERROR_STOP on

BEGIN;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgweir_auth', 'pgweir_prepare', 'pgweir_monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
    END LOOP;
END
$$;

-- The pooler's auth_user. It can look up one login's secret (auth_query.sql)
-- and read nothing else. NOINHERIT: a membership granted by mistake gives it
-- nothing.
ALTER ROLE pgweir_auth NOINHERIT;
ALTER ROLE pgweir_auth SET default_transaction_read_only = on;
ALTER ROLE pgweir_auth SET statement_timeout = '5s';
COMMENT ON ROLE pgweir_auth IS 'pgweir: auth_user of the pooler';

-- [prepare] user. It becomes a member of the role that owns the tables
-- (grants.sql), because only an owner can build an index.
-- A deadlock_timeout below its lock_timeout lets it send away an autovacuum that
-- is in its way. Servers before 15 cannot grant that.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'GRANT SET ON PARAMETER deadlock_timeout TO pgweir_prepare';
    END IF;
END
$$;
COMMENT ON ROLE pgweir_prepare IS 'pgweir: seeding and migrations';

-- Metrics and people: statistics of all sessions, and no table's contents.
-- pg_monitor would add functions that list the server's files.
ALTER ROLE pgweir_monitor SET default_transaction_read_only = on;
GRANT pg_read_all_stats TO pgweir_monitor;
COMMENT ON ROLE pgweir_monitor IS 'pgweir: reads statistics';

COMMIT;
