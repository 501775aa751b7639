#!/usr/bin/env bash
# A real Apache Kafka without a cluster, for the checks and for a first try of `serve --kafka`.
#
#   scripts/kafka.sh start [NODES]   starts 1 or 3 nodes, where they are not up, and prints their addresses for --kafka
#   scripts/kafka.sh kill N          kills node N with SIGKILL
#   scripts/kafka.sh restart N       starts node N again
#   scripts/kafka.sh wait            waits until every node has all that it must hold
#   scripts/kafka.sh stop            stops all nodes; their data stays
#   scripts/kafka.sh clean           stops all nodes and removes their data
#   scripts/kafka.sh run MAIN ARGS   runs one of Kafka's tools, such as org.apache.kafka.tools.TopicCommand
#
# With KAFKA_PASSWORD set, `start` also opens a listener with TLS and SASL (SCRAM-SHA-256) for the user `engine`, whose
# addresses are in KAFKA_DIR/N/secure-address and whose certificate is in KAFKA_DIR/certificate.pem.
#
# Needs Java 17, Maven and Python 3. Everything lies under KAFKA_DIR (target/kafka).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${KAFKA_DIR:-$here/../target/kafka}
lib=${KAFKA_LIB:-$here/../target/kafka-lib}

fail() {
    echo "kafka.sh: $*" >&2
    exit 1
}

fetch() {
    [ -e "$lib/.complete" ] && return
    command -v mvn >/dev/null || fail "Maven is needed to get Apache Kafka"
    mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$(mkdir -p "$lib" && cd "$lib" && pwd)" >&2
    touch "$lib/.complete"
}

run() {
    local main=$1
    shift
    java -Xmx256m -cp "$lib/*" -Dlog4j2.configurationFile="file:$here/kafka/log4j2.properties" "$main" "$@"
}

# Below those that the system gives to connections: a node that is down must find its ports free again.
free_ports() {
    python3 - "$1" <<'PY'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
        held.append(one)
    except OSError:
        one.close()
print(*[one.getsockname()[1] for one in held])
PY
}

