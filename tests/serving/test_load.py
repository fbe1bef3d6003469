"""The load generator against a server, and its percentiles."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from gauntlet.serving.load import FAILED, WRONG, Asker, Outcome, lines, main, quantile
from tests.serving.running import running
from tests.text_bundles import certified


def test_a_percentile_is_a_measured_value_that_as_many_do_not_exceed() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50.0, 99.0, 100.0, 100.0]
    assert quantile([3.0], 0.01) == 3.0
    assert math.isnan(quantile([], 0.5))


def test_what_was_refused_or_late_is_not_good() -> None:
    outcome = Outcome(Counter({"200": 3, "429": 1}), [0.010, 0.049, 0.2], [0.0001] * 4, 2.0)
    said = "\n".join(lines(outcome, 2.0, 50.0))
    assert "4 requests, 2/s asked for, 2.0/s in 2.0 s" in said
    assert "status: 200 3, 429 1" in said
    assert "p50 49.00" in said
    assert "answered with 200 within 50 ms: 50.00 %" in said
    assert "warning" not in said
    late = Outcome(Counter({"200": 1}), [0.01], [0.002], 1.0)
    assert "the generator itself was late" in "\n".join(lines(late, 1.0, 50.0))


def test_a_server_is_asked_with_its_own_example_or_with_a_file_of_bodies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bodies").write_text('{"instances": ["good"]}\n\n{"instances": [3]}\n')
    with running(str(certified(tmp_path))) as server:
        assert main([server.url, "--rate", "20", "--seconds", "1"]) == 0
        assert "status: 200 20" in capsys.readouterr().out
        asked = [server.url + "/v1/models/moods:predict", "--rate", "20", "--seconds", "1"]
        assert main([*asked, "--bodies", str(tmp_path / "bodies")]) == 0
        assert "status: 200 10, 400 10" in capsys.readouterr().out
        asker = Asker(server.url, [b'{"instances": ["good"]}', b'{"instances": ["bad"]}'],
                      check=lambda one: b'"label":"good"' in one.body)  # fmt: skip
        left = iter(range(20))
        outcome = asker.load(100, 60, lambda: next(left, None) is None)
        asker.close()
        assert outcome.statuses == {"200": 10, WRONG: 10}
        server.end()
        assert main([server.url, "--bodies", str(tmp_path / "bodies"), "--rate", "5", "--seconds", "1"]) == 1
        assert f"status: {FAILED} 5" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([server.url])
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err
