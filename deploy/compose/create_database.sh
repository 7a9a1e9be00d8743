#!/bin/sh
# The first start of PostgreSQL: a database whose owner is no superuser, so that row-level security holds, and the role
# that requests run as. docs/decisions/0034-walls.md says why.
set -eu
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set password="$(cat "$TOLLKEEPER_PASSWORD_FILE")" \
    --username "$POSTGRES_USER" --dbname postgres <<'SQL'
CREATE ROLE tollkeeper_requests NOLOGIN;
CREATE ROLE tollkeeper LOGIN PASSWORD :'password' IN ROLE tollkeeper_requests;
CREATE DATABASE tollkeeper OWNER tollkeeper;
REVOKE CONNECT ON DATABASE tollkeeper FROM PUBLIC;
SQL
