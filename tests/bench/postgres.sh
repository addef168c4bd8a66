#!/usr/bin/env bash
# Celeriant against PostgreSQL on this machine, alternating in one run: one small guarded event per
# acknowledged write, closed loop, durable before the answer (fsync on, as it comes).
#
#   tests/bench/postgres.sh                    1, 16, 64, 256 connections, 3 repetitions of 5 s
#   COUNTS="1 64" REPEAT=5 DURATION=10 tests/bench/postgres.sh
#
# Needs PostgreSQL's server and pgbench (Debian: postgresql; installed from there if missing and run as
# root). Prints a Markdown table of medians and ratios. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../.."

counts=${COUNTS:-1 16 64 256}
repeat=${REPEAT:-3}
duration=${DURATION:-5}
work=$(mktemp -d)
here=$PWD
chmod 755 "$work"

as_user() { if [ "$(id -u)" = 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi; }
find_tool() { PATH="$PATH:$(printf '%s:' /usr/lib/postgresql/*/bin)" command -v "$1" || true; }

if [ -z "$(find_tool initdb)" ] || [ -z "$(find_tool pgbench)" ]; then
    apt-get update -qq && apt-get install -y -qq postgresql >/dev/null
fi
initdb=$(find_tool initdb) postgres=$(find_tool postgres)
pgbench=$(find_tool pgbench) psql=$(find_tool psql)

cleanup() {
    [ -z "${celeriant_pid:-}" ] || kill "$celeriant_pid" 2>/dev/null || true
    [ -z "${postgres_pid:-}" ] || kill -INT "$postgres_pid" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

cargo build --release --quiet -p celeriant-actors --bin celeriant
celeriant=${CARGO_TARGET_DIR:-$here/target}/release/celeriant

# PostgreSQL: the version is the guard; a unique key per (aggregate, version) makes it safe.
mkdir "$work/pg" && { [ "$(id -u)" != 0 ] || chown nobody "$work/pg"; }
as_user "$initdb" -D "$work/pg/data" -A trust -U bench >/dev/null
as_user "$postgres" -D "$work/pg/data" -p 54329 -k "$work/pg" -c listen_addresses=127.0.0.1 \
    -c max_connections=600 -c shared_buffers=1GB -c max_wal_size=8GB >"$work/pg.log" 2>&1 &
postgres_pid=$!
pg=(-h 127.0.0.1 -p 54329 -U bench)
until "$psql" "${pg[@]}" -d postgres -c 'select 1' >/dev/null 2>&1; do sleep 0.1; done
"$psql" "${pg[@]}" -d postgres -q <<'SQL'
create table events (aggregate bigint, version bigint, kind text, data bytea, primary key (aggregate, version));
create function append(a bigint, expected bigint, d bytea) returns void language plpgsql as $$
begin
  if coalesce((select max(version) from events where aggregate = a), 0) <> expected then
    raise exception 'conflict';
  end if;
  insert into events values (a, expected + 1, 'Happened', d);
end $$;
SQL
# Each client appends to an aggregate of its own, as Celeriant's bench does; `run` tells repetitions apart.
guarded() {
    cat <<SQL
\set v :v + 1
$1
SQL
}
data="decode(repeat('ab', 100), 'hex')"
guarded "select append(:run * 10000 + :client_id, :v - 1, $data);" >"$work/function.sql"
guarded "insert into events select :run * 10000 + :client_id, :v, 'Happened', $data where coalesce((select max(version) from events where aggregate = :run * 10000 + :client_id), 0) = :v - 1;" >"$work/insert.sql"
run=0

"$celeriant" --format json dev --data-dir "$work/data" --listen 127.0.0.1:0 --threads "${THREADS:-1}" \
    --shards "${SHARDS:-1}" >"$work/ready" 2>"$work/celeriant.log" &
celeriant_pid=$!
until [ -s "$work/ready" ]; do sleep 0.1; done
url=$(sed 's/.*"url":"\([^"]*\)".*/\1/' "$work/ready")

field() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/"; }
ours() { # connections pipeline → "per_second p50 p99"
    local line
    line=$("$celeriant" --url "$url" --format json bench write --connections "$1" --pipeline "$2" \
        --duration "$duration" 2>/dev/null | tail -1)
    echo "$(field per_second <<<"$line") $(field p50_ms <<<"$line") $(field p99_ms <<<"$line")"
}
theirs() { # script connections → "per_second p50 p99"
    rm -f "$work"/log.*
    (cd "$work" && "$pgbench" "${pg[@]}" -n -M prepared -f "$work/$1.sql" -c "$2" -j 1 -T "$duration" -D v=0 -D run="$run" \
        --log --log-prefix="$work/log" postgres) >"$work/out" 2>&1
    local rate
    rate=$(awk '/^tps/ {print $3}' "$work/out")
    cat "$work"/log.* | awk '{print $3}' | sort -n | awk -v rate="$rate" \
        '{t[NR]=$1} END {printf "%.0f %.3f %.3f\n", rate, t[int(NR/2)+1]/1000, t[int(NR*0.99)+1]/1000}'
}
median() { sort -g | awk '{v[NR]=$0} END {print v[int((NR+1)/2)]}'; }

echo "| connections | Celeriant /s (p50 / p99 ms) | PostgreSQL function | PostgreSQL INSERT | ratio to function | to INSERT |"
echo "| --- | --- | --- | --- | --- | --- |"
best=0
for n in $counts; do
    : >"$work/c"; : >"$work/f"; : >"$work/i"
    for _ in $(seq "$repeat"); do
        ours "$n" 1 >>"$work/c"
        run=$((run + 1)); theirs function "$n" >>"$work/f"
        run=$((run + 1)); theirs insert "$n" >>"$work/i"
    done
    read -r c cp cq < <(median <"$work/c")
    read -r f fp fq < <(median <"$work/f")
    read -r i ip iq < <(median <"$work/i")
    best=$(printf '%s\n%s\n%s\n' "$best" "$f" "$i" | sort -g | tail -1)
    awk -v n="$n" -v c="$c" -v cp="$cp" -v cq="$cq" -v f="$f" -v fp="$fp" -v fq="$fq" -v i="$i" -v ip="$ip" \
        -v iq="$iq" 'BEGIN {printf "| %d | %.0f (%.2f / %.2f) | %.0f (%.2f / %.2f) | %.0f (%.2f / %.2f) | %.2f | %.2f |\n",
            n, c, cp, cq, f, fp, fq, i, ip, iq, c/f, c/i}'
done
for point in "1024 1" "64 32"; do
    read -r n depth <<<"$point"
    : >"$work/c"
    for _ in $(seq "$repeat"); do ours "$n" "$depth" >>"$work/c"; done
    read -r c cp cq < <(median <"$work/c")
    awk -v n="$n" -v d="$depth" -v c="$c" -v cp="$cp" -v cq="$cq" -v b="$best" \
        'BEGIN {printf "| %d × %d in flight | %.0f (%.2f / %.2f) | | | %.2f × PostgreSQL'"'"'s best | |\n", n, d, c, cp, cq, c/b}'
done
