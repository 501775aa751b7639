#!/usr/bin/env python3
"""Resident memory of an engine after many events for few entities, through a log that is trimmed.

    bench/memory.py [--binary PROGRAM]... [--events 20000000] [--rounds 1] [-- FLAG OF serve...]

1,000 workspaces have 50 entities each, of 160 bytes. Every event sets one of them, in turns. Printed are the time until
all events are applied, and the resident memory: its peak, at once, after half a minute without work, and after a
restart. With several programs, such as an old and a new build, they take turns.
"""
import argparse, hashlib, json, pathlib, shutil, subprocess, tempfile, time, urllib.request
from workspaces import PATIENCE, POLL, ROOT, Engine

WORKSPACES, ENTITIES = 1_000, 50
IDLE = 30
MIB = 1024 * 1024


def blocks():
    """All entities once, in a few versions."""
    for version in range(4):
        lines = []
        for entity in range(ENTITIES):
            for workspace in range(WORKSPACES):
                note = hashlib.sha512(f"{version}/{workspace}/{entity}".encode()).hexdigest()
                data = {"id": f"entity-{entity:03}", "version": version, "note": note[:112]}
                lines.append(json.dumps({"workspaceId": f"workspace-{workspace:04}", "eventType": "resource.updated",
                                         "timestamp": 0, "data": data}, separators=(",", ":")) + "\n")
        yield "".join(lines).encode()


def produce(program, engine, events):
    command = [program, "produce", "--url", f"http://{engine.address}", "-"]
    producer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    versions = list(blocks())
    for number in range(events // (WORKSPACES * ENTITIES)):
        producer.stdin.write(versions[number % len(versions)])
    producer.stdin.close()
    assert producer.wait(PATIENCE) == 0, "the events were not taken"


def lag(engine):
    with urllib.request.urlopen(f"http://{engine.address}/api/v1/partitions", timeout=PATIENCE) as answer:
        return sum(each["lag"] for each in json.load(answer)["partitions"])


def wait(engine):
    while engine.ready() < WORKSPACES or lag(engine) > 0:
        assert engine.process.poll() is None, "the engine has ended"
        time.sleep(POLL)


def measure(program, directory, events, flags):
    shutil.rmtree(directory / "data", ignore_errors=True)
    engine = Engine(program, directory, 12, "--retention-bytes", "64MiB", *flags)
    engine.start()
    while subprocess.run([program, "list", "--url", f"http://{engine.address}"], capture_output=True).returncode != 0:
        time.sleep(POLL)
    empty, began = engine.resident(), time.monotonic()
    produce(program, engine, events)
    wait(engine)
    seconds, peak, at_once = time.monotonic() - began, engine.resident("VmHWM"), engine.resident()
    threads = engine.threads()
    busiest = ", ".join(f"{name} {used:.0f}" for name, used in sorted(threads.items(), key=lambda item: -item[1])[:5])
    time.sleep(IDLE)
    idle = engine.resident()
    engine.stop()
    engine.start()
    wait(engine)
    restarted = engine.resident()
    engine.stop()
    disk = sum(file.stat().st_blocks * 512 for file in (directory / "data").rglob("*") if file.is_file())
    print(f"{program}: {events / seconds:,.0f} events/s, processor {sum(threads.values()):.0f} s ({busiest}); "
          f"resident MiB: empty {empty / MIB:.0f}, peak {peak / MIB:.0f}, "
          f"at once {at_once / MIB:.0f}, after {IDLE} s {idle / MIB:.0f}, after a restart {restarted / MIB:.0f}; "
          f"on disk {disk / MIB:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append", type=pathlib.Path)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("flags", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(arguments.rounds):
            for program in arguments.binary or [ROOT / "target/release/workspace-engine"]:
                measure(program, pathlib.Path(directory), arguments.events, arguments.flags)


if __name__ == "__main__":
    main()
