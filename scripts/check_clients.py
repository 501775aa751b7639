#!/usr/bin/env python3
"""Ordinary HTTP clients against a running engine: each sees the answer that the engine gave.

usage: scripts/check_clients.py [PROGRAM]

PROGRAM is the built workspace-engine (target/release/workspace-engine if not given). The clients are those of Python
(http.client, urllib and requests) and of Node (http, fetch). Each sends a body that is far over
the limit and must see a 413 with its problem document, not a broken connection, and then use the same client again.
And the metrics in both formats, as their clients request them: promtool (Prometheus) must report no problem.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BODY_BYTES = 48 << 20
LIMIT = "the body is over the limit of 65536 bytes"

NODE = r"""
const http = require('node:http');
const [, , url, bytes] = process.argv;
const body = Buffer.alloc(Number(bytes), 120);
const headers = { 'content-type': 'application/x-ndjson' };

function byHttp(agent) {
    return new Promise((resolve, reject) => {
        const options = { method: 'POST', headers: { ...headers, 'content-length': body.length }, agent };
        const request = http.request(url + '/api/v1/events', options, (response) => {
            let text = '';
            response.on('data', (chunk) => (text += chunk));
            response.on('end', () => resolve([response.statusCode, JSON.parse(text).detail]));
        });
        request.on('error', reject);
        request.end(body);
    });
}

async function byFetch() {
    const response = await fetch(url + '/api/v1/events', { method: 'POST', headers, body });
    return [response.status, (await response.json()).detail];
}

(async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const answers = [];
    for (let time = 0; time < 3; time++) {
        answers.push(['node http', ...(await byHttp(agent))]);
        answers.push(['node fetch', ...(await byFetch())]);
    }
    agent.destroy();
    console.log(JSON.stringify(answers));
})().catch((error) => {
    console.error(error);
    process.exit(1);
});
"""


class Engine:
    """A running engine in a directory of its own."""

    def __init__(self, program):
        self.directory = tempfile.TemporaryDirectory()
        arguments = [
            program, "serve", "--listen", "127.0.0.1:0", "--max-body", "64KiB", "--log-level", "error",
            "--data-dir", os.path.join(self.directory.name, "data"),
        ]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        self.address = self.url.removeprefix("http://")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()


def by_http_client(engine):
    connection = http.client.HTTPConnection(engine.address, timeout=60)
    for _ in range(3):
        connection.request("POST", "/api/v1/events", b"x" * BODY_BYTES, {"Content-Type": "application/x-ndjson"})
        response = connection.getresponse()
        yield "python http.client", response.status, json.load(response)["detail"]
    connection.close()


def by_urllib(engine):
    headers = {"Content-Type": "application/x-ndjson"}
    request = urllib.request.Request(engine.url + "/api/v1/events", b"x" * BODY_BYTES, headers)
    try:
        urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        yield "python urllib", error.code, json.load(error)["detail"]


def by_requests(engine):
    import requests

    session = requests.Session()
    for _ in range(3):
        headers = {"Content-Type": "application/x-ndjson"}
        response = session.post(engine.url + "/api/v1/events", b"x" * BODY_BYTES, headers=headers, timeout=60)
        yield "python requests", response.status_code, response.json()["detail"]


def by_node(engine):
    arguments = ["node", "-", engine.url, str(BODY_BYTES)]
    ran = subprocess.run(arguments, input=NODE, capture_output=True, text=True, timeout=300)
    if ran.returncode:
        sys.exit(f"node failed:\n{ran.stderr}")
    yield from json.loads(ran.stdout)


def check_metrics(engine):
    event = b'{"eventType":"resource.created","workspaceId":"acme","data":{"id":"web"}}'
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(engine.url + "/api/v1/events", event, headers), timeout=60).close()
    text = "text/plain; version=0.0.4; charset=utf-8"
    open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    pages = {}
    for accept, expected in (("*/*", text), (text, text), (open_metrics + ", text/plain;q=0.5", open_metrics)):
        request = urllib.request.Request(engine.url + "/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=60) as response:
            pages[expected] = response.read().decode()
            if response.headers["Content-Type"] != expected:
                sys.exit(f"/metrics for {accept}: {response.headers['Content-Type']}")
    if not pages[open_metrics].endswith("\n# EOF\n") or "# EOF" in pages[text]:
        sys.exit("only OpenMetrics ends with # EOF")
    names = [{line.split()[0] for line in page.splitlines() if line[0] != "#"} for page in pages.values()]
    if names[0] != names[1]:
        sys.exit(f"samples of one format alone: {names[0] ^ names[1]}")
    ran = subprocess.run(["promtool", "check", "metrics"], input=pages[text], capture_output=True, text=True, timeout=60)
    if ran.returncode or ran.stdout or ran.stderr:
        sys.exit(f"promtool: {ran.stdout}{ran.stderr}")
    print(f"promtool finds nothing in {len(names[0])} series")


def main():
    default = os.path.join(REPOSITORY, "target", "release", "workspace-engine")
    program = sys.argv[1] if len(sys.argv) > 1 else default
    begun = time.monotonic()
    count = 0
    with Engine(program) as engine:
        check_metrics(engine)
        for clients in (by_http_client, by_urllib, by_requests, by_node):
            for client, status, detail in clients(engine):
                if (status, detail) != (413, LIMIT):
                    sys.exit(f"{client}: {status} {detail!r}")
                count += 1
                print(f"{client}: {status}")
    print(f"{count} refusals were seen as they are, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
