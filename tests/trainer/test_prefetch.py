from __future__ import annotations

import threading

import pytest

from gauntlet.trainer.replica import prefetched


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_results_come_in_order_whatever_is_prepared_ahead(ahead: int) -> None:
    assert list(prefetched(lambda item: item * item, range(20), ahead)) == [i * i for i in range(20)]


def test_while_one_result_is_used_the_next_is_prepared() -> None:
    prepared = threading.Event()

    def prepare(item: int) -> int:
        if item == 2:
            prepared.set()
        return item

    results = prefetched(prepare, range(5), ahead=2)
    assert next(results) == 0
    assert prepared.wait(timeout=60)


def test_nothing_is_prepared_ahead_of_its_use_when_none_is_asked_for() -> None:
    asked: list[int] = []
    results = prefetched(asked.append, range(5), ahead=0)
    next(results)
    assert asked == [0]


def test_an_error_appears_where_its_result_is_asked_for_and_the_thread_ends() -> None:
    results = prefetched(lambda item: 6 / item, [3, 2, 0, 1], ahead=2)
    assert [next(results), next(results)] == [2.0, 3.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_leaving_early_ends_the_thread() -> None:
    results = prefetched(str, range(100), ahead=2)
    assert next(results) == "0"
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
