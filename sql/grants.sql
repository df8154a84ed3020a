-- What pgweir's roles may do in one database. In each database that is prepared
-- or watched, as a superuser, after roles.sql; running it again changes nothing.
-- `app_owner` is the role that owns the application's tables.
--
--   psql -d DATABASE -v app_owner=ROLE -f sql/grants.sql
\set ON_ERROR_STOP on
\if :{?app_owner}
\else
    \warn 'grants.sql: say who owns the tables: psql -v app_owner=ROLE -f sql/grants.sql'
    DO $$ BEGIN RAISE EXCEPTION 'app_owner is not set'; END $$;
\endif

BEGIN;

GRANT CONNECT ON DATABASE :"DBNAME" TO pgweir_auth, pgweir_prepare, pgweir_monitor;

-- Building an index and ANALYZE take the owner's rights.
GRANT :"app_owner" TO pgweir_prepare;

-- The ledger's schema, so that pgweir_prepare needs no right to make schemas.
CREATE SCHEMA IF NOT EXISTS pgweir AUTHORIZATION pgweir_prepare;
ALTER SCHEMA pgweir OWNER TO pgweir_prepare;
REVOKE ALL ON SCHEMA pgweir FROM PUBLIC;

-- The ledger, readable for whoever watches.
GRANT USAGE ON SCHEMA pgweir TO pgweir_monitor;
GRANT SELECT ON ALL TABLES IN SCHEMA pgweir TO pgweir_monitor;
ALTER DEFAULT PRIVILEGES FOR ROLE pgweir_prepare IN SCHEMA pgweir GRANT SELECT ON TABLES TO pgweir_monitor;

COMMIT;
