#!/usr/bin/env python3
"""What workspaces cost: time until all are ready, processor time and memory, by their number.

    bench/workspaces.py [--binary PROGRAM]... [--counts 10000,20000,40000,80000] [--partitions 1] [--rounds 1]

Each workspace gets one event with one small entity. Measured are new workspaces (from the first event until all are
ready) and a restart (until all are ready again). The last lines say by which power of the number each time grows: 1 is
linear. With several programs, such as an old and a new build, they take turns in the same run.
"""
import argparse, json, math, os, pathlib, shutil, signal, socket, statistics, subprocess, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
POLL = 0.1
PATIENCE = 900


def events(directory, count):
    path = directory / f"{count}.ndjson"
    if not path.exists():
        event = {"eventType": "resource.created", "timestamp": 0, "data": {"id": "web", "replicas": 3}}
        with open(path, "w") as file:
            for number in range(count):
                file.write(json.dumps({"workspaceId": f"workspace-{number:07}", **event}) + "\n")
    return path


class Engine:
    def __init__(self, program, directory, partitions, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.command = [program, "serve", "--listen", self.address, "--data-dir", directory / "data",
                        "--partitions", str(partitions), "--log-level", "warn", *flags]
        self.program = program

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=PATIENCE) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        counts = [line for line in lines if line.startswith("workspace_status_workspaces{") and 'state="ready"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in counts)

    def wait(self, count):
        """Waits until so many are ready; returns seconds, processor seconds by thread, and resident bytes."""
        began = time.monotonic()
        while self.ready() < count:
            assert self.process.poll() is None, "the engine has ended"
            assert time.monotonic() < began + PATIENCE, f"not ready after {PATIENCE} s"
            time.sleep(POLL)
        return time.monotonic() - began

    def threads(self):
        ticks, seconds = os.sysconf("SC_CLK_TCK"), {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            text = (task / "stat").read_text()
            name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
            name = name.rstrip("0123456789").rstrip("-")
            seconds[name] = seconds.get(name, 0) + (int(rest[11]) + int(rest[12])) / ticks
        return seconds

    def resident(self, field="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith(field)).split()[1]) * 1024


def report(what, engine, count, seconds, empty):
    threads = engine.threads()
    busiest = sorted(threads.items(), key=lambda item: -item[1])[:4]
    each = (engine.resident() - empty) / count
    print(f"{what:<28} {seconds:7.2f} s  processor {sum(threads.values()):6.2f} s "
          f"({', '.join(f'{name} {used:.2f}' for name, used in busiest)})  {each:,.0f} bytes a workspace", flush=True)


def measure(program, directory, count, partitions):
    path = events(directory, count)
    shutil.rmtree(directory / "data", ignore_errors=True)
    engine = Engine(program, directory, partitions)
    engine.start()
    while subprocess.run([program, "list", "--url", f"http://{engine.address}"], capture_output=True).returncode != 0:
        time.sleep(POLL)
    empty, began = engine.resident(), time.monotonic()
    subprocess.run([program, "produce", "--url", f"http://{engine.address}", path], check=True, capture_output=True)
    engine.wait(count)
    new = time.monotonic() - began
    report(f"{count:,} new", engine, count, new, empty)
    engine.stop()
    engine.start()
    restart = engine.wait(count)
    report(f"{count:,} after a restart", engine, count, restart, empty)
    engine.stop()
    return new, restart


def exponent(counts, seconds):
    """The slope of the logarithms, by least squares."""
    return statistics.linear_regression([math.log(count) for count in counts], [math.log(each) for each in seconds]).slope


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append", type=pathlib.Path)
    parser.add_argument("--counts", default="10000,20000,40000,80000")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    programs = arguments.binary or [ROOT / "target/release/workspace-engine"]
    counts = [int(count) for count in arguments.counts.split(",")]
    times = {program: [] for program in programs}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(arguments.rounds):
            for count in counts:
                for program in programs:
                    print(f"--- {program}, {arguments.partitions} partitions", flush=True)
                    times[program].append((count, *measure(program, pathlib.Path(directory), count, arguments.partitions)))
    if len(counts) > 1:
        for program, rows in times.items():
            numbers, new, restart = zip(*rows)
            print(f"{program}: new grows by the power {exponent(numbers, new):.2f} of the number, "
                  f"a restart by {exponent(numbers, restart):.2f}")


if __name__ == "__main__":
    main()