configure() {
    local nodes=$1 uuid ports voters="" n plain scram=()
    read -ra ports <<<"$(free_ports $((nodes * 3)))"
    for ((n = 1; n <= nodes; n++)); do
        voters+="${voters:+,}$n@127.0.0.1:${ports[n * 3 - 2]}"
    done
    if [ -n "${KAFKA_PASSWORD:-}" ]; then
        certify
        scram=(--add-scram "SCRAM-SHA-256=[name=engine,password=$KAFKA_PASSWORD]")
    fi
    uuid=$(run kafka.tools.StorageTool random-uuid)
    for ((n = 1; n <= nodes; n++)); do
        mkdir -p "$dir/$n"
        plain=127.0.0.1:${ports[n * 3 - 3]}
        cat >"$dir/$n/server.properties" <<CONFIG
process.roles=broker,controller
node.id=$n
controller.quorum.voters=$voters
listeners=PLAINTEXT://$plain,CONTROLLER://127.0.0.1:${ports[n * 3 - 2]}
advertised.listeners=PLAINTEXT://$plain
controller.listener.names=CONTROLLER
log.dirs=$dir/$n/data
auto.create.topics.enable=false
default.replication.factor=$nodes
min.insync.replicas=$(((nodes + 1) / 2))
offsets.topic.replication.factor=$nodes
transaction.state.log.replication.factor=$nodes
transaction.state.log.min.isr=$(((nodes + 1) / 2))
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=5
transaction.state.log.num.partitions=5
log.cleaner.backoff.ms=500
group.min.session.timeout.ms=3000
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
CONFIG
        echo "$plain" >"$dir/$n/address"
        [ ${#scram[@]} = 0 ] || secure "$n" "127.0.0.1:${ports[n * 3 - 1]}"
        run kafka.tools.StorageTool format -t "$uuid" -c "$dir/$n/server.properties" "${scram[@]}" >/dev/null
    done
}

# A key that signs its own certificate, and is the authority that clients trust.
certify() {
    local store=(-keystore "$dir/keys.p12" -storetype PKCS12 -storepass "$KAFKA_PASSWORD" -alias broker)
    keytool -genkeypair "${store[@]}" -keyalg RSA -validity 30 -dname CN=127.0.0.1 -ext san=ip:127.0.0.1 2>/dev/null
    keytool -exportcert "${store[@]}" -rfc 2>/dev/null >"$dir/certificate.pem"
}

secure() {
    local n=$1 address=$2 settings="$dir/$1/server.properties"
    sed -i "s%^\(listeners\|advertised.listeners\)=.*%&,SECURE://$address%" "$settings"
    cat >>"$settings" <<CONFIG
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PKCS12
listener.name.secure.ssl.keystore.location=$dir/keys.p12
listener.name.secure.ssl.keystore.password=$KAFKA_PASSWORD
listener.name.secure.ssl.key.password=$KAFKA_PASSWORD
CONFIG
    echo "$address" >"$dir/$n/secure-address"
}

start_node() {
    local n=$1 heap=1g
    [ -e "$dir/2" ] && heap=512m
    [ -e "$dir/$n/server.properties" ] || fail "there is no node $n"
    is_up "$n" && fail "node $n is up"
    nohup java "-Xmx$heap" -cp "$lib/*" -Dlog4j2.configurationFile="file:$here/kafka/log4j2.properties" \
        kafka.Kafka "$dir/$n/server.properties" >>"$dir/$n/log" 2>&1 &
    echo $! >"$dir/$n/pid"
}

is_up() {
    local state
    [ -e "$dir/$1/pid" ] && state=$(ps -o stat= -p "$(cat "$dir/$1/pid")") && [[ $state != Z* ]]
}

addresses() {
    cat "$dir"/*/address | paste -sd,
}

# The port opens before the broker serves: it is ready when it answers for its metadata.
wait_ready() {
    local deadline=$((SECONDS + 180))
    until run org.apache.kafka.tools.TopicCommand --bootstrap-server "$(addresses)" --list >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "no answer after 180 s; see $dir/*/log"
        sleep 0.2
    done
}

stop() {
    local pid tries
    for pid in "$dir"/*/pid; do
        [ -e "$pid" ] || continue
        kill "$(cat "$pid")" 2>/dev/null || true
    done
    for pid in "$dir"/*/pid; do
        [ -e "$pid" ] || continue
        for ((tries = 0; tries < 300; tries++)); do
            is_up "$(basename "$(dirname "$pid")")" || break
            sleep 0.1
        done
        ((tries < 300)) || kill -9 "$(cat "$pid")"
        rm -f "$pid"
    done
}

case ${1:-} in
start)
    nodes=${2:-1}
    [[ $nodes == 1 || $nodes == 3 ]] || fail "1 or 3 nodes, not $nodes"
    fetch
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ -e "$dir/1/server.properties" ] || configure "$nodes"
    there=$(ls -d "$dir"/[0-9]* | wc -l)
    ((there == ${2:-$there})) || fail "there is a cluster of $there in $dir, not of $2; remove it with clean"
    for node in "$dir"/*/; do
        node=$(basename "$node")
        is_up "$node" || start_node "$node"
    done
    wait_ready
    addresses
    ;;
kill)
    kill -9 "$(cat "$dir/${2:?which node?}/pid")"
    while is_up "$2"; do sleep 0.05; done
    ;;
restart) start_node "${2:?which node?}" ;;
wait)
    wait_ready
    deadline=$((SECONDS + 180))
    until [ -z "$(run org.apache.kafka.tools.TopicCommand --bootstrap-server "$(addresses)" --describe --under-replicated-partitions)" ]; do
        ((SECONDS < deadline)) || fail "not all nodes have all that they must hold after 180 s"
        sleep 0.2
    done
    ;;
stop) stop ;;
clean)
    stop
    rm -rf "$dir"
    ;;
run)
    fetch
    shift
    run "$@"
    ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2
    exit 64
    ;;
esac
