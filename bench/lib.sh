# shellcheck shell=bash
#
# bench/lib.sh: what the measurements share.  Sourced, never run.
#
# scripts/bench has made the cluster: PGHOST, PGDATABASE … lead to it, and
# EPDS_BENCH_DIR may be written to.  Belongs here: short words for psql, the
# kernel's figures of a process, starting the services that answer.

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

[ -n "${EPDS_BENCH_DIR:-}" ] || die "start this with: make bench, or scripts/bench NAME"
export PYTHONDONTWRITEBYTECODE=1 PGOPTIONS='-c client_min_messages=warning'

DIVISION=123456

# One value, or rows for the shell; further arguments go to psql.
sql() { psql -XAtq -v ON_ERROR_STOP=1 "${@:2}" <<<"$1"; }

# A table for people.
show() { psql -Xq -v ON_ERROR_STOP=1 -P footer=off -P pager=off "${@:2}" <<<"$1"; }

note() { printf '   %s\n' "$*"; }

# What else runs here: figures of a busy machine are worth less.
machine() { note "load before: $(cut -d ' ' -f 1-3 /proc/loadavg), $(nproc) cores, PostgreSQL $(sql 'SHOW server_version' | cut -d ' ' -f 1), fsync $(sql 'SHOW fsync')"; }

# Nanoseconds of CPU that a process has used, all its threads.
cpu_ns() { awk '{ sum += $1 } END { printf "%.0f\n", sum }' "/proc/$1"/task/*/schedstat; }

worker_pid() { sql "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'exact_pd_sync $1'"; }

# Waits until a query gives t; seconds, query.
until_true() {
    local end=$((SECONDS + $1))
    until [ "$(sql "$2")" = t ]; do
        [ "$SECONDS" -lt "$end" ] || die "waited $1 s in vain for: $2"
        sleep "${3:-0.2}"
    done
}

# Ends what was started in the background here.
stop_all() {
    local pid
    for pid in ${started:-}; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    return 0
}
trap stop_all EXIT

# A Pipedrive that answers at once: sets $stub, its address.
start_stub() {
    make -s -C bench/stub
    bench/stub/pipedrive_stub >"$EPDS_BENCH_DIR/stub.json" &
    stub_pid=$!
    started="${started:-} $stub_pid"
    until [ -s "$EPDS_BENCH_DIR/stub.json" ]; do sleep 0.1; done
    stub=$(sed 's/.*"pipedrive":"\([^"]*\)".*/\1/' "$EPDS_BENCH_DIR/stub.json")
}

# Pages of the simulated Exact as files FEED.N in $EPDS_BENCH_DIR/pages.
make_pages() {
    local orders=$1
    shift
    note "pages of $orders simulated orders: feed, pages, bytes"
    sql "BEGIN; SELECT f, exact_pd_sync._feed_next($DIVISION, f, 1) FROM unnest(string_to_array('$*', ' ')) f; ROLLBACK;" -F ' ' |
        python3 bench/staging/pages.py "$EPDS_BENCH_DIR/pages" --division "$DIVISION" --orders "$orders" | sed 's/^/   /'
}

# The extension with one division whose orders are all sent, and the tools of bench/staging/stage.sql.
install_here() {
    sql "CREATE EXTENSION exact_pd_sync; SELECT exact_pd_sync.add_division($DIVISION);" >/dev/null
    sql "UPDATE exact_pd_sync.divisions SET send_since = '2020-01-01', stage_since = '2020-01-01'"
    psql -XAtq -v ON_ERROR_STOP=1 -f bench/staging/stage.sql
}

of_sandbox() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$EPDS_BENCH_DIR/sandbox.json" "$1"; }

# The control port of the simulated services: method, path, body.
control() { curl -sS --fail-with-body -X "$1" -H 'Content-Type: application/json' ${3:+-d "$3"} "$(of_sandbox control)$2"; }

# Both services, simulated; arguments are those of test/sandbox/run.py.
start_sandbox() {
    python3 test/sandbox/run.py --plan ultimate --seats 5 --division "$DIVISION" --ready-file "$EPDS_BENCH_DIR/sandbox.json" "$@" \
        >"$EPDS_BENCH_DIR/sandbox.log" 2>&1 &
    sandbox_pid=$!
    started="${started:-} $sandbox_pid"
    until [ -s "$EPDS_BENCH_DIR/sandbox.json" ]; do
        kill -0 "$sandbox_pid" 2>/dev/null || die "the sandbox did not start: $(tail -3 "$EPDS_BENCH_DIR/sandbox.log")"
        sleep 0.2
    done
}

# The extension, connected to the sandbox and set up; $1: name of the default owner.
connect_sandbox() {
    local url
    sql 'CREATE EXTENSION exact_pd_sync' >/dev/null
    sql "SELECT exact_pd_sync.set_exact_app('$(of_sandbox client_id)', '$(of_sandbox client_secret)', 'https://erp.example/callback',
                                            '$(of_sandbox webhook_secret)', '$(of_sandbox exact)')" >/dev/null
    url=$(curl -sS -o /dev/null -w '%{redirect_url}' "$(sql 'SELECT exact_pd_sync.exact_authorize_url()')")
    sql "CALL exact_pd_sync.exact_authorize(:'back')" -v back="$url"
    sql "SELECT exact_pd_sync.add_division($DIVISION)" >/dev/null
    sql "SELECT exact_pd_sync.set_pipedrive_account('$(of_sandbox api_token)', '$(of_sandbox pipedrive)')" >/dev/null
    sql 'CALL exact_pd_sync.setup_pipedrive()'
    sql "SELECT exact_pd_sync.set_default_owner(user_id) FROM exact_pd_sync.pipedrive_users WHERE name = '$1'" >/dev/null
    sql "SELECT exact_pd_sync.configure('deal_capacity', '100000')" >/dev/null
}

# Waits until nothing is left to send; seconds.
drained() { until_true "$1" "SELECT NOT EXISTS (SELECT FROM exact_pd_sync.jobs WHERE state <> 'dead') AND NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)" 0.5; }
