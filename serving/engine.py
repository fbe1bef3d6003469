"""Decides which rows a model computes next, and refuses work that cannot be done in time.

Rows of all requests wait in one queue. The engine never waits for more of them: when a thread is free, it
computes what is there. When all are busy, the next batch is made around the most urgent row, of rows of
about its length, as long as computing them together takes less time than computing them one by one.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from time import monotonic

from gauntlet.serving.interface import Answer, Row, RowModel

LONGEST_WAIT = 0.5
"""Seconds after which a waiting row goes before any that came later, whatever their deadlines are."""
MOST_ROWS = 64
SMALL_SHARE = 0.05
"""A batch is large enough once its fixed time is this part of it: a larger one is hardly faster for each row,
and makes its rows, and those that come meanwhile, wait for all of it.
"""
FORGETTING = 0.98
"""What each new measurement multiplies the weight of all earlier ones by."""
MOST_SURPRISING = 4
"""A measurement counts as if at least this part of it had been expected."""
LEAST_PER_TOKEN = 1e-9


class Refused(Exception):
    """Work that is not begun. `retry_after` is in seconds, `reason` one word for a header and a metric."""

    def __init__(self, reason: str, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Expired(Exception):
    """Work that cannot be done before its deadline anymore."""


class RowError(Exception):
    """The model failed at one row of a request; `index` counts the request's rows from 0."""

    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(f"instances[{index}]: {cause}")
        self.index = index


class CostModel:
    """The seconds of a batch: `fixed` + `per_token` × its tokens with padding, fitted to what was measured.

    Least squares of the relative error, so that small batches count as much as large ones. Earlier
    measurements count less and less, so that it follows the machine's load.
    """

    def __init__(self, latency_ms: Mapping[str, float | None], tokens_per_row: float) -> None:
        """Begin with a bundle's latencies by batch size, measured on rows of about `tokens_per_row`."""
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self.fixed, self.per_token = 0.0, LEAST_PER_TOKEN
        for size, milliseconds in latency_ms.items():
            if milliseconds is not None:
                self.observe(int(size) * tokens_per_row, milliseconds / 1000)

    def observe(self, tokens: float, seconds: float) -> None:
        """Take a measured batch into account."""
        weight = 1 / max(self(tokens), seconds / MOST_SURPRISING, LEAST_PER_TOKEN) ** 2
        self._weight = self._weight * FORGETTING + weight
        self._x = self._x * FORGETTING + weight * tokens
        self._y = self._y * FORGETTING + weight * seconds
        self._xx = self._xx * FORGETTING + weight * tokens * tokens
        self._xy = self._xy * FORGETTING + weight * tokens * seconds
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x**2
        if variance > 1e-6 * max(1.0, mean_x**2):  # else all batches were alike, and the slope stays
            self.per_token = (self._xy / self._weight - mean_x * mean_y) / variance
        self.per_token = min(max(self.per_token, LEAST_PER_TOKEN), mean_y / mean_x)
        self.fixed = mean_y - self.per_token * mean_x

    def __call__(self, tokens: float, batches: float = 1) -> float:
        """The seconds of some batches that have so many tokens together."""
        return batches * self.fixed + tokens * self.per_token


@dataclass(eq=False)
class Work:
    """The rows of one request.

    Attributes:
        deadline: On the clock of `monotonic`.
        waiting, answers: Its rows in the queue, and the answers that were found, by position.
        queued: Seconds that its last row waited; `computed`: that the batches with its rows took.
        batch_rows: How many rows the largest of these batches had.
    """

    rows: Sequence[Row]
    deadline: float
    future: asyncio.Future[list[Answer]]
    arrived: float
    waiting: dict[int, _Waiting] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    queued: float = 0.0
    computed: float = 0.0
    batch_rows: int = 0


@dataclass(eq=False, slots=True)
class _Waiting:
    """A row in the queue. Rows are ordered by length; `number` makes the order unique."""

    row: Row
    index: int
    work: Work
    number: int

    @property
    def key(self) -> tuple[int, int]:
        return self.row.length, self.number


