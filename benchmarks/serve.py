"""Latency of the server at 1, 8 and 32 clients: ``python benchmarks/serve.py --model mdeq_tiny.digits``.

Starts ``python -m zoo.serve`` in a process of its own; every client sends one picture after the other over one
connection. Prints milliseconds at the median and at 95 %, answers a second, and samples a batch; ``--out`` keeps them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PORT = 8321


def client(body: bytes, until: float, taken: list[float], failed: list[int]) -> None:
    """Ask again and again until a time; keep the seconds of each answer."""
    line = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    while time.monotonic() < until:
        begun = time.monotonic()
        line.request("POST", "/predict", body, {"content-type": "application/json"})
        answer = line.getresponse()
        answer.read()
        (taken if answer.status == 200 else failed).append(time.monotonic() - begun)  # type: ignore[arg-type]
    line.close()


def health() -> dict[str, Any]:
    line = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    line.request("GET", "/health")
    found: dict[str, Any] = json.loads(line.getresponse().read())
    line.close()
    return found


def measure(clients: int, body: bytes, seconds: float) -> dict[str, float]:
    taken: list[float] = []
    failed: list[int] = []
    before, until = health(), time.monotonic() + seconds
    threads = [threading.Thread(target=client, args=(body, until, taken, failed)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = health()
    batches = max(1, after["batches"] - before["batches"])
    p50, p95 = np.percentile(np.array(taken) * 1000, [50, 95])
    return {
        "clients": clients,
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "answers_a_second": round(len(taken) / seconds, 1),
        "samples_a_batch": round((after["samples"] - before["samples"]) / batches, 1),
        "refused": len(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mdeq_tiny.digits")
    parser.add_argument("--size", type=int, default=8, help="height and width of the pictures")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--out", type=Path, help="file to keep the rows in")
    given = parser.parse_args()
    pixels = np.random.default_rng(0).random((given.size, given.size)).round(3).tolist()
    body = json.dumps({"input": pixels}).encode()
    words = [sys.executable, "-m", "zoo.serve", "--model", given.model, "--port", str(PORT)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    rows = []
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                health()
                break
            except OSError:
                time.sleep(0.2)
        measure(1, body, 1.0)  # the first answers are slow
        for clients in given.clients:
            rows.append(measure(clients, body, given.seconds))
            print(rows[-1], flush=True)
    finally:
        server.terminate()
        server.wait(20)
    if given.out:
        given.out.write_text(json.dumps({"model": given.model, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
