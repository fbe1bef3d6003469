"""The engine of models whose answers are made piece by piece: answers share steps, and join and end at any.

It has the methods of `engine.Engine`, and gives each piece to whoever asked for it.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from gauntlet.serving.engine import Batch, CostModel, Expired, Refused, RowError, Work
from gauntlet.serving.interface import Piece, Row, RowStreams, StreamModel

MOST_STREAMS = 8

OnPiece = Callable[[Piece], None]


@dataclass(eq=False)
class _Answer:
    """The answer to a row that waits or goes on.

    Attributes:
        left: How many tokens it may still have.
    """

    row: Row
    index: int
    work: Work
    on_piece: OnPiece | None
    left: int


class StreamEngine:
    """One model, its queue and the thread that computes. All methods are for one event loop."""

    def __init__(
        self,
        model: StreamModel,
        cost: CostModel,
        loop: asyncio.AbstractEventLoop,
        *,
        together: bool,
        queue_tokens: int,
        observe: Callable[[Batch], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Serve a model. `together`: whether answers may share steps; else one is made after the other.

        `cost` is that of a step with so many answers.
        """
        self.model, self.cost = model, cost
        self._most = MOST_STREAMS if together else 1
        self._queue_tokens, self._observe, self._clock = queue_tokens, observe, clock
        self._open: dict[Row, _Answer] = {}
        self._queue: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._thread.submit(self._run)

    def waiting_tokens(self) -> int:
        """The tokens that all answers may still have."""
        return sum(answer.left for answer in self._open.values())

    def submit(self, rows: Sequence[Row], deadline: float, on_piece: OnPiece | None = None) -> Work:
        """Queue the rows of a request, or raise `Refused`. `on_piece` is called with each piece."""
        self.admit(sum(row.length for row in rows), len(rows), deadline)
        now = self._clock()
        work = Work(rows, deadline, self._loop.create_future(), now)
        for index, row in enumerate(rows):
            self._open[row] = _Answer(row, index, work, on_piece, row.length)
            self._queue.put(self._open[row])
        return work

    def admit(self, tokens: int, _rows: int, deadline: float) -> None:
        """Raise `Refused` if so many more tokens have no place, or would not be made before the deadline."""
        now, waiting = self._clock(), self.waiting_tokens()
        if self._open and waiting + tokens > self._queue_tokens:
            message = (
                f"{waiting} tokens wait already, and with {tokens} more they are over {self._queue_tokens}"
            )
            raise Refused("queue", message, self._seconds(waiting))
        finished = self._seconds(waiting if len(self._open) >= self._most else 0) + self._seconds(tokens)
        if now + finished > deadline:
            left = max(0.0, deadline - now)
            message = f"it would be answered in {finished:.3f} s, and its deadline is in {left:.3f} s"
            raise Refused("deadline", message, finished - left)

    def abandon(self, work: Work) -> None:
        """Drop what waits of a request whose client has left, and end what has begun."""
        for row in work.rows:
            row.is_wanted = False
            self._open.pop(row, None)
        work.future.cancel()

    def close(self) -> None:
        """Take no more work."""
        for row in self._open:
            row.is_wanted = False
        self._queue.put(None)
        self._thread.shutdown(wait=False)

    def _seconds(self, tokens: int) -> float:
        """What so many tokens take, as many answers at once as there may be."""
        return tokens / self._most * self.cost(self._most)

    def _run(self) -> None:
        """Make answers until `close`, in the inference thread."""
        active: dict[Row, _Answer] = {}
        streams = self.model.streams()
        while True:
            while len(active) < self._most:
                try:
                    one = self._queue.get(block=not active)
                except queue.Empty:
                    break
                if one is None:
                    return
                self._begin(one, streams, active)
            for row in [row for row in active if not row.is_wanted]:
                streams.drop(row)
                del active[row]
            if not active:
                continue
            begun, size = self._clock(), len(active)
            try:
                pieces = streams.step()
            except Exception as error:  # whatever the runtime raises ends these answers, and not the server
                for one in active.values():
                    self._tell(one, error)
                active, streams = {}, self.model.streams()
                continue
            seconds = self._clock() - begun
            self._loop.call_soon_threadsafe(self._stepped, size, seconds)
            for piece in pieces:
                self._tell(active[piece.row], piece)
                if piece.finish is not None:
                    del active[piece.row]

    def _begin(self, one: _Answer, streams: RowStreams, active: dict[Row, _Answer]) -> None:
        """Read a row's question, in the inference thread."""
        if not one.row.is_wanted:
            return
        if one.work.deadline < self._clock():
            self._tell(one, Expired("the deadline passed before the work was begun"))
            return
        one.work.queued = self._clock() - one.work.arrived
        one.work.batch_rows = max(one.work.batch_rows, len(active) + 1)
        try:
            piece = streams.join(one.row)
        except Exception as error:  # of this row alone
            self._tell(one, RowError(one.index, error))
            return
        self._tell(one, piece)
        if piece.finish is None:
            active[one.row] = one

    def _tell(self, one: _Answer, news: Piece | Exception) -> None:
        self._loop.call_soon_threadsafe(self._told, one, news)

    def _stepped(self, size: int, seconds: float) -> None:
        self.cost.observe(size, seconds)
        self._observe(Batch(size, size, size, seconds, ()))

    def _told(self, one: _Answer, news: Piece | Exception) -> None:
        """Pass a piece, or what went wrong, on to who waits for it."""
        work = one.work
        if isinstance(news, Exception):
            if not work.future.done():
                error = news if isinstance(news, Expired | RowError) else RowError(one.index, news)
                work.future.set_exception(error)
            for row in work.rows:  # all or nothing
                row.is_wanted = False
                self._open.pop(row, None)
            return
        one.left = one.row.length - news.tokens
        if one.on_piece is not None and one.row.is_wanted:
            one.on_piece(news)
        if news.answer is None:
            return
        self._open.pop(one.row, None)
        work.answers[one.index] = news.answer
        work.computed = self._clock() - work.arrived - work.queued
        if len(work.answers) == len(work.rows) and not work.future.done():
            work.future.set_result([work.answers[at] for at in range(len(work.rows))])
