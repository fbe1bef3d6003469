"""The gateway on this machine, with servers of bundles whose answers can be computed by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from pyarrow.parquet import read_table

from gauntlet.backends.deployment import Assignment, ConflictError, Release, Revision, Service, Shadow
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.deployment import LocalDeployment, LocalGateway
from gauntlet.backends.rollouts import open_records
from gauntlet.components.deploy_model.golden import Golden
from gauntlet.components.deploy_model.rollout import Engine
from gauntlet.components.deploy_model.run import release_of
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.cli import main
from gauntlet.serving import load
from gauntlet.serving.bundle import file_sha256
from tests.text_bundles import certified

T = TypeVar("T")
SECONDS = 120
MODEL = "moods"
GOOD = b'{"instances": ["good"]}'


def release(bundle: Path, version: str, model: str = MODEL) -> Release:
    return Release(model, version, str(bundle), file_sha256(bundle / "bundle.json"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("a_home_whose_path_is_longer_than_the_path_of_a_socket_may_be" * 2)
    before = os.environ.get("GAUNTLET_HOME")
    os.environ["GAUNTLET_HOME"] = str(folder)
    yield folder
    LocalGateway(folder).end()
    if before is None:
        del os.environ["GAUNTLET_HOME"]
    else:
        os.environ["GAUNTLET_HOME"] = before


@pytest.fixture(scope="module")
def bundles(home: Path) -> list[Path]:
    """Two bundles with the same answers."""
    return [certified(home / name, rows=rows) for name, rows in (("first", 9), ("second", 10))]


@pytest.fixture(scope="module")
def target(home: Path) -> LocalDeployment:
    return LocalDeployment(MODEL, f"sqlite:///{home}/gauntlet.db", {"local": {"port": 0}})


@pytest.fixture
def two(target: LocalDeployment, bundles: list[Path]) -> tuple[Revision, Revision]:
    """Both revisions, ready; the first has all requests."""
    found = []
    for version, bundle in enumerate(bundles, start=1):
        found.append(wait(target, target.start(release(bundle, str(version))).id, "ready"))
    first, second = found
    target.shift({first.id: 100}, served(target).etag)
    return first, second


def served(target: LocalDeployment) -> Service:
    found = target.service()
    assert found is not None
    return found


def until(look: Callable[[], T | None]) -> T:
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        if (found := look()) is not None:
            return found
    raise AssertionError("it did not happen in time")


def wait(target: LocalDeployment, revision: str, state: str) -> Revision:
    def look() -> Revision | None:
        [one] = [one for one in served(target).revisions if one.id == revision]
        assert one.state in (state, "starting"), one
        return one if one.state == state else None

    return until(look)


def ask(
    target: LocalDeployment, body: bytes = GOOD, route: str = "/predict", **headers: str
) -> tuple[int, dict[str, Any], str]:
    """The status, the answer, and which bundle it is of."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        served(target).address + route, body, {"Content-Type": "application/json", **given}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer), answer.headers["X-Gauntlet-Bundle-Sha256"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), ""


