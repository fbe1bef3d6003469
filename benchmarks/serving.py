"""Requests a second of `gauntlet serve` beside other servers of the same graph, tokenizer and runtime.

    python benchmarks/serving.py BUNDLE --peers fastapi litserve … --data texts.txt --out FOLDER [--rounds 5]
    python benchmarks/serving.py BUNDLE --quick

BUNDLE is that of a text classifier, as `gauntlet run manifests/emotion_sample.yaml` makes it. Each request
has one text: of the embedded sample, or of `--data`, a file with one text a line (of `text;label` the text is
taken). Each peer gets an environment of its own below `--environments`, from its file of requirements in
`benchmarks/serving_peers`, where it is written as its documentation has it. If it answers 200 of the texts
otherwise than the bundle, it is not timed. All compute with as many threads as there are CPUs.

1. Each peer is tuned: of the settings that `Peer.grid` lists, the one with the most requests/s at p99 ≤ 50 ms
   is kept. All are printed.
2. In rounds, servers in turn: a server is started and asked at fixed rates, whether it keeps up or not
   (`serving/load.py`); a latency counts from when its request was due. Printed: the largest rate at which
   every request is answered with p99 ≤ 50 ms, and with ≤ 20 ms; latency at 1, 10, 30, 60 and 80 % of the
   former; how many requests a second are answered within 50 ms when twice that rate is asked for (ours is
   told the 50 ms by `X-Request-Timeout`; no peer reads such a header); requests per CPU-second of all
   processes of the server at 80 %; the largest memory (PSS); seconds from start to the first answer.
3. The engine of `gauntlet serve` is called in a loop without HTTP, 32 texts at once.

The generator runs on the same CPUs, before all other processes where that is allowed. If the
generator sends 1 % of a load over 1 ms late, the load is repeated, at most twice. `--out` keeps the results
of each step in a file; a later call with the same folder resumes and adds rounds.

Aims, of the medians over the rounds:
- at p99 ≤ 50 ms at least 2 times the requests/s of the best peer, at p99 ≤ 20 ms at least 1.5 times;
- the engine without HTTP has at most 1.2 times the requests/s at p99 ≤ 50 ms.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from gauntlet.components.convert_to_onnx.processor import describe_processor
from gauntlet.serving.bundle import Bundle
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.load import Asker, Outcome, quantile

OURS = "gauntlet"
WITHOUT_HTTP = "engine without HTTP"
HERE = Path(__file__).parent / "serving_peers"
AIM_50, AIM_20, AIM_HTTP = 2.0, 1.5, 1.2
SHARES = (0.01, 0.1, 0.3, 0.6, 0.8)
STARTED = 19  # a field of `/proc/PID/stat` after the name
STEP = 1.05
"""Rates that are tried are powers of it."""
STRIDE = 4
LEAST_RATE = 5.0
SETTLING_SECONDS = 1.0
LATE_MS = 1.0
TRIES = 3
START_SECONDS = 90.0
COMPARED = 200
TOLERANCE = 1e-3
ENGINE_ROWS = 32


@dataclass(frozen=True)
class Setting:
    """How a peer is run.

    `workers` are processes with a session of `threads` each; of 0 the server chooses.
    """

    workers: int = 1
    threads: int = 1
    batch: int = 1
    window_ms: float = 0
    variant: str = ""

    def __str__(self) -> str:
        if not self.workers:
            return "its own choice"
        batches = f", batches of {self.batch} within {self.window_ms:g} ms" if self.batch > 1 else ""
        return f"{self.workers}x{self.threads}{batches}{self.variant and ', ' + self.variant}"


@dataclass(frozen=True)
class Peer:
    """A server that is compared.

    Attributes:
        command: What starts it, given its environment's Python, a port, a setting and a folder of its own.
        body: A request for a text.
        answers: The answer in a response.
        batches, windows_ms, variants: What is tried beside the number of workers.
    """

    name: str
    route: str
    command: Callable[[str, int, Setting, Path], list[str]]
    body: Callable[[str], Any]
    answer: Callable[[Any], Mapping[str, Any]]
    batches: Sequence[int] = (1,)
    windows_ms: Sequence[float] = (0,)
    variants: Sequence[str] = ("",)

    def grid(self, cpus: int) -> list[Setting]:
        """The settings that are tried: one session on all CPUs, and one for each CPU. Ours chooses itself."""
        if self.name == OURS:
            return [Setting(0, cpus)]
        shapes = sorted({(1, cpus), (cpus, 1)})
        return list(
            dict.fromkeys(
                Setting(workers, threads, batch, window if batch > 1 else 0, variant)
                for (workers, threads), batch, window, variant in product(
                    shapes, self.batches, self.windows_ms, self.variants
                )
            )
        )


def script(name: str) -> Callable[[str, int, Setting, Path], list[str]]:
    """The command of a peer that is a program."""
    return lambda python, _port, _setting, _folder: [python, str(HERE / f"{name}_app.py")]


def uvicorn(python: str, port: int, setting: Setting, _folder: Path) -> list[str]:
    workers = str(setting.workers)
    said = ["--port", str(port), "--workers", workers, "--no-access-log", "--log-level", "error"]
    return [python, "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(HERE), *said]


def bentoml(python: str, port: int, _setting: Setting, _folder: Path) -> list[str]:
    where = ["--port", str(port), "--host", "127.0.0.1", "--working-dir", str(HERE)]
    return [str(Path(python).parent / "bentoml"), "serve", "bentoml_app:Emotion", *where]


def mlserver(python: str, port: int, setting: Setting, folder: Path) -> list[str]:
    server = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "debug": False}
    workers = 0 if setting.workers == 1 else setting.workers
    (folder / "settings.json").write_text(json.dumps({**server, "parallel_workers": workers}))
    model = {"name": "emotion", "implementation": "mlserver_app.Emotion", "max_batch_size": setting.batch}
    content = {**model, "max_batch_time": setting.window_ms / 1000}
    (folder / "model-settings.json").write_text(json.dumps(content))
    return [str(Path(python).parent / "mlserver"), "start", str(folder)]


def gauntlet(python: str, port: int, _setting: Setting, folder: Path) -> list[str]:
    return [python, "-m", "gauntlet.serving", "serve", str(folder / "bundle"), "--port", str(port)]


def inference(text: str) -> dict[str, Any]:
    """A request of the Open Inference Protocol."""
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}


BATCHES, WINDOWS_MS = (1, 8, 32), (1, 5)
PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            OURS,
            "/predict",
            gauntlet,
            lambda text: {"instances": [text]},
            lambda content: content["predictions"][0],
        ),
        Peer(
            "fastapi",
            "/predict",
            uvicorn,
            lambda text: {"text": text},
            lambda content: content,
            variants=("inline", "thread pool"),
        ),
        Peer(
            "litserve",
            "/predict",
            script("litserve"),
            lambda text: {"text": text},
            lambda content: content,
            BATCHES,
            WINDOWS_MS,
        ),
        Peer(
            "mosec",
            "/inference",
            script("mosec"),
            lambda text: {"text": text},
            lambda content: content,
            BATCHES,
            WINDOWS_MS,
        ),
        Peer(
            "bentoml",
            "/predict",
            bentoml,
            lambda text: {"texts": [text]},
            lambda content: content[0],
            BATCHES,
            (50, 60_000),  # not a window: `max_latency_ms`, whose default is the latter
        ),
        Peer(
            "mlserver",
            "/v2/models/emotion/infer",
            mlserver,
            inference,
            lambda content: json.loads(content["outputs"][0]["data"][0]),
            BATCHES,
            WINDOWS_MS,
        ),
        Peer(
            "kserve",
            "/v1/models/emotion:predict",
            script("kserve"),
            lambda text: {"instances": [text]},
            lambda content: content["predictions"][0],
        ),
    )
}


@dataclass
class Running:
    """A server that answers."""

    peer: Peer
    url: str
    root: int
    start_seconds: float
    bodies: Sequence[bytes]
    peak_mb: float = 0.0
    discarded: int = 0
    late_ms: list[float] = field(default_factory=list)

    def load(
        self, rate: float, seconds: float, headers: Mapping[str, str] | None = None
    ) -> tuple[Outcome, float]:
        """What came of a load, and the CPU seconds of the server; the least late of three if all are late."""
        tried: list[tuple[float, Outcome, float]] = []
        while len(tried) < TRIES and (not tried or tried[-1][0] > LATE_MS):
            asker = Asker(self.url, self.bodies, headers)
            gc.collect()
            before = cpu_seconds(self.root)
            outcome = asker.load(rate, seconds)
            used = cpu_seconds(self.root) - before
            asker.close()
            self.look_at_memory()
            tried.append((1000 * quantile(outcome.late, 0.99), outcome, used))
        late, outcome, used = min(tried, key=lambda one: one[0])
        self.discarded += len(tried) - 1
        self.late_ms.append(late)
        return outcome, used

    def p99_at(self, seconds: float) -> Callable[[float], float]:
        """The p99 in ms of a load, by its rate."""
        return lambda rate: p99_ms(self.load(rate, seconds)[0])

    def look_at_memory(self) -> float:
        """The most megabytes that the server had until now."""
        self.peak_mb = max(self.peak_mb, memory_mb(self.root))
        return self.peak_mb


@contextmanager
def running(
    peer: Peer, python: str, bundle: Path, setting: Setting, bodies: Sequence[bytes]
) -> Iterator[Running]:
    """A server from its start to its end."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        (Path(folder) / "bundle").symlink_to(bundle.resolve())
        environment = {
            **os.environ,
            "BUNDLE": str(bundle.resolve()),
            "PORT": str(port),
            "WORKERS": str(setting.workers),
            "THREADS": str(setting.threads),
            "BATCH": str(setting.batch),
            "WINDOW_MS": str(setting.window_ms),
            "VARIANT": setting.variant,
            "TOKENIZERS_PARALLELISM": "false",
            "BENTOML_DO_NOT_TRACK": "true",
        }
        if peer.name != OURS:
            environment["PYTHONPATH"] = str(HERE)
        with (Path(folder) / "log").open("wb") as log:
            begun = time.perf_counter()
            process = subprocess.Popen(
                peer.command(python, port, setting, Path(folder)),
                cwd=folder if peer.name != OURS else None,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
            try:
                url = f"http://127.0.0.1:{port}{peer.route}"
                while not answers(url, json.dumps(peer.body("Are you ready?")).encode()):
                    if process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                        said = (Path(folder) / "log").read_text(errors="replace")[-2000:]
                        raise RuntimeError(f"{peer.name} ({setting}) does not answer: {said}")
                    time.sleep(0.02)
                yield Running(peer, url, process.pid, time.perf_counter() - begun, bodies)
            finally:
                end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a server."""
    below = processes(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pid, fields in below.items():
        now = processes(pid).get(pid)
        if now is not None and now[STARTED] == fields[STARTED]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def answers(url: str, body: bytes) -> Any:
    """The content of an answer; None before it has arrived."""
    request = Request(url, body, {"content-type": "application/json"})
    with suppress(OSError, ValueError), urlopen(request, timeout=30) as response:
        return json.load(response)
    return None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def processes(root: int) -> dict[int, list[str]]:
    """The fields of `/proc/PID/stat`, from the state on, of a process and all below it."""
    every = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            every[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    found = {root} & set(every)
    while more := {pid for pid, fields in every.items() if int(fields[1]) in found} - found:
        found |= more
    return {pid: every[pid] for pid in found}


def cpu_seconds(root: int) -> float:
    """User and system time of a process and all below it, and of those that they have waited for."""
    ticks = sum(int(number) for fields in processes(root).values() for number in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(root: int) -> float:
    """The memory of a process and all below it; what several share is counted once (PSS)."""
    kilobytes = 0
    for pid in processes(root):
        with suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kilobytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1024


def p99_ms(outcome: Outcome) -> float:
    """The 99th percentile of the latency of all requests, infinite for one that got no answer."""
    unanswered = sum(outcome.statuses.values()) - len(outcome.latencies)
    return 1000 * quantile([*outcome.latencies, *[math.inf] * unanswered], 0.99)


class Search:
    """Finds the largest rate at which the p99 is within a bound."""

    def __init__(self, p99_at: Callable[[float], float]) -> None:
        """`p99_at` is asked at most once for each rate."""
        self._p99_at = p99_at
        self._known: dict[int, float] = {}

    def holds(self, step: int, bound_ms: float) -> bool:
        """Whether the p99 at a rate is within a bound."""
        if step not in self._known:
            self._known[step] = self._p99_at(STEP**step)
        return self._known[step] <= bound_ms

    def rate(self, bound_ms: float, near: float) -> float:
        """A rate that holds where the next one, 5 % higher, does not; 0 if none does."""
        good = bad = round(math.log(near, STEP))
        if self.holds(good, bound_ms):
            while self.holds(bad := good + STRIDE, bound_ms):
                good = bad
        else:
            while not self.holds(good := bad - STRIDE, bound_ms):
                if STEP**good < LEAST_RATE:
                    return 0.0
                bad = good
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self.holds(middle, bound_ms) else (good, middle)
        return float(STEP**good)


def tune(
    peer: Peer, python: str, bundle: Path, bodies: Sequence[bytes], seconds: float, quick: bool
) -> tuple[Setting, float]:
    """The best setting of a peer, and its rate. All that were tried are printed."""
    tried: dict[Setting, float] = {}
    near = 200.0
    for setting in peer.grid(usable_cpus())[: 1 if quick else None]:
        try:
            with running(peer, python, bundle, setting, bodies) as server:
                server.load(50, SETTLING_SECONDS)
                tried[setting] = Search(server.p99_at(seconds)).rate(50, near)
        except RuntimeError as error:
            print(f"  {peer.name}: {error}", flush=True)
            continue
        near = max(near, tried[setting])
        print(f"  {peer.name:9} {setting!s:44} {tried[setting]:7.0f} requests/s at p99 <= 50 ms", flush=True)
    if not tried:
        raise RuntimeError(f"{peer.name}: no setting works")
    best = max(tried, key=lambda one: tried[one])
    return best, tried[best]


def measure(server: Running, near: float, seconds: float) -> dict[str, Any]:
    """All figures of one server in one round."""
    server.load(max(20.0, near / 2), SETTLING_SECONDS)
    search = Search(server.p99_at(seconds))
    within_50 = search.rate(50, near)
    within_20 = search.rate(20, within_50) if within_50 else 0.0
    within_50 = max(within_50, within_20)  # the machine may have become faster in between
    found: dict[str, Any] = {"rate_50": within_50, "rate_20": within_20, "start_s": server.start_seconds}
    capacity = within_50 or near
    for share in SHARES:
        outcome, used = server.load(max(5.0, share * capacity), seconds)
        found[f"p50_{share:g}"] = 1000 * quantile(outcome.latencies, 0.5)
        found[f"p99_{share:g}"] = p99_ms(outcome)
        found["per_cpu_s"] = len(outcome.latencies) / max(used, 0.01)
    outcome, _ = server.load(2 * capacity, seconds, {"x-request-timeout": "0.05"})
    good = sum(one <= 0.05 for one in outcome.latencies)
    found["goodput"] = good / seconds
    found["goodput_share"] = good / seconds / capacity
    found |= {"peak_mb": server.peak_mb, "late_ms": max(server.late_ms), "discarded": server.discarded}
    return found


ENGINE = """
import asyncio, json, sys, time
from pathlib import Path
import msgspec
from gauntlet.serving.server import Source, opened
from gauntlet.serving.settings import Settings
from gauntlet.serving.telemetry import Metrics

async def main(bundle, texts, most, seconds):
    loop = asyncio.get_running_loop()
    served = await loop.run_in_executor(None, opened, Source(Path(bundle)), Settings(), Metrics(), loop)
    done, ends = 0, time.perf_counter() + seconds
    async def ask(at):
        nonlocal done
        while time.perf_counter() < ends:
            row = served.model.read([texts[at % len(texts)]], {}, 1)
            [answer] = await served.engine.submit([row], time.monotonic() + 60).future
            msgspec.json.encode(answer.content)
            done, at = done + 1, at + most
    begun = time.perf_counter()
    await asyncio.gather(*map(ask, range(most)))
    print(done / (time.perf_counter() - begun))
    served.engine.close()

bundle, texts, most, seconds = sys.argv[1:]
asyncio.run(main(bundle, json.loads(Path(texts).read_text()), int(most), float(seconds)))
"""


def without_http(bundle: Path, texts: Sequence[str], seconds: float) -> float:
    """Rows a second of the engine in a process of its own, asked for 32 rows at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        command = [sys.executable, "-c", ENGINE, str(bundle), file.name, str(ENGINE_ROWS), str(seconds)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def faults(server: Running, bundle: Bundle, texts: Sequence[str]) -> list[str]:
    """Texts whose answer is not the bundle's."""
    labels = bundle.info.labels
    found = []
    for text, expected in zip(texts, bundle.probabilities(list(texts)), strict=True):
        body = json.dumps(server.peer.body(text)).encode()
        content = answers(server.url, body)
        answer = {} if content is None else server.peer.answer(content)
        given = [answer.get("probabilities", {}).get(label, math.nan) for label in labels]
        differs = max(abs(one - other) for one, other in zip(given, expected, strict=True))
        if answer.get("label") != labels[int(expected.argmax())] or not differs <= TOLERANCE:
            found.append(text)
    return found


def environment(name: str, folder: Path) -> str:
    """The Python of a peer's environment, which is made if it is not there."""
    if name == OURS:
        return sys.executable
    python = folder / name / "bin/python"
    if not (folder / name / "ready").exists():
        print(f"{name}: making its environment", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(HERE / f"{name}.txt")]
        subprocess.run(command, check=True)
        (folder / name / "ready").touch()
    return str(python)


def read_texts(path: Path | None) -> list[str]:
    """Texts in an order that does not depend on their length."""
    if path is None:
        import csv
        from importlib.resources import files

        sample = files("gauntlet.manifests") / "data/emotion_sample.csv"
        texts = [row["text"] for row in csv.DictReader(sample.read_text().splitlines())]
    else:
        texts = [line.rpartition(";")[0] or line for line in path.read_text().splitlines() if line.strip()]
    random.Random(7).shuffle(texts)
    return texts


def median(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.median(float(one[key]) for one in rounds)


def spread(rounds: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [float(one[key]) for one in rounds]
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def report(results: Mapping[str, Any]) -> None:
    """Print the medians of all rounds."""
    rounds = {name: of_peer for name, of_peer in results["rounds"].items() if of_peer}
    print("\nmedians of the rounds, and their range")
    heads = ("rounds", "p99 <= 50 ms", "p99 <= 20 ms", "goodput at 200 %", "per CPU-s", "MB", "start s")
    print(f"{'requests/s':10}" + "".join(f"{head:>20}" for head in heads))
    for name, of_peer in rounds.items():
        cells = [
            str(len(of_peer)),
            spread(of_peer, "rate_50"),
            spread(of_peer, "rate_20"),
            f"{median(of_peer, 'goodput'):.0f} ({100 * median(of_peer, 'goodput_share'):.0f} %)",
            f"{median(of_peer, 'per_cpu_s'):.0f}",
            f"{median(of_peer, 'peak_mb'):.0f}",
            f"{median(of_peer, 'start_s'):.1f}",
        ]
        print(f"{name:10}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"\n{'p50, p99 ms at':16}" + "".join(f"{100 * share:>15g} %" for share in SHARES))
    for name, of_peer in rounds.items():
        cells = [
            f"{median(of_peer, f'p50_{share:g}'):.1f}, {median(of_peer, f'p99_{share:g}'):.1f}"
            for share in SHARES
        ]
        print(f"{name:16}" + "".join(f"{cell:>17}" for cell in cells))
    every = [one for of_peer in rounds.values() for one in of_peer]
    print(
        f"\ngenerator: late by at most {max(one['late_ms'] for one in every):.2f} ms (p99 of a load); "
        f"{sum(one['discarded'] for one in every)} loads repeated"
    )
    print(f"{WITHOUT_HTTP}: {statistics.median(results['without_http']):.0f} requests/s")


def judge(results: Mapping[str, Any]) -> int:
    """Print the aims and the headline, and return the exit code."""
    rounds: Mapping[str, Sequence[Mapping[str, Any]]] = results["rounds"]
    ours = rounds[OURS]
    peers = {name: of_peer for name, of_peer in rounds.items() if name != OURS and of_peer}
    aims = []
    headline = (
        f"{median(ours, 'rate_50'):.0f} requests/s at p99 <= 50 ms, {median(ours, 'rate_20'):.0f} at 20 ms"
    )
    for key, bound, aim in (("rate_50", 50, AIM_50), ("rate_20", 20, AIM_20)) if peers else ():
        best = max(peers, key=lambda name: median(peers[name], key))
        pairs = zip(ours, peers[best], strict=False)
        ratio = statistics.median(float(one[key]) / max(float(other[key]), 1.0) for one, other in pairs)
        aims.append((f"{ratio:.2f} times {best}'s requests/s at p99 <= {bound} ms (aim {aim})", ratio >= aim))
        headline += f", {ratio:.2f} times {best} at {bound} ms"
    ratio = statistics.median(results["without_http"]) / median(ours, "rate_50")
    aims.append(
        (f"the engine without HTTP has {ratio:.2f} times as many (aim {AIM_HTTP})", ratio <= AIM_HTTP)
    )
    headline += f", {ratio:.2f} times as many without HTTP"
    for words, is_met in aims:
        print(f"{'met   ' if is_met else 'MISSED'}  {words}")
    print(f"serving: {headline}")
    return 0 if all(is_met for _, is_met in aims) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", nargs="*", choices=[name for name in PEERS if name != OURS], default=[])
    parser.add_argument("--data", type=Path, metavar="FILE", help="texts, one a line")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep results there, and go on from them")
    parser.add_argument("--environments", type=Path, default=Path("build/serving_peers"), metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5, help="0 only tunes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--quick", action="store_true", help="one short round; aims are not judged")
    given = parser.parse_args(arguments)
    seconds, rounds = (0.5, 1) if given.quick else (given.seconds, given.rounds)
    prefer_the_generator()
    texts = read_texts(given.data)
    peers = [PEERS[name] for name in (OURS, *given.peers)]
    kept = None if given.out is None else given.out / "serving.json"
    empty: dict[str, Any] = {"settings": {}, "rounds": {}, "without_http": []}
    results = json.loads(kept.read_text()) if kept is not None and kept.exists() else empty
    print(f"{describe_processor()}, {usable_cpus()} CPUs, {len(texts)} texts", flush=True)
    bundle = Bundle(given.bundle)
    pythons, bodies = {}, {}

    def keep() -> None:
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(results, indent=1))

    for peer in peers:
        pythons[peer.name] = environment(peer.name, given.environments.resolve())
        bodies[peer.name] = [json.dumps(peer.body(text)).encode() for text in texts]
        results["rounds"].setdefault(peer.name, [])
        if peer.name in results["settings"]:
            continue
        setting = peer.grid(usable_cpus())[0]
        with running(peer, pythons[peer.name], given.bundle, setting, bodies[peer.name]) as server:
            differ = faults(server, bundle, texts[: 20 if given.quick else COMPARED])
        if differ:
            raise SystemExit(
                f"{peer.name}: {len(differ)} answers are not the bundle's, such as of {differ[0]!r}"
            )
        print(f"{peer.name}: answers as the bundle", flush=True)
        best, near = tune(peer, pythons[peer.name], given.bundle, bodies[peer.name], seconds, given.quick)
        results["settings"][peer.name] = {"setting": vars(best), "near": near}
        keep()
    del bundle
    for _ in range(rounds):
        for peer in peers:
            chosen = results["settings"][peer.name]
            setting = Setting(**chosen["setting"])
            with running(peer, pythons[peer.name], given.bundle, setting, bodies[peer.name]) as server:
                found = measure(server, max(chosen["near"], 20.0), seconds)
            results["rounds"][peer.name].append(found)
            print(
                f"{peer.name:9} ({setting}): {found['rate_50']:.0f} requests/s at p99 <= 50 ms, "
                f"{found['rate_20']:.0f} at 20 ms, start {found['start_s']:.1f} s",
                flush=True,
            )
        results["without_http"].append(without_http(given.bundle, texts, 2 * seconds))
        keep()
    if not results["rounds"][OURS]:
        return 0
    report(results)
    code = judge(results)
    return 0 if given.quick else code


def prefer_the_generator() -> None:
    """Raise the generator's priority where that is allowed, since its lateness counts as latency."""
    gc.freeze()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


if __name__ == "__main__":
    sys.exit(main())
