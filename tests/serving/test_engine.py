"""Which rows the engine takes together, what it refuses, and what a row that fails does to others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gauntlet.serving.engine import LONGEST_WAIT, CostModel, Engine, Expired, Refused, RowError
from gauntlet.serving.interface import Answer, Field, Part, Row
from gauntlet.serving.server import may_share
from gauntlet.serving.settings import Batching


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


FIXED, PER_TOKEN = 0.01, 0.001


class Slow:
    """A model that computes when a test lets it; a row of 13 tokens is one that it fails at.

    On the test's clock a batch takes 10 ms and 1 ms for each token, with padding.
    """

    parameters: Mapping[str, int] = {}
    most_rows: int | None = None
    medium = "text"
    columns = ("text",)
    fields: tuple[Field, ...] = ()
    lengths = (1,)
    session: Any = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.free = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        self.batches.append([row.length for row in rows])
        assert self.free.wait(60)
        self._clock.now += FIXED + PER_TOKEN * len(rows) * max(row.length for row in rows)
        if any(row.length == 13 for row in rows):
            raise ValueError("found 13")
        return [Answer({}, {"length": row.length}) for row in rows]

    def sample(self, length: int) -> Row:
        return row(length)

    def read(self, parts: Sequence[Part], parameters: Mapping[str, int], most_pixels: int) -> Row:
        raise NotImplementedError

    def answer(self, request: object) -> list[Answer]:
        raise NotImplementedError

    def prove(self, bound: float) -> str:
        raise NotImplementedError

    def golden(self) -> list[list[float]]:
        raise NotImplementedError


def row(length: int) -> Row:
    return Row({"input_ids": np.zeros((1, length), dtype=np.int64)}, length)


def costs() -> CostModel:
    """A cost model that has seen what the model takes."""
    cost = CostModel({}, 1)
    for tokens in (1, 10, 100):
        cost.observe(tokens, FIXED + PER_TOKEN * tokens)
    return cost


class Bench:
    """An engine whose model is busy with a first row of one token."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.model = Slow(self.clock)
        options = {"together": True, "batch_tokens": 64, "queue_tokens": 1000, **settings}
        self.engine = Engine(self.model, costs(), clock=self.clock, **options)
        self.first = self.submit(1)

    def submit(self, *lengths: int, within: float = 1000.0) -> asyncio.Future[list[Answer]]:
        rows = [row(length) for length in lengths]
        return self.engine.submit(rows, self.clock.now + within).future

    async def finish(self, *futures: asyncio.Future[Any]) -> list[Any]:
        self.model.free.set()
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)


def test_costs_are_those_of_least_squares_and_follow_the_machine() -> None:
    cost = costs()
    assert (cost.fixed, cost.per_token) == (pytest.approx(0.01), pytest.approx(0.001))
    assert cost(20, batches=2) == pytest.approx(0.04)
    for _ in range(300):  # the machine has become three times as slow
        for tokens in (1, 10, 100):
            cost.observe(tokens, 0.03 + 0.003 * tokens)
    assert (cost.fixed, cost.per_token) == (pytest.approx(0.03, rel=0.02), pytest.approx(0.003, rel=0.02))


def test_costs_begin_with_the_latencies_of_the_bundle() -> None:
    cost = CostModel({"1": 2.0, "32": 33.0}, 10)  # 1 ms for each row, and 1 ms more
    assert cost(320) == pytest.approx(0.033, rel=1e-6)
    assert cost(10) == pytest.approx(0.002, rel=1e-6)


def test_costs_of_batches_of_one_size_are_never_negative() -> None:
    cost = CostModel({}, 1)
    for seconds in (0.5, 0.01, 0.3):
        cost.observe(7, seconds)
    assert cost.fixed >= 0
    assert cost.per_token > 0


@pytest.mark.parametrize(
    ("batching", "label_changes", "bound", "together"),
    [
        ("safe", 0, 0.0, True),
        ("safe", 2, 0.0, False),
        ("safe", 2, 0.03, True),  # 2 of 96 are 2.1 %
        ("safe", 2, 0.02, False),
        ("safe", None, 1.0, False),  # not measured
        ("off", 0, 1.0, False),
        ("on", 96, 0.0, True),
    ],
)
def test_rows_share_a_batch_where_few_enough_labels_change_with_it(
    batching: Batching, label_changes: int | None, bound: float, together: bool
) -> None:
    measured = {} if label_changes is None else {"rows": 96, "label_changes": label_changes}
    assert may_share(batching, {"neighbours": measured, "max_neighbour_flips": bound}) is together
    assert may_share(batching, {"neighbours": measured, "max_neighbour_flips": "much"}) is (batching == "on")


