-- The function behind auth_query: the stored secret of one login. In the
-- database the lookups go to (auth_dbname; without it, each database clients
-- connect to), as a superuser, after roles.sql; running it again changes
-- nothing.
--
--   psql -d DATABASE -f sql/auth_query.sql
--
-- and in pgbouncer.ini or under [pgbouncer] of pgweir.toml:
--
--   auth_user = pgweir_auth
--   auth_query = SELECT name, secret FROM pgweir_auth.lookup($1)
--
-- with pgweir_auth and its password in auth_file.
\set ON_ERROR_STOP on

-- One transaction: the function is never there with its default grants.
BEGIN;

CREATE SCHEMA IF NOT EXISTS pgweir_auth;
ALTER SCHEMA pgweir_auth OWNER TO CURRENT_USER;
REVOKE ALL ON SCHEMA pgweir_auth FROM PUBLIC;

-- Runs with its owner's rights, because only a superuser reads pg_authid.
-- Nothing in it can be redirected: every name has its schema, and the path is
-- fixed.
--
-- No row (`no such user` for the client): an unknown role, one that may not log
-- in, and every superuser, whose secrets are nobody's business.
-- A row without a secret (the login fails): no password, or an expired one.
CREATE OR REPLACE FUNCTION pgweir_auth.lookup(login text)
RETURNS TABLE (name text, secret text)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.rolname::pg_catalog.text,
           CASE WHEN a.rolvaliduntil < pg_catalog.now() THEN NULL ELSE a.rolpassword END
    FROM pg_catalog.pg_authid a
    WHERE a.rolname = login AND a.rolcanlogin AND NOT a.rolsuper
$$;
ALTER FUNCTION pgweir_auth.lookup(text) OWNER TO CURRENT_USER;
REVOKE ALL ON FUNCTION pgweir_auth.lookup(text) FROM PUBLIC;

GRANT USAGE ON SCHEMA pgweir_auth TO pgweir_auth;
GRANT EXECUTE ON FUNCTION pgweir_auth.lookup(text) TO pgweir_auth;

COMMIT;
