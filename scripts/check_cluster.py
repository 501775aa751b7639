#!/usr/bin/env python3
"""Checks on a real Apache Kafka that engines lose no event, apply none twice, and name the owner of each workspace.

    scripts/check_cluster.py [--rounds N] [--seed N] [--protocol classic|consumer] [--nodes 1|3]
                             [--scenarios one,three,churn,...] [--events FILE --expected FILE]

Starts Apache Kafka (scripts/kafka.sh) and engines, produces events keyed by their workspace (with kcat
where it is installed, else with Kafka's console producer), disturbs them at random moments, and compares
what the engines serve with the state that the events make. Without --events it generates some.
Scenarios, each on a topic of its own:

    one      one engine
    three    three engines
    churn    three engines; one is killed (-9) and restarted, one is stopped, one is added; then one
             engine with an empty disk takes all partitions over
    evicting three engines whose workspaces do not fit into their memory limit; they are killed (-9) --kills times
    produce  `produce` sends to an engine that is killed (-9) repeatedly; no event is lost or doubled
    broker   one engine and then two; the brokers are killed (-9) and started again, in turn
    parked   a record that is no event parks its workspace alone; `skip` continues it
    zombie   three engines; one is frozen (SIGSTOP) until the others have its partitions, and then continues
    lostend  one engine; a broker loses the end of a partition, and other records get its offsets, first while no engine
             runs, then while one does: workspaces saved beyond it are parked and stay so, the others are served
    rebuilt  one engine; its changelog is deleted while it does not run: it is rebuilt from the topic, or refused where the
             topic has lost its beginning
    failover three engines; one is killed (-9), another is stopped: how long until every workspace is ready again
    cutoff   two engines; the brokers are frozen (SIGSTOP), first while the group is stable, then within a rebalance: no
             workspace stays ready, and all are ready again when the brokers continue
    fenced   two engines with the same group-instance-id: one serves, the other reports why it does not, and takes over
    java     a thousand ids: the Java client's default partitioner and the engine choose the same partitions
    clients  confluent-kafka for Python, kafkajs and Sarama send with their default partitioners to an engine with the
             fitting --partitioner, and to one without, which names the setting; an engine with another partitioner than
             its group's ends (needs npm and Go; the clients are kept in target/kafka-clients)
    secure   engines with TLS and SASL: a wrong password and an unknown certificate are reported and not shown; a password
             that is removed is reported, and once it is restored the engine recovers by itself
"""
import argparse, collections, gzip, hashlib, json, os, pathlib, random, re, shutil, signal, socket
import subprocess, sys, tempfile, threading, time, urllib.error, urllib.parse, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# Timeout in seconds of every wait; long, because the machine may be busy.
TIMEOUT = 300
PARTITIONS = 12
SESSION = 6
PASSWORD = "correct-horse"


def say(text):
    print(f"[{time.monotonic() - BEGAN:7.2f}] {text}", flush=True)


class Kafka:
    def __init__(self, directory, nodes, secure):
        self.nodes, self.directory = nodes, directory
        self.environment = {**os.environ, "KAFKA_DIR": str(directory)}
        if secure:
            self.environment["KAFKA_PASSWORD"] = PASSWORD

    def start(self):
        self.brokers = self.call("start", str(self.nodes)).strip()

    def call(self, *arguments, **options):
        return subprocess.run(
            [HERE / "kafka.sh", *arguments], env=self.environment, check=True, text=True,
            stdout=subprocess.PIPE, **options).stdout

    def signal(self, how):
        for pid in self.directory.glob("*/pid"):
            os.kill(int(pid.read_text()), how)
        say(f"the brokers get {how.name}")

    def tool(self, main, *arguments, **options):
        return self.call("run", main, "--bootstrap-server", self.brokers, *arguments, **options)

    def create(self, topic):
        self.tool("org.apache.kafka.tools.TopicCommand", "--create", "--topic", topic,
                  "--partitions", str(PARTITIONS))

    def producer(self, topic, java=False):
        """A process that takes `key TAB value` lines and puts each where Kafka's default partitioner does."""
        if shutil.which("kcat") and not java:
            command = ["kcat", "-P", "-b", self.brokers, "-t", topic, "-K", "\t", "-q", "-E",
                       "-X", "partitioner=murmur2_random", "-X", "enable.idempotence=true",
                       "-X", "linger.ms=20"]
        else:
            command = [HERE / "kafka.sh", "run", "org.apache.kafka.tools.ConsoleProducer",
                       "--bootstrap-server", self.brokers, "--topic", topic,
                       "--reader-property", "parse.key=true"]
        return subprocess.Popen(command, env=self.environment, stdin=subprocess.PIPE)


    def secure_brokers(self):
        return ",".join(path.read_text().strip() for path in sorted(self.directory.glob("*/secure-address")))

    def password(self, *change):
        """Changes the credentials of the user `engine` on the brokers."""
        self.tool("kafka.admin.ConfigCommand", "--alter", *change, "--entity-type", "users", "--entity-name", "engine")