def test_an_idle_model_computes_at_once_and_then_takes_what_has_come_meanwhile_by_length() -> None:
    async def run() -> None:
        bench = Bench()
        waiting = [bench.submit(length) for length in (5, 30, 6, 31, 4)]
        answers = await bench.finish(bench.first, *waiting)
        assert [one[0].content["length"] for one in answers] == [1, 5, 30, 6, 31, 4]
        first, second, third = bench.model.batches
        assert (first, sorted(second), sorted(third)) == ([1], [4, 5, 6], [30, 31])

    asyncio.run(run())


def test_two_threads_share_what_waits_and_compute_at_once() -> None:
    async def run() -> None:
        bench = Bench(workers=2)  # the first row keeps one of them busy
        second = bench.submit(1, 1, 1)
        third = bench.submit(5, 5, 5, 5)
        bench.model.free.set()
        await asyncio.wait_for(asyncio.gather(bench.first, second, third), 60)
        assert sorted(map(len, bench.model.batches[:2])) == [1, 3]  # the other took all three at once
        assert sum(map(len, bench.model.batches)) == 8
        idle = bench.submit(*[3] * 6)  # both are free: each takes a half
        await asyncio.wait_for(idle, 60)
        assert [len(batch) for batch in bench.model.batches[-2:]] == [3, 3]

    asyncio.run(run())


def test_a_batch_keeps_its_tokens_with_padding_within_the_budget() -> None:
    async def run() -> None:
        bench = Bench(batch_tokens=64)
        waiting = [bench.submit(16) for _ in range(7)]
        await bench.finish(bench.first, *waiting)
        assert [len(batch) for batch in bench.model.batches] == [1, 4, 3]

    asyncio.run(run())


def test_a_batch_may_be_larger_than_the_budget_only_if_it_is_one_row() -> None:
    async def run() -> None:
        bench = Bench(batch_tokens=64)
        await bench.finish(bench.submit(100), bench.submit(100))
        assert bench.model.batches == [[1], [100], [100]]

    asyncio.run(run())


def test_rows_are_alone_where_neighbours_may_change_them() -> None:
    async def run() -> None:
        bench = Bench(together=False)
        await bench.finish(bench.submit(5, 5), bench.submit(5))
        assert bench.model.batches == [[1], [5], [5], [5]]

    asyncio.run(run())


def test_a_long_text_goes_before_all_that_came_later_than_the_longest_wait() -> None:
    async def run() -> None:
        bench = Bench(batch_tokens=8)
        long = bench.submit(50, within=900)
        bench.clock.now = LONGEST_WAIT / 2
        early = bench.submit(4, 4, within=0.2)  # more urgent by its deadline
        bench.clock.now = LONGEST_WAIT * 1.01
        late = [bench.submit(4, 4, within=0.3) for _ in range(3)]
        await bench.finish(long, early, *late)
        order = [batch[0] for batch in bench.model.batches]
        assert order.index(50) <= 2

    asyncio.run(run())


def test_a_request_of_which_one_row_fails_is_named_and_the_others_of_its_batch_are_answered() -> None:
    async def run() -> None:
        bench = Bench()
        wrong, right = bench.submit(12, 13), bench.submit(13 - 1)
        _, failed, answered = await bench.finish(bench.first, wrong, right)
        assert isinstance(failed, RowError)
        assert str(failed) == "instances[1]: found 13"
        assert answered[0].content == {"length": 12}
        assert sorted(bench.model.batches[1]) == [12, 12, 13]

    asyncio.run(run())


def test_what_would_be_late_is_refused_and_what_is_in_time_is_not() -> None:
    async def run() -> None:
        bench = Bench()  # the first row takes 11 ms
        waiting = bench.submit(10)  # 20 ms more
        with pytest.raises(Refused) as refused:
            bench.submit(10, within=0.050)  # 51 ms
        assert refused.value.reason == "deadline"
        assert refused.value.retry_after == pytest.approx(0.001, abs=1e-6)
        taken = bench.submit(10, within=0.052)
        await bench.finish(waiting, taken)

    asyncio.run(run())


def test_a_queue_that_is_full_refuses_until_it_has_room() -> None:
    async def run() -> None:
        bench = Bench(queue_tokens=20)
        waiting = bench.submit(15)
        with pytest.raises(Refused) as refused:
            bench.submit(6)
        assert refused.value.reason == "queue"
        await bench.finish(waiting, bench.submit(5))
        assert bench.engine.waiting_tokens() == 0

    asyncio.run(run())


def test_work_whose_deadline_has_passed_and_whose_client_has_left_is_never_computed() -> None:
    async def run() -> None:
        bench = Bench()
        expired, kept = bench.submit(20, within=5), bench.submit(40)
        left = bench.engine.submit([row(30)], 1000.0)
        bench.engine.abandon(left)
        bench.clock.now = 6.0
        found, _ = await bench.finish(expired, kept)
        assert isinstance(found, Expired)
        assert left.future.cancelled()
        assert not left.rows[0].is_wanted
        assert bench.model.batches == [[1], [40]]
        assert bench.engine.waiting_tokens() == 0

    asyncio.run(run())
