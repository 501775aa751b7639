#!/usr/bin/env python3
"""What a memory limit costs: reads of workspaces that do not all fit into memory.

    bench/memory_limit.py [--binary PROGRAM] [--limit-mib 256] [--times 1.5,2,4] [--seconds 60] [--readers 4]

Creates so many workspaces that they would take `times` of the memory that the limit leaves for them. Then clients read one
entity each of workspaces that are drawn by Zipf's law (the n-th has 1/n of the reads of the first), and a producer
sends 100 events a second to workspaces that are drawn in the same way. Shown are the latencies of reads of the hot tenth and of the others, the loads and
evictions a second, and the largest resident memory.
"""
import argparse, http.client, itertools, json, pathlib, random, signal, socket, statistics, subprocess, sys, tempfile
import bisect, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENTITIES, TEXT = 10, "x" * 150
# What the engine keeps for other things (crates/server/src/memory_limit.rs).
OTHERS_MIB = 192
PATIENCE = 900


class Engine:
    def __init__(self, program, directory, limit_mib):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [program, "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", directory / "data",
             "--memory-limit", f"{limit_mib}MiB", "--log-level", "warn"], stdout=subprocess.DEVNULL)
        self.program = program

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def metrics(self):
        try:
            lines = self.get("/metrics").splitlines()
        except OSError:
            return {}
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def produce(self, lines):
        subprocess.run([self.program, "produce", "-", "--url", f"http://127.0.0.1:{self.port}"], check=True,
                       input="".join(lines).encode(), stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

    def settle(self, count):
        """Waits until every workspace is ready or evicted, and returns the metrics."""
        deadline = time.monotonic() + PATIENCE
        while True:
            counts = json.loads(self.get("/api/v1/workspaces/statuses?limit=1"))["stateCounts"]
            if counts["ready"] + counts["unknown"] == count:
                return self.metrics()
            assert time.monotonic() < deadline, counts
            time.sleep(0.5)


def event(workspace, entity, number):
    return json.dumps({"eventType": "resource.updated", "workspaceId": f"w{workspace}", "timestamp": number,
                       "data": {"id": f"e{entity}", "n": number, "text": TEXT}}) + "\n"


def create(engine, first, count):
    for begin in range(first, count, 2_000):
        engine.produce(event(workspace, entity, 0)
                       for workspace in range(begin, min(begin + 2_000, count)) for entity in range(ENTITIES))


class Zipf:
    def __init__(self, count, seed):
        self.dice = random.Random(seed)
        self.sums = list(itertools.accumulate(1 / rank for rank in range(1, count + 1)))
        # Ranks are spread over the partitions.
        self.order = list(range(count))
        random.Random(1).shuffle(self.order)

    def draw(self):
        rank = bisect.bisect_left(self.sums, self.dice.random() * self.sums[-1])
        return rank, self.order[rank]


def read(engine, count, seed, until, hot, cold, failed):
    zipf, connection = Zipf(count, seed), engine.connect()
    while time.monotonic() < until:
        rank, workspace = zipf.draw()
        began = time.monotonic()
        connection.request("GET", f"/api/v1/workspaces/w{workspace}/entities/resource/e0")
        answer = connection.getresponse()
        answer.read()
        took = (time.monotonic() - began) * 1000
        if answer.status != 200:
            failed.append(answer.status)
        (hot if rank < count // 10 else cold).append(took)


def write(engine, count, until):
    zipf, number = Zipf(count, 99), 0
    while time.monotonic() < until:
        lines = []
        for _ in range(100):
            number += 1
            lines.append(event(zipf.draw()[1], number % ENTITIES, number))
        engine.produce(lines)
        time.sleep(1)


def quantiles(values):
    if len(values) < 100:
        return f"{len(values)} reads"
    cuts = statistics.quantiles(values, n=100)
    return f"{len(values)} reads, p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.1f} ms"


def measure(program, limit_mib, times, seconds, readers):
    with tempfile.TemporaryDirectory() as directory:
        engine = Engine(program, pathlib.Path(directory), limit_mib)
        try:
            while not engine.metrics():
                time.sleep(0.1)
            sample = 500
            create(engine, 0, sample)
            each = engine.settle(sample)["workspace_engine_workspaces_memory_bytes"] / sample
            count = int((limit_mib - OTHERS_MIB) * 1024 * 1024 * times / each)
            create(engine, sample, count)
            before = engine.settle(count)
            hot, cold, failed, most = [], [], [], 0
            began = time.monotonic()
            until = began + seconds
            threads = [threading.Thread(target=read, args=(engine, count, seed, until, hot, cold, failed))
                       for seed in range(readers)]
            threads.append(threading.Thread(target=write, args=(engine, count, until)))
            for thread in threads:
                thread.start()
            while time.monotonic() < until:
                most = max(most, engine.resident())
                time.sleep(0.25)
            for thread in threads:
                thread.join()
            after, took = engine.metrics(), time.monotonic() - began
            rate = {name: (after[f"workspace_engine_{name}_total"] - before[f"workspace_engine_{name}_total"]) / took
                    for name in ("loads", "evictions")}
            print(f"{times:g} times the memory: {count:,} workspaces of {each:,.0f} bytes under {limit_mib} MiB\n"
                  f"  hot tenth: {quantiles(hot)}\n  others:    {quantiles(cold)}\n"
                  f"  {rate['loads']:.0f} loads and {rate['evictions']:.0f} evictions a second; "
                  f"{(len(hot) + len(cold)) / took:.0f} reads a second, {len(failed)} failed {sorted(set(failed))}\n"
                  f"  resident memory at most {most:.0f} MiB", flush=True)
        finally:
            engine.process.send_signal(signal.SIGTERM)
            engine.process.wait(PATIENCE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/workspace-engine", type=pathlib.Path)
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--times", default="1.5,2,4")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=4)
    arguments = parser.parse_args()
    for times in arguments.times.split(","):
        measure(arguments.binary, arguments.limit_mib, float(times), arguments.seconds, arguments.readers)


if __name__ == "__main__":
    sys.exit(main())
