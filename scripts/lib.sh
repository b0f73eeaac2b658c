# shellcheck shell=bash
#
# scripts/lib.sh: what the scripts share.  Sourced, never run.
#
# Belongs here: finding the server's programs, running things as the right
# user, and speaking to the person.  No test, no demo.

set -euo pipefail

EPDS_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "== $*"; }
warn() { printf '%s\n' "!! $*" >&2; }
die() {
    warn "$*"
    exit 1
}

# Run a command as root: directly, or by sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -- "$@"
    else
        die "this needs root, and sudo is not there: $*"
    fi
}

# The pg_config to build with: $PG_CONFIG, else the newest supported server
# with development files, else the one in PATH.
find_pg_config() {
    local version candidate
    if [ -n "${PG_CONFIG:-}" ]; then
        printf '%s\n' "$PG_CONFIG"
        return
    fi
    for version in 18 17 16 15; do
        for candidate in "/usr/lib/postgresql/$version/bin" "/usr/pgsql-$version/bin"; do
            if [ -x "$candidate/pg_config" ] && [ -x "$candidate/postgres" ] &&
                [ -f "$("$candidate/pg_config" --pgxs)" ]; then
                printf '%s\n' "$candidate/pg_config"
                return
            fi
        done
    done
    command -v pg_config || die "pg_config not found; run scripts/prepare, or set PG_CONFIG"
}

# The account a private server runs as: PostgreSQL refuses to run as root.
server_user() {
    if [ "$(id -u)" -ne 0 ]; then
        id -un
    elif id postgres >/dev/null 2>&1; then
        printf 'postgres\n'
    else
        id exact_pd_sync >/dev/null 2>&1 ||
            useradd --system --no-create-home --shell /usr/sbin/nologin exact_pd_sync
        printf 'exact_pd_sync\n'
    fi
}

# Run a command as that account, with the environment kept.
as_server_user() {
    if [ "$(id -u)" -eq 0 ]; then
        runuser -u "$(server_user)" -- "$@"
    else
        "$@"
    fi
}
