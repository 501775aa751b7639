#!/usr/bin/env bash
# GET status in requests/s and latency, beside a bare axum handler that returns constant bytes of
# the same length, in turns of the same run. Needs wrk and curl.
#   bench/status.sh [ROUNDS] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
seconds=${2:-5}
engine=127.0.0.1:18081
bare=127.0.0.1:18082

cargo build --quiet --release -p workspace-engine
cargo build --quiet --release -p workspace-engine-examples --example constant_bytes
data=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$data"' EXIT

target/release/workspace-engine serve --listen "$engine" --data-dir "$data" --log-level warn >/dev/null &
export WORKSPACE_ENGINE_URL=http://$engine
echo '{"eventType":"resource.created","workspaceId":"acme","timestamp":0,"data":{"id":"web"}}' |
    target/release/workspace-engine produce - 2>/dev/null
target/release/workspace-engine wait acme --for ready --timeout 30s
path=/api/v1/workspaces/acme/status
bytes=$(curl -s "http://$engine$path" | wc -c)
target/release/examples/constant_bytes "$bare" "$bytes" &
until curl -s -o /dev/null "http://$bare$path"; do :; done

printf '%s bytes, 32 connections, %s s a turn\n' "$bytes" "$seconds"
turn() {
    wrk -t 2 -c 32 -d "${seconds}s" --latency "http://$2$path" |
        awk -v who="$1" '/99%/ {p99=$2} /Requests\/sec/ {printf "%-7s %10.0f requests/s  p99 %s\n", who, $2, p99}'
}
for _ in $(seq "$rounds"); do
    turn bare "$bare"
    turn status "$engine"
done