class Engine:
    def __init__(self, fleet, number):
        self.fleet, self.number = fleet, number
        self.flags = []
        # Properties of librdkafka; if there are any, the engine connects by TLS and SASL.
        self.properties = {}
        self.directory = fleet.directory / f"engine-{number}"
        # Bound and never listening: it reserves the port for this engine between its runs.
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = self.reserved.getsockname()[1]
        self.process = None

    def start(self):
        fleet = self.fleet
        log = open(fleet.directory / f"engine-{self.number}.log", "ab")
        brokers, flags = fleet.kafka.brokers, fleet.arguments.engine_flags.split()
        if self.properties:
            file = fleet.directory / f"engine-{self.number}.properties"
            file.write_text("".join(f"{name}={value}\n" for name, value in self.properties.items()))
            brokers = fleet.kafka.secure_brokers()
            flags += ["--kafka-config", file, "--log-level", "debug"]
        self.process = subprocess.Popen(
            [fleet.arguments.binary, "serve", "--kafka", brokers, "--topic", fleet.topic,
             "--group", fleet.group, "--group-protocol", fleet.arguments.protocol,
             "--session-timeout", f"{SESSION}s", "--data-dir", self.directory,
             "--listen", f"127.0.0.1:{self.port}", "--owner", f"engine-{self.number}",
             *flags, *self.flags],
            stdout=subprocess.DEVNULL, stderr=log)
        say(f"engine-{self.number} starts")
        return self

    def end(self, how):
        say(f"engine-{self.number} gets {how.name}")
        self.process.send_signal(how)
        code = self.process.wait(TIMEOUT)
        assert how == signal.SIGKILL or code == 0, f"engine-{self.number} ended with {code}"
        self.process = None

    def is_up(self):
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"engine-{self.number} ended by itself: {self.process.returncode}")
        return self.process is not None

    def call(self, path, method="GET", base="/api/v1"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{base}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return {"status": error.code, "problem": error.read().decode()}
        except OSError:
            return {}

    def act(self, workspace, action):
        """An operator's action that must succeed."""
        answer = self.call(f"/workspaces/{workspace}/{action}", "POST")
        assert answer.get("workspaceId") == workspace, f"{action} of {workspace}: {answer}"

    def document(self, path):
        """The document that a route answers, also with a 404."""
        answer = self.call(path)
        return json.loads(answer["problem"]) if "problem" in answer else answer

    def wait_until_readyz_contains(self, text):
        """Waits until /readyz contains the text; returns all of its text."""
        deadline = time.monotonic() + TIMEOUT
        while text not in (shown := self.readiness()):
            assert self.is_up() and time.monotonic() < deadline, f"engine-{self.number} shows {shown}, not {text!r}"
            time.sleep(0.1)
        return shown

    def readiness(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz?verbose", timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError as error:
            return str(error)

    def evictions(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
                found = re.search(r"^workspace_engine_evictions_total (\d+)", answer.read().decode(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0

    def ready(self):
        return self.call("/workspaces/statuses?limit=1").get("stateCounts", {}).get("ready", 0)


class Fleet:
    def __init__(self, arguments, kafka, directory, name):
        self.arguments, self.kafka = arguments, kafka
        self.topic = self.group = name
        self.directory = directory / name
        self.directory.mkdir()
        self.engines = []
        kafka.create(self.topic)

    def add(self, count=1, properties=None, flags=()):
        for _ in range(count):
            engine = Engine(self, len(self.engines))
            engine.properties, engine.flags = properties or {}, list(flags)
            self.engines.append(engine.start())
        return self.engines[-1]

    def up(self):
        return [engine for engine in self.engines if engine.is_up()]

    def owner(self, workspace):
        """The engine that serves a workspace, with the status; `None` while none or more than one does."""
        found = [(engine, status) for engine in self.up()
                 if (status := engine.call(f"/workspaces/{workspace}/status")).get("state")]
        if not found:
            for engine in self.up():
                if engine.document(f"/workspaces/{workspace}/status").get("reason") == "evicted":
                    # The read loads it, and it may be evicted again soon after.
                    engine.call(f"/workspaces/{workspace}/entities")
                    if (status := engine.call(f"/workspaces/{workspace}/status")).get("state"):
                        found.append((engine, status))
        return found[0] if len(found) == 1 else (None, found)

    def wait_until_ready(self, expected):
        began = time.monotonic()
        waiting = dict(expected)
        while waiting:
            for workspace, wanted in list(waiting.items()):
                engine, status = self.owner(workspace)
                if engine and status["state"] == "ready":
                    summary = engine.call(f"/workspaces/{workspace}/entities")
                    if summary.get("eventsApplied", 0) >= wanted["events"]:
                        del waiting[workspace]
            if waiting and time.monotonic() - began > TIMEOUT:
                workspace = next(iter(waiting))
                raise AssertionError(f"waited too long for {len(waiting)}, such as {workspace}: {self.owner(workspace)}")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_until_settled(self):
        """Waits until all partitions have been served by the same engines for a while."""
        deadline, before, since = time.monotonic() + TIMEOUT, None, 0.0
        while before is None or time.monotonic() - since < SESSION / 2:
            assert time.monotonic() < deadline, f"the partitions do not settle: {before}"
            owned = [(engine.number, partition["partition"]) for engine in self.up()
                     for partition in engine.call("/partitions").get("partitions", [])]
            if owned != before or sorted(number for _, number in owned) != list(range(PARTITIONS)):
                before, since = owned, time.monotonic()
            time.sleep(0.1)

    def query_owner(self, workspace, question):
        """The owner's answer; the query is repeated if the workspace moves meanwhile."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            engine, found = self.owner(workspace)
            try:
                if engine:
                    return question(engine)
            except Moved as moved:
                found = moved
            assert time.monotonic() < deadline, f"{workspace} is not served by one engine: {found}"
            time.sleep(0.1)

    def verify(self, expected):
        seconds = self.wait_until_ready(expected)
        self.wait_until_settled()
        for workspace, wanted in expected.items():
            def contents(engine):
                summary = engine.call(f"/workspaces/{workspace}/entities")
                if summary.get("eventsApplied", 0) < wanted["events"]:
                    raise Moved(summary)
                kinds = {*wanted["entities"], *summary["counts"]}
                return summary, {kind: entity_lines(engine, workspace, kind) for kind in kinds}

            summary, kinds = self.query_owner(workspace, contents)
            assert summary["eventsApplied"] == wanted["events"], (workspace, summary, wanted["events"])
            for kind, lines in kinds.items():
                found = {"count": len(lines), "sha256": digest(lines)}
                assert found == wanted["entities"].get(kind, found), f"{workspace} {kind} differs: {found}"
                assert lines == [] or kind in wanted["entities"], f"{workspace} should have no {kind}"
        say(f"all ready after {seconds:.2f} s, as expected on {len(self.up())} engines")

    def owners_are_named(self, expected):
        """Waits until every engine names the owner of each workspace that it does not serve, and checks its counts."""
        deadline = time.monotonic() + TIMEOUT
        for workspace in expected:
            owner = self.query_owner(workspace, lambda engine: engine)
            for engine in self.up():
                if engine is owner:
                    continue
                while f"engine-{owner.number} " not in (status := engine.document(f"/workspaces/{workspace}/status"))["message"]:
                    assert time.monotonic() < deadline, f"engine-{engine.number} does not name the owner: {status}"
                    time.sleep(0.2)
                if status["reason"] is not None:
                    assert status["owner"] == f"engine-{owner.number}", status
                    assert (status["state"], status["reason"]) == ("unknown", "owned elsewhere"), status
        for engine in self.up():
            page = engine.call("/workspaces/statuses?limit=1000")
            states = collections.Counter(row["state"] for row in page["workspaces"])
            assert states == {state: count for state, count in page["stateCounts"].items() if count}, page["stateCounts"]
            known = [row for row in page["workspaces"] if row["state"] == "unknown"]
            assert all(row["lastKnown"]["epoch"] > 0 for row in known), known[:1]

    def histories(self, expected):
        """Checks that epochs grow and that each has one owner; returns the number of changes of the owner."""
        moves = 0
        for workspace in expected:
            transitions = self.query_owner(
                workspace, lambda engine: pages(engine, f"/workspaces/{workspace}/history", "transitions"))
            epochs = [(transition["epoch"], transition["owner"]) for transition in transitions]
            assert epochs == sorted(epochs, key=lambda pair: pair[0]), f"epochs of {workspace} go back"
            owner_of = dict(epochs)
            assert all(owner_of[epoch] == owner for epoch, owner in epochs), f"{workspace}: an epoch of two owners"
            owners = list(owner_of.values())
            moves += sum(one != next_one for one, next_one in zip(owners, owners[1:]))
        return moves

    def end(self):
        for engine in self.up():
            engine.end(signal.SIGTERM)
        for log in self.directory.glob("engine-*.log"):
            text = log.read_text(errors="replace")
            for bad in ("panicked", "MAXPOLL", "maximum poll interval", "not polled for too long"):
                assert bad not in text, f"{log} contains {bad!r}"


class Feed(threading.Thread):
    """Produces events over some seconds."""

    def __init__(self, fleet, lines, seconds, java=False):
        super().__init__(daemon=True)
        self.producer = fleet.kafka.producer(fleet.topic, java)
        self.lines, self.seconds, self.failed = lines, seconds, None
        self.start()

    def run(self):
        chunk = max(1, len(self.lines) // 100)
        try:
            for begin in range(0, len(self.lines), chunk):
                self.producer.stdin.write(b"".join(self.lines[begin:begin + chunk]))
                self.producer.stdin.flush()
                time.sleep(self.seconds / 100)
            self.producer.stdin.close()
        except OSError as error:
            self.failed = error

    def finish(self):
        self.join()
        assert self.failed is None and self.producer.wait(TIMEOUT) == 0, f"the producer failed: {self.failed}"
        say(f"{len(self.lines)} events are in the topic")


class Moved(Exception):
    """The engine does not serve the workspace now."""


def pages(engine, path, name):
    items, cursor = [], ""
    while True:
        page = engine.call(f"{path}?limit=100{cursor}")
        if name not in page:
            raise Moved(path, page)
        items += page[name]
        if page["nextCursor"] is None:
            return items
        cursor = f"&cursor={urllib.parse.quote(page['nextCursor'])}"


def canonical(data):
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def entity_lines(engine, workspace, kind):
    entities = pages(engine, f"/workspaces/{workspace}/entities/{kind}", "entities")
    lines = [f"{entity['id']}\t{canonical(entity['data'])}" for entity in entities]
    return sorted(lines, key=str.encode)


def make_events(dice, count, workspaces):
    """Events as lines, and the state that they make."""
    lines = []
    live = collections.defaultdict(lambda: collections.defaultdict(dict))
    applied = collections.Counter()
    for number in range(count):
        workspace = f"workspace-{dice.randrange(workspaces)}"
        kind = dice.choice(["resource", "deployment-version"])
        verb = dice.choice(["created", "updated", "updated", "deleted"])
        data = {"id": f"path/{dice.randrange(60)}", "n": number, "text": 'ü"\\'}
        lines.append(canonical({"eventType": f"{kind}.{verb}", "workspaceId": workspace,
                                "timestamp": number, "data": data}))
        applied[workspace] += 1
        if verb == "deleted":
            live[workspace][kind].pop(data["id"], None)
        else:
            live[workspace][kind][data["id"]] = canonical(data)
    expected = {}
    for workspace, events in applied.items():
        kinds = {}
        for kind, entities in live[workspace].items():
            rows = sorted((f"{id}\t{data}" for id, data in entities.items()), key=str.encode)
            kinds[kind] = {"count": len(rows), "sha256": digest(rows)}
        expected[workspace] = {"events": events, "entities": kinds}
    return lines, expected


def keyed(line):
    return f"{json.loads(line)['workspaceId']}\t{line}\n".encode()


def one(fleet, dice, lines, expected):
    fleet.add()
    Feed(fleet, lines, 3).finish()
    fleet.verify(expected)


def three(fleet, dice, lines, expected):
    fleet.add(3)
    Feed(fleet, lines, 5).finish()
    fleet.verify(expected)
    fleet.owners_are_named(expected)


def churn(fleet, dice, lines, expected):
    fleet.add(3)
    fleet.wait_until_settled()
    feed = Feed(fleet, lines, fleet.arguments.feed_seconds)
    moments = sorted(dice.uniform(2, fleet.arguments.feed_seconds) for _ in range(4))
    say("moments " + ", ".join(f"{moment:.3f}" for moment in moments))
    began = time.monotonic()

    def until(moment):
        time.sleep(max(0.0, began + moment - time.monotonic()))

    until(moments[0])
    killed = dice.choice(fleet.up())
    killed.end(signal.SIGKILL)
    until(moments[1])
    killed.start()
    until(moments[2])
    dice.choice([engine for engine in fleet.up() if engine is not killed]).end(signal.SIGTERM)
    until(moments[3])
    fleet.add()
    feed.finish()
    fleet.verify(expected)
    fleet.owners_are_named(expected)
    moves = fleet.histories(expected)
    assert moves > 0, "no history shows another owner"
    for engine in fleet.up():
        engine.end(signal.SIGTERM)
    fleet.add()
    fleet.verify(expected)
    say(f"an engine with an empty disk took over; histories show {moves}, then {fleet.histories(expected)} changes of the owner")


def evicting(fleet, dice, lines, expected):
    """Kills engines whose workspaces do not fit into their memory limit."""
    if not fleet.arguments.events:
        lines, expected = make_events(dice, 20_000, 600)
        lines = [keyed(line) for line in lines]
    kills, evictions = fleet.arguments.kills, 0
    fleet.add(3, flags=["--memory-limit", "193MiB", "--evicted-age", "500ms"])
    fleet.wait_until_settled()
    feed = Feed(fleet, lines, max(fleet.arguments.feed_seconds, 3 * kills))
    for _ in range(kills):
        time.sleep(dice.uniform(1, 4))
        engine = dice.choice(fleet.up())
        evictions += engine.evictions()
        engine.end(signal.SIGKILL)
        engine.start()
    feed.finish()
    fleet.verify(expected)
    evictions += sum(engine.evictions() for engine in fleet.up())
    assert evictions > 0, "nothing was evicted"
    say(f"{evictions} evictions, {kills} kills")


def produce(fleet, dice, lines, expected):
    fleet.add(2)
    target = fleet.engines[0]
    command = [fleet.arguments.binary, "produce", "-", "--url", f"http://127.0.0.1:{target.port}", "--batch-events", "20"]
    sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    lines = [line.split(b"\t", 1)[1] for line in lines]
    kills = sorted(dice.sample(range(len(lines)), 5))
    for number, line in enumerate(lines):
        sender.stdin.write(line)
        if number in kills:
            if fleet.kafka.nodes > 1:
                # Records of an interrupted request must also be found after a change of the leaders.
                node = str(1 + kills.index(number) % fleet.kafka.nodes)
                say(f"node {node} of Kafka and an engine are killed")
                fleet.kafka.call("kill", node)
            target.end(signal.SIGKILL)
            target.start()
            if fleet.kafka.nodes > 1:
                fleet.kafka.call("restart", node)
                fleet.kafka.call("wait")
    sender.stdin.close()
    assert sender.wait(TIMEOUT) == 0, "produce failed"
    fleet.verify(expected)


def broker(fleet, dice, lines, expected):
    fleet.add()
    feed = Feed(fleet, lines, fleet.arguments.feed_seconds)
    for node in range(1, fleet.kafka.nodes + 1):
        time.sleep(dice.uniform(1, fleet.arguments.feed_seconds / fleet.kafka.nodes))
        say(f"node {node} of Kafka is killed")
        fleet.kafka.call("kill", str(node))
        time.sleep(dice.uniform(1, 4))
        fleet.kafka.call("restart", str(node))
        if node == 1:
            fleet.add()
        # All must run before the next one is killed: two of three hold every record.
        fleet.kafka.call("wait")
    feed.finish()
    fleet.verify(expected)


def parked(fleet, dice, lines, expected):
    victim, others = sorted(expected)[0], sorted(expected)[1:]
    mine = [line for line in lines if line.startswith(f"{victim}\t".encode())]
    poison = f"{victim}\tthis is no event\n".encode()
    place = lines.index(mine[len(mine) // 2])
    fleet.add(2)
    Feed(fleet, [*lines[:place], poison, *lines[place:]], 2).finish()
    fleet.wait_until_ready({workspace: expected[workspace] for workspace in others})
    deadline = time.monotonic() + TIMEOUT
    while not isinstance(status := fleet.owner(victim)[1], dict) or status["state"] != "error":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    say(f"{victim}: {status['errorMessage']}")
    assert status["error"]["kind"] == "parked", status
    for part in (fleet.topic, "partition", "offset", victim):
        assert part in status["errorMessage"], (part, status["errorMessage"])

    def skip(engine):
        answer = engine.call(f"/workspaces/{victim}/skip", "POST")
        if answer.get("state") is None:
            raise Moved(answer)

    fleet.query_owner(victim, skip)
    # The skipped record does not count as applied.
    fleet.verify(expected)
    dead_letters = fleet.query_owner(
        victim, lambda engine: pages(engine, f"/workspaces/{victim}/dead-letters", "deadLetters"))
    assert len(dead_letters) == 1, dead_letters
    topic = f"{fleet.group}-{fleet.topic}-dead-letters"
    held = fleet.kafka.tool("org.apache.kafka.tools.GetOffsetShell", "--topic", topic)
    say(f"skipped; {held.strip()}")
    assert held.strip().endswith(":1"), held


def java(fleet, dice, lines, expected):
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"
    ids = set()
    while len(ids) < 1000:
        ids.add("".join(dice.choices(characters, k=dice.randint(1, 40))))
    tick = '{"eventType":"workspace.tick","workspaceId":"%s","timestamp":0,"data":{}}'
    lines = [tick % id for id in sorted(ids)]
    fleet.add()
    Feed(fleet, [keyed(line) for line in lines], 0, java=True).finish()
    fleet.wait_until_ready({id: {"events": 1} for id in ids})
    command = [fleet.arguments.binary, "produce", "-", "--url", f"http://127.0.0.1:{fleet.up()[0].port}"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, stdout=subprocess.DEVNULL)
    fleet.verify({id: {"events": 2, "entities": {}} for id in ids})
    records = fleet.kafka.tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", fleet.topic, "--from-beginning",
        "--max-messages", str(2 * len(ids)), "--timeout-ms", str(TIMEOUT * 1000), "--formatter-property", "print.partition=true",
        "--formatter-property", "print.key=true", "--formatter-property", "print.value=false")
    places = collections.defaultdict(list)
    for record in records.splitlines():
        partition, id = record.split("\t")
        places[id].append(partition)
    assert set(places) == ids, "not all ids are in the topic"
    apart = {id: found for id, found in places.items() if len(found) != 2 or len(set(found)) != 1}
    assert not apart, f"the Java client and the engine chose other partitions: {apart}"
    used = {found[0] for found in places.values()}
    say(f"{len(places)} ids, each twice on the same of {len(used)} partitions")


def zombie(fleet, dice, lines, expected):
    fleet.add(3)
    feed = Feed(fleet, lines, 3 * SESSION)
    for _ in range(2):
        time.sleep(dice.uniform(1, 3))
        frozen = max(fleet.up(), key=Engine.ready)
        say(f"engine-{frozen.number} is frozen")
        frozen.process.send_signal(signal.SIGSTOP)
        time.sleep(SESSION + dice.uniform(1, 3))
        frozen.process.send_signal(signal.SIGCONT)
    feed.finish()
    fleet.verify(expected)
    say(f"histories show {fleet.histories(expected)} changes of the owner")


def murmur2(key):
    """The hash of Kafka's default partitioner."""
    mask, m = 0xffffffff, 0x5bd1e995
    h = (0x9747b28c ^ len(key)) & mask
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at:at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def names_on(partition, prefix):
    """Names of workspaces that belong to a partition."""
    number = 0
    while True:
        name = f"{prefix}-{number}"
        if (murmur2(name.encode()) & 0x7fffffff) % PARTITIONS == partition:
            yield name
        number += 1


def created(workspace, numbers):
    event = {"eventType": "resource.created", "workspaceId": workspace, "timestamp": 0}
    return [keyed(canonical({**event, "data": {"id": f"e{number}"}})) for number in numbers]


def lose_end(kafka, topic, partition, offset):
    """Cuts the files of a partition of a stopped broker before the batch with this offset."""
    kafka.call("stop")
    [directory] = kafka.directory.glob(f"1/data/{topic}-{partition}")
    [segment] = directory.glob("*.log")
    data, at = segment.read_bytes(), 0
    while at < len(data) and int.from_bytes(data[at:at + 8], "big") < offset:
        at += 12 + int.from_bytes(data[at + 8:at + 12], "big")
    assert 0 < at < len(data), f"offset {offset} begins no batch of {segment}"
    os.truncate(segment, at)
    for index in [*directory.glob("*.index"), *directory.glob("*.timeindex"), *directory.glob("*.snapshot")]:
        index.unlink()
    kafka.start()
    say(f"partition {partition} of {topic} has lost the records from offset {offset} on")


def lostend(fleet, dice, lines, expected):
    def until(what, check):
        deadline = time.monotonic() + TIMEOUT
        while not (found := check()):
            assert time.monotonic() < deadline, f"waited too long: {what}"
            time.sleep(0.05)
        return found

    def parked(workspace):
        status = fleet.owner(workspace)[1]
        return isinstance(status, dict) and (status.get("error") or {}).get("kind") == "parked" and status["errorMessage"]

    for partition in (3, 7):
        names = names_on(partition, "lost")
        cold, hot, other = next(names), next(names), next(names)
        if not fleet.up():
            fleet.add()
        first = created(cold, range(5)) + created(hot, range(5)) + created(other, range(5))
        Feed(fleet, first, 0).finish()
        fleet.wait_until_ready({name: {"events": 5} for name in (cold, hot, other)})
        # It is saved at the offset where the partition will end.
        fleet.up()[0].act(cold, "unload")
        Feed(fleet, created(hot, range(5, 15)) + created(other, range(5, 10)), 0).finish()
        fleet.wait_until_ready({hot: {"events": 15}, other: {"events": 10}})
        for name in (hot, other):
            # An unload is answered when it is saved.
            for action in ("unload", "load"):
                fleet.up()[0].act(name, action)
        fleet.wait_until_ready({hot: {"events": 15}, other: {"events": 10}})
        runs = partition == 7
        if not runs:
            fleet.up()[0].end(signal.SIGTERM)
        lose_end(fleet.kafka, fleet.topic, partition, len(first))
        new = next(names)
        feed = created(cold, range(5, 7)) + created(hot, range(20, 60)) + created(new, range(3))
        Feed(fleet, feed, 0).finish()
        if not runs:
            fleet.engines[0].start()
        for again in range(3):
            for name in (hot, other):
                error = until(f"{name} is parked", lambda: parked(name))
                assert f"has lost the records from offset {len(first)} on" in error, error
            engine = until(f"{new} is served", lambda: fleet.owner(new)[0])
            if again == 0:
                engine.call(f"/workspaces/{cold}/load", "POST")
            fleet.wait_until_ready({cold: {"events": 7}, new: {"events": 3 + again}})
            engine.call(f"/workspaces/{hot}/reload", "POST")
            until(f"{hot} is parked after a reload", lambda: parked(hot))
            say(f"{hot}: {parked(hot)}")
            Feed(fleet, created(new, [3 + again]), 0).finish()
            engine.end(signal.SIGTERM)
            if again == 1:
                shutil.rmtree(engine.directory)
            engine.start()
        # The way out that the text names. The workspace then has the events below the loss and the present ones.
        until(f"{hot} is parked", lambda: parked(hot))
        fleet.up()[0].act(hot, "reset")
        fleet.wait_until_ready({new: {"events": 6}, hot: {"events": 45}})


def delete_changelog(fleet):
    topics = fleet.kafka.tool("org.apache.kafka.tools.TopicCommand", "--list").split()
    [changelog] = [topic for topic in topics if topic.startswith(fleet.topic) and "changelog" in topic]
    fleet.kafka.tool("org.apache.kafka.tools.TopicCommand", "--delete", "--topic", changelog)
    say(f"{changelog} is deleted")


def rebuilt(fleet, dice, lines, expected):
    name = next(names_on(5, "rebuilt"))
    engine = fleet.add()
    Feed(fleet, created(name, range(30)), 0).finish()
    fleet.wait_until_ready({name: {"events": 30}})
    engine.end(signal.SIGTERM)
    delete_changelog(fleet)
    engine.start()
    Feed(fleet, created(name, [30]), 0).finish()
    deadline = time.monotonic() + TIMEOUT
    while (summary := engine.call(f"/workspaces/{name}/entities")).get("eventsApplied") != 31:
        status = engine.call(f"/workspaces/{name}/status")
        assert status.get("state") != "ready" or summary.get("eventsApplied", 31) >= 30, f"ready without 30 events: {summary}"
        assert time.monotonic() < deadline, f"not rebuilt: {status}, {summary}"
        time.sleep(0.05)
    assert summary["counts"]["resource"] == 31, summary
    # The topic has lost its beginning, so the partition cannot be rebuilt.
    engine.end(signal.SIGTERM)
    offsets = fleet.directory / "offsets.json"
    partition = {"topic": fleet.topic, "partition": 5, "offset": 20}
    offsets.write_text(json.dumps({"version": 1, "partitions": [partition]}))
    fleet.kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand", "--offset-json-file", str(offsets))
    delete_changelog(fleet)
    engine.start()
    say(engine.wait_until_readyz_contains("--accept-loss"))
    engine.end(signal.SIGTERM)
    engine.flags.append("--accept-loss")
    engine.start()
    Feed(fleet, created(name, [31]), 0).finish()
    fleet.wait_until_ready({name: {"events": 12}})


def failover(fleet, dice, lines, expected):
    fleet.add(3)
    Feed(fleet, lines, 3).finish()
    fleet.verify(expected)
    for how in (signal.SIGKILL, signal.SIGTERM):
        victim = max(fleet.up(), key=Engine.ready)
        others = [engine for engine in fleet.up() if engine is not victim]
        mine = victim.ready()
        began = time.monotonic()
        victim.process.send_signal(how)
        while (ready := sum(engine.ready() for engine in others)) < len(expected):
            assert time.monotonic() - began < TIMEOUT, f"only {ready} ready"
            time.sleep(0.01)
        seconds = time.monotonic() - began
        victim.process.wait()
        victim.process = None
        say(f"{how.name} of an engine with {mine} of {len(expected)} workspaces: all ready again after {seconds:.2f} s"
            f" (session timeout {SESSION} s)")
        fleet.verify(expected)
        victim.start()
        time.sleep(SESSION)
        fleet.verify(expected)


def wait_until_cut_off(engines):
    """Waits until no workspace of these engines is ready, after the brokers were frozen."""
    began = time.monotonic()
    while any(engine.ready() for engine in engines):
        seconds = time.monotonic() - began
        assert seconds < 3 * SESSION, f"still ready after {seconds:.1f} s without the brokers"
        time.sleep(0.05)
    return time.monotonic() - began


def cutoff(fleet, dice, lines, expected):
    fleet.add(2)
    Feed(fleet, lines[:len(lines) // 2], 2).finish()
    fleet.wait_until_settled()
    for engine in fleet.up():
        assert engine.ready(), f"engine-{engine.number} has no workspace that is ready"
    fleet.kafka.signal(signal.SIGSTOP)
    seconds = wait_until_cut_off(fleet.up())
    say(f"while the group was stable: no workspace is ready after {seconds:.2f} s (session timeout {SESSION} s)")
    fleet.kafka.signal(signal.SIGCONT)
    began = time.monotonic()
    fleet.wait_until_settled()
    say(f"all partitions are served, and the group is stable, {time.monotonic() - began:.2f} s after the brokers continue")
    # A rebalance waits for the member that does not answer, so the other one stays within it.
    held, waiting = fleet.up()
    held.process.send_signal(signal.SIGSTOP)
    fleet.add()
    time.sleep(SESSION / 3)
    fleet.kafka.signal(signal.SIGSTOP)
    seconds = wait_until_cut_off([waiting])
    say(f"within a rebalance: no workspace is ready after {seconds:.2f} s")
    fleet.kafka.signal(signal.SIGCONT)
    held.process.send_signal(signal.SIGCONT)
    Feed(fleet, lines[len(lines) // 2:], 2).finish()
    fleet.verify(expected)
    say(f"histories show {fleet.histories(expected)} changes of the owner")


def fenced(fleet, dice, lines, expected):
    fleet.add(flags=["--group-instance-id", "twin"])
    Feed(fleet, lines, 2).finish()
    fleet.verify(expected)
    fleet.add(flags=["--group-instance-id", "twin"])
    deadline = time.monotonic() + TIMEOUT
    while True:
        readiness = {engine: engine.readiness() for engine in fleet.up()}
        refused = [engine for engine, text in readiness.items() if "group-instance-id" in text]
        serving = [engine for engine in fleet.up() if engine.ready() == len(expected)]
        if len(refused) == len(serving) == 1 and refused != serving:
            break
        assert time.monotonic() < deadline, f"{readiness}; {[engine.number for engine in serving]} serve"
        time.sleep(0.05)
    say(readiness[refused[0]])
    serving[0].end(signal.SIGTERM)
    fleet.verify(expected)
    assert fleet.up() == refused


def confluent_kafka(fleet, kept):
    python = kept / "venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", kept / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", CONFLUENT_KAFKA], check=True)
    return [python, CLIENTS / "confluent_kafka_send.py"]


def kafkajs(fleet, kept):
    for name in ("package.json", "package-lock.json", "kafkajs_send.js"):
        shutil.copy(CLIENTS / name, kept)
    if not (kept / "node_modules/kafkajs").exists():
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=kept, check=True)
    return ["node", kept / "kafkajs_send.js"]


def sarama(fleet, kept):
    subprocess.run(["go", "build", "-o", kept / "sarama_send", "."], cwd=CLIENTS / "sarama", check=True)
    return [kept / "sarama_send"]


CLIENTS = HERE / "clients"
CONFLUENT_KAFKA = "confluent-kafka==2.16.1"
PARTITIONERS = {confluent_kafka: "consistent_random", kafkajs: "murmur2_random", sarama: "fnv1a_random"}


def clients(fleet, dice, lines, expected):
    kept = ROOT / "target/kafka-clients"
    kept.mkdir(parents=True, exist_ok=True)
    for client, partitioner in PARTITIONERS.items():
        command = client(fleet, kept)
        own = Fleet(fleet.arguments, fleet.kafka, fleet.directory, f"{fleet.topic}-{client.__name__}")
        try:
            sender = subprocess.Popen([*command, fleet.kafka.brokers, own.topic], stdin=subprocess.PIPE)
            sender.communicate(b"".join(lines))
            assert sender.returncode == 0, f"{client.__name__} ended with {sender.returncode}"
            flags = ["--partitioner", partitioner]
            engine = own.add(flags=flags)
            own.verify(expected)
            say(f"{client.__name__}: exact with --partitioner {partitioner}")
            other = next(name for name in PARTITIONERS.values() if name != partitioner)
            check_other_partitioner(own, engine, other, partitioner)
            if partitioner != "murmur2_random":
                check_misrouted(own, expected, partitioner)
            own.end()
        finally:
            for engine in own.up():
                engine.process.kill()


def check_other_partitioner(fleet, engine, other, partitioner):
    """An engine of the group that is started with another partitioner exits with the reason."""
    engine.end(signal.SIGTERM)
    engine.flags = ["--partitioner", other]
    engine.start()
    code = engine.process.wait(TIMEOUT)
    engine.process = None
    text = (fleet.directory / f"engine-{engine.number}.log").read_text(errors="replace").splitlines()[-1]
    assert code == 64 and f"--partitioner {other}" in text and f"by {partitioner}" in text, (code, text)
    say(text)


def check_misrouted(fleet, expected, partitioner):
    """An engine of a new group with the default partitioner lists misrouted workspaces with the fitting setting, also after
    a restart."""
    fleet.group += "-default"
    engine = fleet.add()
    check_misrouted_of(engine, fleet, expected, partitioner)
    engine.end(signal.SIGTERM)
    engine.start()
    check_misrouted_of(engine, fleet, expected, partitioner)
    engine.end(signal.SIGTERM)


def check_misrouted_of(engine, fleet, expected, partitioner):
    deadline, rows = time.monotonic() + TIMEOUT, {}
    while set(rows) != set(expected):
        assert time.monotonic() < deadline, f"not in the list: {set(expected) - set(rows)}"
        try:
            rows = {row["workspaceId"]: row for row in pages(engine, "/workspaces/statuses", "workspaces")}
        except Moved:
            pass  # It does not answer yet.
        time.sleep(0.1)
    parked = [row for row in rows.values() if row["state"] == "error"]
    assert len(parked) > len(expected) / 2, f"{len(parked)} of {len(expected)} are parked"
    for row in parked:
        status = engine.call(f"/workspaces/{row['workspaceId']}/status")
        assert status["error"]["kind"] == "parked", status
        for part in (f"topic {fleet.topic}", "partition", "offset", f"key {row['workspaceId']}", partitioner):
            assert part in status["errorMessage"], (part, status)
    say(f"{len(parked)} of {len(expected)} are parked, such as: {parked[0]['errorMessage']}")


def secure(fleet, dice, lines, expected):
    right = {"security.protocol": "SASL_SSL", "ssl.ca.location": fleet.kafka.directory / "certificate.pem",
             "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "engine", "sasl.password": PASSWORD,
             "ssl.key.password": PASSWORD, "debug": "all"}
    other = fleet.directory / "other.pem"
    keys = ["-keystore", fleet.directory / "other.p12", "-storepass", PASSWORD, "-alias", "other"]
    subprocess.run(["keytool", "-genkeypair", *keys, "-keyalg", "RSA", "-dname", "CN=other"], check=True, capture_output=True)
    other.write_bytes(subprocess.run(["keytool", "-exportcert", "-rfc", *keys], check=True, stdout=subprocess.PIPE).stdout)
    for wrong, text in [({"sasl.password": f"not-{PASSWORD}"}, "uthentication"),
                         ({"ssl.ca.location": other}, "certificate verify failed")]:
        engine = fleet.add(properties={**right, **wrong})
        say(engine.wait_until_readyz_contains(text))
        engine.end(signal.SIGTERM)
    # The same engine, now with valid properties.
    engine.properties = right
    engine.start()
    fleet.add(properties=right)
    half = len(lines) // 2
    Feed(fleet, lines[:half], 3).finish()
    fleet.wait_until_settled()
    fleet.kafka.password("--delete-config", "SCRAM-SHA-256")
    # Brokers do not check the password of existing connections again.
    fleet.kafka.call("kill", "1")
    fleet.kafka.call("restart", "1")
    fleet.kafka.call("wait")
    say(engine.wait_until_readyz_contains("uthentication"))
    fleet.kafka.password("--add-config", f"SCRAM-SHA-256=[password={PASSWORD}]")
    Feed(fleet, lines[half:], 3).finish()
    fleet.verify(expected)
    for log in fleet.directory.glob("engine-*.log"):
        assert PASSWORD not in log.read_text(errors="replace"), f"{log} shows a password"


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (one, three, churn, evicting, produce, broker, parked, zombie, lostend, rebuilt, failover, cutoff, fenced,
                     java, clients, secure)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/workspace-engine", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED") or random.randrange(1 << 32),
                        help="repeats a run; else SEED in the environment, else any")
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1)
    parser.add_argument("--protocol", choices=["classic", "consumer"], default="classic")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--events", type=pathlib.Path)
    parser.add_argument("--expected", type=pathlib.Path)
    parser.add_argument("--feed-seconds", type=float, default=15)
    parser.add_argument("--kills", type=int, default=4, help="of the scenario evicting")
    parser.add_argument("--engine-flags", default="", help="more flags for every engine")
    parser.add_argument("--directory", type=pathlib.Path, help="keeps everything here")
    arguments = parser.parse_args()
    scenarios = [SCENARIOS[name] for name in arguments.scenarios.split(",")]
    dice = random.Random(arguments.seed)
    if arguments.events:
        opened = gzip.open if arguments.events.suffix == ".gz" else open
        with opened(arguments.events, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
        expected = json.loads(arguments.expected.read_text())["workspaces"]
    else:
        lines, expected = make_events(dice, 20_000, 40)
    lines = [keyed(line) for line in lines]
    directory = arguments.directory or pathlib.Path(tempfile.mkdtemp(prefix="cluster-"))
    directory.mkdir(parents=True, exist_ok=True)
    kafka, fleet = Kafka(directory / "kafka", arguments.nodes, secure in scenarios), None
    try:
        kafka.start()
        for turn in range(arguments.rounds):
            for scenario in scenarios:
                name = f"{scenario.__name__}-{arguments.seed}-{turn}"
                say(f"--- {name} --seed {arguments.seed} --protocol {arguments.protocol} --nodes {arguments.nodes}")
                fleet = Fleet(arguments, kafka, directory, name)
                scenario(fleet, dice, lines, expected)
                fleet.end()
        say("done")
    except BaseException:
        say(f"failed; logs are in {directory}")
        arguments.directory = directory
        raise
    finally:
        for engine in fleet.engines if fleet else []:
            if engine.process:
                engine.process.kill()
        kafka.call("clean")
        if not arguments.directory:
            shutil.rmtree(directory)


BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
