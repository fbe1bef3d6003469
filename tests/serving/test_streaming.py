"""Answers that are made piece by piece: which share steps, which are refused, and who hears of a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gauntlet.serving.engine import CostModel, Refused, RowError, Work
from gauntlet.serving.interface import Answer, Piece, Row
from gauntlet.serving.streaming import MOST_STREAMS, StreamEngine

STEP = 0.01


class Counting:
    """A model that answers with 1, 2, 3 …; it steps when a test lets it, and fails at a row of 13 tokens."""

    def __init__(self) -> None:
        self.may_step = threading.Semaphore(0)
        self.steps: list[int] = []

    def streams(self) -> CountingStreams:
        return CountingStreams(self)


class CountingStreams:
    def __init__(self, model: Counting) -> None:
        self._model = model
        self._rows: dict[Row, int] = {}

    def join(self, row: Row) -> Piece:
        if row.length == 13:
            raise ValueError("found 13")
        self._rows[row] = 0
        return self._next(row)

    def step(self) -> list[Piece]:
        assert self._model.may_step.acquire(timeout=60)
        self._model.steps.append(len(self._rows))
        return [self._next(row) for row in list(self._rows)]

    def drop(self, row: Row) -> None:
        del self._rows[row]

    def _next(self, row: Row) -> Piece:
        self._rows[row] += 1
        tokens = self._rows[row]
        if tokens < row.length:
            return Piece(row, str(tokens), tokens)
        del self._rows[row]
        return Piece(row, str(tokens), tokens, "length", Answer({}, {"answer": tokens}))


def row(length: int) -> Row:
    return Row({"input_ids": np.zeros((1, 1), dtype=np.int64)}, length)


class Bench:
    """An engine whose steps take 10 ms, by what it knows."""

    def __init__(self, **settings: Any) -> None:
        self.model: Any = Counting()
        cost = CostModel({}, 1)
        for size in (1, MOST_STREAMS):
            cost.observe(size, STEP)
        options: Mapping[str, Any] = {"together": True, "queue_tokens": 100, **settings}
        self.engine = StreamEngine(self.model, cost, asyncio.get_running_loop(), clock=lambda: 0.0, **options)
        self.pieces: asyncio.Queue[Piece] = asyncio.Queue()

    def submit(self, *lengths: int, within: float = 100.0) -> Work:
        return self.engine.submit([row(length) for length in lengths], within, self.pieces.put_nowait)

    async def next(self) -> Piece:
        return await asyncio.wait_for(self.pieces.get(), 60)

    async def finish(self, *works: Work) -> list[Any]:
        for _ in range(100):
            self.model.may_step.release()
        futures = [work.future for work in works]
        found = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)
        self.engine.close()
        return found


def test_an_answer_joins_those_that_go_on_and_each_piece_is_told_at_once() -> None:
    async def run() -> None:
        bench = Bench()
        first = bench.submit(4)
        assert (await bench.next()).text == "1"  # before any step is made
        second = bench.submit(3)
        answers = await bench.finish(first, second)
        assert [one[0].content for one in answers] == [{"answer": 4}, {"answer": 3}]
        assert max(bench.model.steps) == 2
        assert sum(bench.model.steps) == 3 + 2  # the first piece needs no step
        assert bench.engine.waiting_tokens() == 0

    asyncio.run(run())


def test_answers_share_no_step_where_they_may_not() -> None:
    async def run() -> None:
        bench = Bench(together=False)
        await bench.finish(bench.submit(3, 3), bench.submit(2))
        assert bench.model.steps == [1] * 5

    asyncio.run(run())


def test_an_answer_whose_client_leaves_ends_and_makes_no_more_steps() -> None:
    async def run() -> None:
        bench = Bench()
        left = bench.submit(90)
        await bench.next()
        bench.engine.abandon(left)
        kept = bench.submit(3)
        [answer] = await bench.finish(kept)
        assert answer[0].content == {"answer": 3}
        assert left.future.cancelled()
        assert len(bench.model.steps) <= 4  # one may have been begun

    asyncio.run(run())


def test_a_row_that_fails_fails_its_own_request() -> None:
    async def run() -> None:
        bench = Bench()
        failed, answered = await bench.finish(bench.submit(2, 13), bench.submit(2))
        assert isinstance(failed, RowError)
        assert str(failed) == "instances[1]: found 13"
        assert answered[0].content == {"answer": 2}

    asyncio.run(run())


def test_what_cannot_be_answered_in_time_or_is_too_much_is_refused() -> None:
    async def run() -> None:
        bench = Bench(together=False)
        first = bench.submit(50)  # 0.5 s
        for length, within, reason in ((10, 0.55, "deadline"), (60, 100.0, "queue")):
            with pytest.raises(Refused) as refused:
                bench.submit(length, within=within)
            assert refused.value.reason == reason
            assert refused.value.retry_after > 0
        await bench.finish(first, bench.submit(10, within=0.65))

    asyncio.run(run())
