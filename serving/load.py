"""Ask a server at a fixed rate, whether it keeps up or not, and print how long the answers took.

    python -m gauntlet.serving.load URL --rate 200

Requests are sent when they are due, not when the last one was answered, and a latency counts from when its
request was due. A server that falls behind therefore shows it: a generator that waits for answers would ask
less, and leave out just the slow ones ("coordinated omission", https://www.scylladb.com/2021/04/22/
on-coordinated-omission/). How late the generator itself was is printed too: if that is not small beside the
latencies, the figures are of the generator.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit
from urllib.request import urlopen

import uvloop

QUANTILES = (0.5, 0.9, 0.99, 0.999)
ANSWER_SECONDS = 60.0
LATE_MS = 1.0
FAILED = "no answer"


@dataclass
class Outcome:
    """What came of all requests.

    Attributes:
        statuses: How many had each HTTP status, or no answer.
        latencies: Seconds from when a request was due to its whole answer, of those with status 200.
        late: Seconds from when each request was due to when it was sent.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Asker:
    """Sends requests over connections that stay open."""

    def __init__(self, url: str, bodies: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        path = parts.path if parts.path not in ("", "/") else "/predict"
        self._requests = cycle(
            f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
            for body in bodies
        )
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, due: float, outcome: Outcome) -> None:
        """Send the next request and note its outcome."""
        request = next(self._requests)
        status = FAILED
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError):
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = (
                    self._free.pop() if self._free else await asyncio.open_connection(self._host, self._port)
                )
                outcome.late.append(perf_counter() - due)
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(headers["content-length"]))
                status = head[0].split()[1]
                if headers.get("connection") == "close":
                    writer.close()
                else:
                    self._free.append((reader, writer))
        outcome.statuses[status] += 1
        if status == "200":
            outcome.latencies.append(perf_counter() - due)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._free:
            writer.close()


async def load(asker: Asker, rate: float, seconds: float) -> Outcome:
    """Ask `rate` times a second, at equal distances."""
    outcome, tasks = Outcome(), []
    begun = perf_counter()
    for number in range(max(1, round(rate * seconds))):
        due = begun + number / rate
        if (wait := due - perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(asker.ask(due, outcome)))
    await asyncio.gather(*tasks)
    outcome.seconds = perf_counter() - begun
    asker.close()
    return outcome


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def lines(outcome: Outcome, rate: float, within_ms: float) -> Iterator[str]:
    """The outcome in words."""
    total = sum(outcome.statuses.values())
    took = outcome.seconds
    yield f"{total} requests, {rate:g}/s asked for, {total / took:.1f}/s in {took:.1f} s"
    yield "status: " + ", ".join(f"{status} {count}" for status, count in outcome.statuses.most_common())
    milliseconds = [1000 * latency for latency in outcome.latencies]
    shown = [f"p{100 * share:g} {quantile(milliseconds, share):.2f}" for share in QUANTILES]
    yield f"latency of status 200, ms: {', '.join(shown)}, max {max(milliseconds, default=math.nan):.2f}"
    good = sum(one <= within_ms for one in milliseconds)
    yield f"answered with 200 within {within_ms:g} ms: {100 * good / total:.2f} %"
    late = [1000 * one for one in outcome.late]
    worst = quantile(late, 0.99)
    latest = max(late, default=math.nan)
    yield f"sent late, ms: p50 {quantile(late, 0.5):.2f}, p99 {worst:.2f}, max {latest:.2f}"
    if worst > LATE_MS:
        yield (
            f"warning: the generator itself was late by over {LATE_MS:g} ms. Give it a CPU that the server "
            "does not use, or ask for a lower rate"
        )


def example(url: str) -> bytes:
    """The body that the server's own OpenAPI document gives as the example of a route."""
    parts = urlsplit(url)
    with urlopen(f"{parts.scheme}://{parts.netloc}/openapi.json", timeout=ANSWER_SECONDS) as stream:
        paths = json.load(stream)["paths"]
    path = parts.path if parts.path not in ("", "/") else "/predict"
    schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return json.dumps(schema["example"]).encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if every request was answered, even if refused."""
    parser = argparse.ArgumentParser(prog="python -m gauntlet.serving.load", description="Load a server.")
    parser.add_argument(
        "url", metavar="URL", help="http://HOST:PORT, or a route of it. Default route: /predict"
    )
    parser.add_argument("--rate", type=float, default=100.0, metavar="N", help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="for how long")
    bodies = "a file with one JSON body a line, sent in turn. Default: the server's own example"
    parser.add_argument("--bodies", type=Path, metavar="FILE", help=bodies)
    parser.add_argument("--within", type=float, default=50.0, metavar="MS", help="what a good answer takes")
    given = parser.parse_args(arguments)
    if min(given.rate, given.seconds) <= 0:
        parser.error("--rate and --seconds: expected numbers over 0")
    try:
        read = given.bodies and [line for line in given.bodies.read_bytes().splitlines() if line.strip()]
        asker = Asker(given.url, read or [example(given.url)])
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"{given.bodies or given.url}: cannot be read: {error}")
    outcome = uvloop.run(load(asker, given.rate, given.seconds))
    print(*lines(outcome, given.rate, given.within), sep="\n")
    return int(outcome.statuses[FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main())