@dataclass(frozen=True)
class Batch:
    """A batch that was computed, for metrics."""

    rows: int
    tokens: int
    padded_tokens: int
    seconds: float
    waited: Sequence[float]


class Engine:
    """One model, its queue and the threads that compute. All methods are for one event loop."""

    def __init__(
        self,
        model: RowModel,
        cost: CostModel,
        *,
        workers: int = 1,
        together: bool,
        batch_tokens: int,
        queue_tokens: int,
        observe: Callable[[Batch], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Serve a model.

        `workers` is how many batches are computed at once. `together`: whether rows may share a batch at
        all; else each is computed alone.
        """
        self.model = model
        self._workers = workers
        self.cost = cost
        self._most_rows = (model.most_rows or MOST_ROWS) if together else 1
        self._batch_tokens, self._queue_tokens = batch_tokens, queue_tokens
        self._observe, self._clock = observe, clock
        self._urgent: list[tuple[float, int, _Waiting]] = []  # a heap; may hold rows that are gone
        self._by_length: list[_Waiting] = []
        self._numbers = count()
        self._waiting_tokens = 0
        self._ends: dict[int, float] = {}  # when each batch that is being computed is expected to end
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="inference")

    def waiting_tokens(self) -> int:
        """The tokens of all rows that wait."""
        return self._waiting_tokens

    def submit(self, rows: Sequence[Row], deadline: float) -> Work:
        """Queue the rows of a request, or raise `Refused`."""
        tokens = sum(row.length for row in rows)
        self.admit(tokens, len(rows), deadline)
        now = self._clock()
        work = Work(rows, deadline, asyncio.get_running_loop().create_future(), now)
        for index, row in enumerate(rows):
            waiting = _Waiting(row, index, work, next(self._numbers))
            work.waiting[index] = waiting
            heapq.heappush(self._urgent, (min(deadline, now + LONGEST_WAIT), waiting.number, waiting))
            insort(self._by_length, waiting, key=lambda one: one.key)
        self._waiting_tokens += tokens
        self._dispatch()
        return work

    def admit(self, tokens: int, rows: int, deadline: float) -> None:
        """Raise `Refused` if so much more work has no place, or would not be done before its deadline."""
        now = self._clock()
        if self._by_length and self._waiting_tokens + tokens > self._queue_tokens:
            raise Refused(
                "queue",
                f"{self._waiting_tokens} tokens wait already, and with {tokens} more they are over the "
                f"{self._queue_tokens} that may wait",
                self._seconds(self._waiting_tokens, len(self._by_length)),
            )
        begin = now if len(self._ends) < self._workers else max(now, min(self._ends.values()))
        ahead = begin - now + self._seconds(self._waiting_tokens, len(self._by_length))
        finished = ahead + max(self._seconds(tokens, rows), self.cost(tokens / rows))
        if now + finished > deadline:
            left = max(0.0, deadline - now)
            message = f"it would be answered in {finished:.3f} s, and its deadline is in {left:.3f} s"
            raise Refused("deadline", message, finished - left)

    def abandon(self, work: Work) -> None:
        """Drop what waits of a request whose client has left; a long answer is ended."""
        for row in work.rows:
            row.is_wanted = False
        self._remove(list(work.waiting.values()))
        work.future.cancel()

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _seconds(self, tokens: int, rows: int) -> float:
        """What rows that wait will take, in as few batches as they fit into, all threads at work."""
        batches = max(math.ceil(tokens / self._batch_tokens), math.ceil(rows / self._most_rows))
        return self.cost(tokens, batches) / self._workers

    def _dispatch(self) -> None:
        while len(self._ends) < self._workers and (chosen := self.choose()):
            self._begin(chosen)

    def _begin(self, chosen: Sequence[_Waiting]) -> None:
        now, rows = self._clock(), [one.row for one in chosen]
        padded = len(rows) * max(row.length for row in rows)
        number = next(self._numbers)
        self._ends[number] = now + self.cost(padded)
        for one in chosen:
            one.work.queued = max(one.work.queued, now - one.work.arrived)
            one.work.batch_rows = max(one.work.batch_rows, len(rows))
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, self._compute, rows)
        done.add_done_callback(lambda found: self._finished(number, chosen, padded, now, found))

    def choose(self) -> list[_Waiting]:
        """Take the next batch out of the queue."""
        now = self._clock()
        while self._urgent:
            _, _, seed = self._urgent[0]
            at = bisect_left(self._by_length, seed.key, key=lambda one: one.key)
            if at == len(self._by_length) or self._by_length[at] is not seed:
                heapq.heappop(self._urgent)  # it was computed or dropped
            elif seed.work.deadline < now + self.cost(seed.row.length):
                self._fail(seed.work, Expired("it could not be done before its deadline anymore"))
            else:
                chosen = self._around(at, now)
                self._remove(chosen)
                return chosen
        return []

    def _around(self, at: int, now: float) -> list[_Waiting]:
        """The row at a place of the queue, and its neighbours by length that are worth taking with it."""
        low, high, longest = at, at + 1, self._by_length[at].row.length
        deadline = self._by_length[at].work.deadline
        share = math.ceil(len(self._by_length) / (self._workers - len(self._ends)))  # of each free thread
        while high - low < min(share, self._most_rows):
            size = high - low
            shorter = self._by_length[low - 1] if low > 0 else None
            longer = self._by_length[high] if high < len(self._by_length) else None
            wasted_left = math.inf if shorter is None else longest - shorter.row.length
            wasted_right = math.inf if longer is None else (longer.row.length - longest) * size
            one = shorter if wasted_left <= wasted_right else longer
            if one is None or self.cost.fixed <= SMALL_SHARE * self.cost(size * longest):
                break
            width = max(longest, one.row.length)
            more = self.cost((size + 1) * width) - self.cost(size * longest)
            ends = now + self.cost((size + 1) * width)
            if (
                (size + 1) * width > self._batch_tokens
                or more > self.cost(one.row.length)
                or ends > min(deadline, one.work.deadline)
            ):
                break
            longest, deadline = width, min(deadline, one.work.deadline)
            low, high = (low - 1, high) if one is shorter else (low, high + 1)
        return self._by_length[low:high]

    def _remove(self, chosen: Iterable[_Waiting]) -> None:
        for one in chosen:
            del self._by_length[bisect_left(self._by_length, one.key, key=lambda other: other.key)]
            del one.work.waiting[one.index]
            self._waiting_tokens -= one.row.length

    def _compute(self, rows: Sequence[Row]) -> list[Answer | Exception]:
        """The answers, in the inference thread. If a batch fails, each row is computed alone."""
        try:
            return list(self.model.run(rows))
        except Exception as error:  # whatever the runtime raises is an answer to one request, not an end
            if len(rows) == 1:
                return [error]
            return [one for row in rows for one in self._compute([row])]

    def _finished(
        self,
        number: int,
        chosen: Sequence[_Waiting],
        padded: int,
        started: float,
        found: asyncio.Future[list[Answer | Exception]],
    ) -> None:
        if found.cancelled():  # the server is ending
            return
        del self._ends[number]
        seconds = self._clock() - started
        self.cost.observe(padded, seconds)
        waited = [started - one.work.arrived for one in chosen]
        self._observe(Batch(len(chosen), sum(one.row.length for one in chosen), padded, seconds, waited))
        for work in {id(one.work): one.work for one in chosen}.values():
            work.computed += seconds
        for one, answer in zip(chosen, found.result(), strict=True):
            if isinstance(answer, Exception):
                self._fail(one.work, RowError(one.index, answer))
                continue
            one.work.answers[one.index] = answer
            if len(one.work.answers) == len(one.work.rows) and not one.work.future.done():
                one.work.future.set_result([one.work.answers[at] for at in range(len(one.work.rows))])
        self._dispatch()

    def _fail(self, work: Work, error: Exception) -> None:
        self._remove(list(work.waiting.values()))
        if not work.future.done():
            work.future.set_exception(error)
