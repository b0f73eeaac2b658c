#!/usr/bin/env bash
#
# Runs once, when the data directory is made: the extension and pg_cron in
# POSTGRES_DB, and the workers of that database under a role of their own.
set -euo pipefail

secrets=/run/secrets

as_superuser() {
    psql --no-psqlrc --quiet --output /dev/null -v ON_ERROR_STOP=1 -v db="$POSTGRES_DB" -v secrets="$secrets" \
        --username "$POSTGRES_USER" --dbname "$POSTGRES_DB"
}

as_superuser <<'SQL'
ALTER SYSTEM SET exact_pd_sync.secrets_directory = :'secrets';
ALTER SYSTEM SET cron.database_name = :'db';
CREATE EXTENSION exact_pd_sync;
CREATE ROLE sync_worker LOGIN;
SELECT exact_pd_sync.grant_worker('sync_worker');
ALTER SYSTEM SET exact_pd_sync.role = 'sync_worker';
ALTER SYSTEM SET exact_pd_sync.databases = :'db';
SQL

# Without a key (an image that is run without compose.yaml) secrets are stored
# as they are; verify() says so.
if [ -s "$secrets/key" ]; then
    as_superuser <<'SQL'
SELECT :'secrets' || '/key' AS key \gset
ALTER SYSTEM SET exact_pd_sync.key_file = :'key';
SQL
fi

# pg_cron can only be made in cron.database_name, which needs a restart.
pg_ctl -D "$PGDATA" -m fast -w restart
as_superuser <<'SQL'
CREATE EXTENSION pg_cron;
SQL

# exact_pd_sync.schedule() is for the operator, once both services are connected.