def test_the_first_revision_gets_all_requests_and_a_further_one_none(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    assert served(target).weights == {first.id: 100}
    assert {ask(target)[2] for _ in range(20)} == {first.id}
    assert target.ask(second.id, GOOD).bundle_sha256 == second.id
    evidence = target.evidence()
    assert evidence.arms[first.id].requests == 20
    assert evidence.arms[first.id].labels == {"good": 20}
    assert sum(evidence.arms[first.id].latency_ms.values()) == 20
    assert second.id not in evidence.arms


def test_requests_are_shared_by_weight_counted_by_arm_and_compared_with_the_shadow(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    shadow = Shadow(second.id, 1.0)
    target.shift({first.id: 70, second.id: 30}, served(target).etag, shadow)
    answered = [ask(target, b'{"instances": ["good", "bad"]}')[2] for _ in range(400)]
    arms = target.evidence().arms
    assert {one: arms[one].requests for one in arms} == {one: answered.count(one) for one in set(answered)}
    assert 80 < answered.count(second.id) < 160  # 120 ± 4.4 standard deviations of 9.2
    assert arms[first.id].labels == {"good": answered.count(first.id), "bad": answered.count(first.id)}
    # Only the other revision's requests are copied, a few at a time.
    pairs = until(lambda: found if (found := target.evidence().pairs).compared > 0 else None)
    assert pairs.different == pairs.errors == 0
    assert ask(target, b'{"instances": [7]}')[0] == 400
    assert sum(arm.errors for arm in target.evidence().arms.values()) == 0


def test_a_key_always_gets_the_same_revision_and_a_growing_canary_only_wins_keys(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    keys = [f"user{number}" for number in range(60)]

    def of_canary(share: int) -> set[str]:
        target.shift({first.id: 100 - share, second.id: share}, served(target).etag)
        answers = {key: {ask(target, X_Gauntlet_Key=key)[2] for _ in range(2)} for key in keys}
        assert all(len(one) == 1 for one in answers.values())
        assert sum(arm.requests for arm in target.evidence().arms.values()) == len(keys)  # each counts once
        return {key for key, one in answers.items() if one == {second.id}}

    small, large = of_canary(20), of_canary(60)
    assert small < large < set(keys)


def test_an_assignment_sends_requests_without_its_header_to_the_control(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    assignment = Assignment("t", "salt", "X-User", first.id)
    found = target.shift({first.id: 50, second.id: 50}, served(target).etag, None, assignment)
    assert found.assignment == assignment
    assert {ask(target)[2] for _ in range(20)} == {first.id}
    assert {ask(target, X_User=str(number))[2] for number in range(40)} == {first.id, second.id}


def test_an_ab_test_notes_the_variant_of_each_request_under_the_id_that_the_answer_has(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    assignment = Assignment("noted", "salt", "X-Gauntlet-Key", "")
    target.shift({first.id: 50, second.id: 50}, served(target).etag, None, assignment)
    keys = ["", *(f"u{number % 12}" for number in range(36))]
    answers = [ask(target, X_Gauntlet_Key=key, X_Gauntlet_Event=f"id{at}") for at, key in enumerate(keys)]
    own = [ask(target) for _ in range(24)]
    assert {bundle for *_, bundle in own} == {first.id, second.id}  # at random
    target.ask(first.id, GOOD)  # of one revision, which is not in the test
    assert load.main([served(target).address, "--rate", "60", "--seconds", "0.2", "--keys", "3"]) == 0
    asked = len(keys) + len(own) + 12

    def written() -> list[list[str]] | None:
        path = target.gateway.assignments("noted")
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line.split(",") for line in lines] if len(lines) > asked else None

    head, *rows = until(written)
    assert head == ["request_id", "time", "revision", "unit"]
    assert len(rows) == asked
    found = [(row[0], row[2]) for row in rows[:-12]]
    answered = [(one["metadata"]["event"], bundle) for _, one, bundle in (*answers, *own)]
    assert found == answered
    units = {
        key: {(row[2], row[3]) for row, one in zip(rows, keys, strict=False) if one == key} for key in keys
    }
    assert units.pop("") == {(found[0][1], "")}  # an empty key is none
    assert {len(one) for one in units.values()} == {1}  # a key is one unit, of one variant
    assert len({unit for one in units.values() for _, unit in one}) == 12
    assert {row[3] for row in rows[len(keys) : -12]} == {""}
    assert [row[3] for row in rows[-12:-9]] * 4 == [row[3] for row in rows[-12:]]


def test_a_shift_is_refused_if_the_weights_were_changed_or_are_wrong(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    etag = served(target).etag
    with pytest.raises(UsageError, match="sum to 100"):
        target.shift({first.id: 50}, etag)
    with pytest.raises(UsageError, match="has no revision nobody"):
        target.shift({"nobody": 100}, etag)
    target.shift({second.id: 100}, etag)
    with pytest.raises(ConflictError, match="were changed"):
        target.shift({first.id: 100}, etag)
    with pytest.raises(UsageError, match="gets requests"):
        target.stop(second.id)


def test_a_server_that_is_killed_within_requests_is_replaced_and_the_client_is_answered(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, _ = two
    gateway = psutil.Process(target.gateway.call("status")["pid"])
    [server] = [one for one in gateway.children() if f'"version": "{first.version}"' in one.cmdline()[-1]]
    server.kill()
    assert ask(target)[:1] == (200,)
    wait(target, first.id, "ready")
    assert until(lambda: one if (one := served(target).revisions[0]).restarts else None).state == "ready"


def test_a_bundle_that_is_refused_fails_with_the_reason_and_gets_nothing(
    target: LocalDeployment, two: tuple[Revision, Revision], home: Path
) -> None:
    first, _ = two
    broken = certified(home / "broken", rows=11)
    (broken / "model.onnx").write_bytes(b"no graph")
    failed = wait(target, target.start(release(broken, "3")).id, "failed")
    assert "model.onnx" in failed.reason
    assert ask(target)[2] == first.id
    target.stop(failed.id)
    until(lambda: True if served(target).of_bundle(failed.bundle_sha256) is None else None)
    target.stop(failed.id)  # is gone


def test_the_commands_say_what_is_served_and_add_and_end_nothing_that_is_there(
    target: LocalDeployment,
    two: tuple[Revision, Revision],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(home))

    def gauntlet(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return int(ended.value.code or 0)

    first, second = two
    target.shift({first.id: 75, second.id: 25}, served(target).etag)
    assert gauntlet("status", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["version"], row["target"], row["share"]) for row in rows] == [
        (MODEL, "1", "local", 75),
        (MODEL, "2", "local", 25),
    ]
    assert gauntlet("up", f"{MODEL}={home / 'first' / 'bundle'}", "--detach") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"version 1 (75 %), version 2 (25 %) is ready on {served(target).address}" in said
    assert served(target).weights == {first.id: 75, second.id: 25}
    assert gauntlet("up", f"{MODEL}={home}") == 2
    assert "found no bundle.json" in capsys.readouterr().err


def test_each_server_logs_its_requests_under_its_arm_and_several_models_have_routes_of_their_own(
    target: LocalDeployment,
    two: tuple[Revision, Revision],
    bundles: list[Path],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(home))
    log = {"request_log": str(tmp_path / "log"), "sample_rate": 1.0, "store": "full"}
    logged = LocalDeployment("logged", target.registry_uri, {"local": log})
    heir = LocalDeployment("logged", target.registry_uri, {"local": {"port": 0}})
    old = logged.start(release(bundles[0], "1", "logged"))
    new = heir.start(release(bundles[1], "2", "logged"))  # logs as the version before it does
    for one in (old, new):
        wait(logged, one.id, "ready")
    logged.shift({old.id: 50, new.id: 50}, served(logged).etag, Shadow(new.id, 1.0))
    routes = ("/v1/models/logged:predict", "/v2/models/logged/infer")
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}
    bodies = dict(zip(routes, (GOOD, json.dumps({"inputs": [tensor]}).encode()), strict=True))
    asked = [ask(logged, bodies[route], route) for route in routes * 15]
    assert {status for status, _, _ in asked} == {200}
    assert [bundle for _, _, bundle in asked].count(new.id) in range(3, 28)  # 15 ± 4.4 sigma of 2.7
    assert ask(logged)[1]["metadata"]["model"] == MODEL  # a route without a model is that of the first one
    evidence = logged.evidence()
    assert sum(arm.requests for arm in evidence.arms.values()) == 30
    until(lambda: True if logged.evidence().pairs.compared else None)
    with urllib.request.urlopen(served(logged).address + "/readyz") as answer:
        assert json.load(answer) == {"ready": True, "models": {MODEL: True, "logged": True}}
    with pytest.raises(SystemExit) as ended:
        main(["up", f"logged={bundles[0]}", "--request-log", str(tmp_path)])
    assert ended.value.code == 2
    assert "its servers keep their log" in capsys.readouterr().err
    logged.gateway.call("remove", model="logged")
    rows = until(lambda: found if len(found := rows_below(tmp_path / "log")) >= 30 else None)
    of_clients = [row for row in rows if row["arm"] != "shadow"]
    assert [row["arm"] for row in of_clients].count(new.id) == [one[2] for one in asked].count(new.id)
    assert all(row["bundle_sha256"] == row["arm"] for row in of_clients)
    shadows = [row for row in rows if row["arm"] == "shadow"]
    assert {row["bundle_sha256"] for row in shadows} == {new.id}
    assert {row["input"] for row in rows} == {"good"}


def rows_below(log: Path) -> list[dict[str, Any]]:
    """The rows of all files of a request log."""
    return [row for part in sorted(log.rglob("*.parquet")) for row in read_table(part).to_pylist()]


def test_rollback_starts_the_version_that_served_before_and_moves_alias_and_traffic(
    target: LocalDeployment,
    two: tuple[Revision, Revision],
    bundles: list[Path],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    first, second = two
    registry, records = open_registry(target.registry_uri), open_records(MODEL, target.registry_uri)
    versions = [registry.register(MODEL, one, {"run_id": one.parent.name}) for one in bundles]
    for version in versions:
        registry.promote(MODEL, version.version)
    settings = DeploymentSection(target="local", steps=(100,), keep_previous_seconds=0)
    engine = Engine(target, records, settings, lambda: Golden((GOOD,), (), 0.0, ("bad", "good")))
    assert engine.deploy(release_of(versions[1])).phase == "done"
    until(lambda: True if served(target).of_bundle(first.bundle_sha256) is None else None)
    with pytest.raises(SystemExit) as ended:
        main(["rollback", MODEL, "--by", "ada", "--reason", "it answers nonsense"])
    assert ended.value.code == 0
    assert f"{MODEL} 1 has all requests since" in capsys.readouterr().out
    assert served(target).weights == {first.id: 100}
    assert {ask(target)[2] for _ in range(9)} == {first.id}
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "1"
    record, _ = records.read()
    assert record is not None
    assert record.rejected[second.bundle_sha256].by == "ada"


def test_on_a_full_disk_changes_are_refused_and_nothing_changes(
    target: LocalDeployment, two: tuple[Revision, Revision], home: Path
) -> None:
    first, second = two
    before, state = served(target), target.gateway.folder / "state.json"
    written = state.read_bytes()
    third = release(certified(home / "third", rows=12), "3")
    gateway = psutil.Process(target.gateway.call("status")["pid"])
    limits = gateway.rlimit(psutil.RLIMIT_FSIZE)
    gateway.rlimit(psutil.RLIMIT_FSIZE, (16, limits[1]))  # writing a larger file fails as on a full disk
    try:
        for change in (
            lambda: target.shift({second.id: 100}, before.etag),
            lambda: target.stop(second.id),
            lambda: target.start(third),
        ):
            with pytest.raises(GauntletError, match=r"state.json: cannot be written .* Nothing was changed"):
                change()
        assert ask(target)[2] == first.id
    finally:
        gateway.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert served(target) == before
    assert (state.read_bytes(), state.with_suffix(".tmp").exists()) == (written, False)
    assert target.shift({second.id: 100}, before.etag).weights == {second.id: 100}


def test_a_killed_gateway_comes_back_with_the_weights_and_leaves_no_server_behind(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    first, second = two
    before = target.shift({first.id: 90, second.id: 10}, served(target).etag)
    gateway = psutil.Process(target.gateway.call("status")["pid"])
    servers = gateway.children()
    os.kill(gateway.pid, signal.SIGKILL)
    gone, left = psutil.wait_procs(servers, timeout=SECONDS)
    assert len(gone) == 2
    assert not left
    after = served(target)  # starts a gateway
    assert (after.weights, after.etag, after.address) == (before.weights, before.etag, before.address)
    wait(target, first.id, "ready")
    assert ask(target)[0] == 200


def test_a_second_gateway_a_used_port_and_a_strange_state_are_refused_in_one_line(
    target: LocalDeployment, two: tuple[Revision, Revision], tmp_path: Path
) -> None:
    from gauntlet.serving.revisions import run
    from gauntlet.serving.settings import Settings

    assert two
    with pytest.raises(UsageError, match="a gateway runs here already"):
        run(target.gateway.folder, None, None, Settings())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="cannot listen on"):
        LocalGateway(tmp_path / "other").start(port=taken.getsockname()[1])
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(UsageError, match=r"state.json: found another content"):
        run(tmp_path, None, 0, Settings())


def test_a_client_that_leaves_and_one_that_sends_garbage_disturb_nobody(
    target: LocalDeployment, two: tuple[Revision, Revision]
) -> None:
    host, port = served(target).address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), SECONDS) as one:
        one.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
    with socket.create_connection((host, int(port)), SECONDS) as one:
        one.sendall(b"no HTTP\r\n\r\n")
        assert one.recv(99).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection((host, int(port)), SECONDS) as one:  # two requests at once, in pieces
        body = (
            b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n" + GOOD
        )
        one.sendall(body + body[:70])
        one.sendall(body[70:])
        found = b""
        while found.count(b'"predictions"') < 2:
            found += one.recv(65_536)
    assert ask(target, route=f"/v1/models/{MODEL}:predict")[0] == 200
    assert ask(target, route="/v1/models/nobody:predict")[0] == 404
    assert ask(target, X_Gauntlet_Revision="nobody")[0] == 404
