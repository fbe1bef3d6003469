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
import json
import math
import re
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit
from urllib.request import urlopen

QUANTILES = (0.5, 0.9, 0.99, 0.999)
ANSWER_SECONDS = 60.0
LATE_MS = 1.0
FAILED, WRONG = "no answer", "wrong answer"
RECEIVED_AT_ONCE = 65_536
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


@dataclass
class Outcome:
    """What came of all requests.

    Attributes:
        statuses: How many had each HTTP status, no answer, or one that the check of the answers refuses.
        latencies: Seconds from when a request was due to its whole answer, of those with status 200.
        late: Seconds from when each request was due to when it was sent.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Connection:
    """A connection that stays open, with one request at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.due = 0.0
        self.asked = self.head = self.body = b""
        self._left = self._found = b""

    def ask(self, head: bytes, body: bytes, due: float) -> bool:
        """Begin to send a request; return whether all of it is sent."""
        self.asked, self.due, self._left, self._found = body, due, head + body, b""
        return self.send()

    def send(self) -> bool:
        """Send what is left; return whether that was all."""
        with suppress(BlockingIOError):
            self._left = self._left[self.socket.send(self._left) :]
        return not self._left

    def receive(self) -> tuple[str, bool] | None:
        """The status of the answer and whether the connection stays open, once the whole answer has come.

        The answer is `head`, in lower case, and `body`, to the request with the body `asked`.

        Raises:
            OSError, ValueError: The connection is closed, or its answer has no length.
        """
        with suppress(BlockingIOError):
            data = self.socket.recv(RECEIVED_AT_ONCE)
            if not data:
                raise ConnectionError
            self._found += data
        head, ends, body = self._found.partition(b"\r\n\r\n")
        if not ends:
            return None
        head = head.lower()
        length = LENGTH.search(head)
        if length is None:
            raise ValueError("the answer has no content-length")
        if len(body) < int(length[1]):
            return None
        self.head, self.body = head, body
        return head[9:12].decode("latin-1"), b"\r\nconnection: close" not in head


class Asker:
    """Sends requests in turn over connections that stay open, each when it is due.

    There is no event loop: its timers are as coarse as a millisecond, and a request costs several times as
    much of the CPU that the server may need.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[bytes],
        headers: Mapping[str, str] | None = None,
        keys: int = 0,
        check: Callable[[Connection], bool] | None = None,
    ) -> None:
        """Send `bodies` in turn, and with `keys` so many keys in turn.

        `check` says whether the answer that a connection holds is right.
        """
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        path = parts.path if parts.path not in ("", "/") else "/predict"
        sent = {"host": parts.netloc, "content-type": "application/json", **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        named = [f"x-gauntlet-key: key{number}\r\n" for number in range(keys)] or [""]
        self._requests = (
            (f"POST {path} HTTP/1.1\r\n{head}{key}content-length: {len(body)}\r\n\r\n".encode(), body)
            for body, key in zip(cycle(bodies), cycle(named), strict=False)
        )
        self._check = check
        self._poll = select.epoll()
        self._free: list[Connection] = []
        self._busy: dict[int, Connection] = {}  # by file descriptor
        self._outcome = Outcome()

    def load(self, rate: float, seconds: float, is_over: Callable[[], bool] | None = None) -> Outcome:
        """Ask `rate` times a second at equal distances, and wait for the answers.

        It ends after `seconds`, or as soon as `is_over` says so.
        """
        self._outcome = outcome = Outcome()
        address = (self._host, self._port)
        with suppress(OSError):
            address = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][4][:2]  # type: ignore[assignment]
        begun = perf_counter()
        for number in range(max(1, round(rate * seconds))):
            if is_over is not None and is_over():
                break
            due = begun + number / rate
            while (wait := due - perf_counter()) > 0:
                self._wait(wait)
            self._ask(due, address)
        ends = perf_counter() + ANSWER_SECONDS
        while self._busy and (wait := ends - perf_counter()) > 0:
            self._wait(wait)
        for one in (*self._busy.values(),):
            self._end(one, FAILED, stays=False)
        outcome.seconds = perf_counter() - begun
        return outcome

    def close(self) -> None:
        """Close all connections."""
        for one in self._free:
            one.socket.close()
        self._poll.close()

    def _ask(self, due: float, address: tuple[str, int]) -> None:
        is_new = not self._free
        one = Connection(address) if is_new else self._free.pop()
        number = one.socket.fileno()
        self._busy[number] = one
        if is_new:
            self._poll.register(number, select.EPOLLIN)
        self._outcome.late.append(perf_counter() - due)
        try:
            if not one.ask(*next(self._requests), due):
                self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._end(one, FAILED, stays=False)

    def _wait(self, seconds: float) -> None:
        """Read answers for a while. A timeout of `epoll` would be in whole milliseconds."""
        if not select.select([self._poll], [], [], seconds)[0]:
            return
        for number, event in self._poll.poll(0):
            one = self._busy.get(number)
            if one is None:  # the server has closed a connection without a request
                [one] = [free for free in self._free if free.socket.fileno() == number]
                self._free.remove(one)
                one.socket.close()
                continue
            try:
                if event & select.EPOLLOUT and one.send():
                    self._poll.modify(number, select.EPOLLIN)
                if event & ~select.EPOLLOUT and (answered := one.receive()):
                    self._end(one, *answered)
            except (OSError, ValueError):
                self._end(one, FAILED, stays=False)

    def _end(self, one: Connection, status: str, stays: bool) -> None:
        if status != FAILED and self._check is not None and not self._check(one):
            status = WRONG
        if status == "200":
            self._outcome.latencies.append(perf_counter() - one.due)
        self._outcome.statuses[status] += 1
        del self._busy[one.socket.fileno()]
        if stays:
            self._free.append(one)
        else:
            one.socket.close()


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
    keys = "how many users ask in turn: each has its X-Gauntlet-Key. Default: no key"
    parser.add_argument("--keys", type=int, default=0, metavar="N", help=keys)
    given = parser.parse_args(arguments)
    if min(given.rate, given.seconds) <= 0 or given.keys < 0:
        parser.error("--rate and --seconds: expected numbers over 0; --keys: 0 or more")
    try:
        read = given.bodies and [line for line in given.bodies.read_bytes().splitlines() if line.strip()]
        asker = Asker(given.url, read or [example(given.url)], keys=given.keys)
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"{given.bodies or given.url}: cannot be read: {error}")
    outcome = asker.load(given.rate, given.seconds)
    asker.close()
    print(*lines(outcome, given.rate, given.within), sep="\n")
    return int(outcome.statuses[FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main())
