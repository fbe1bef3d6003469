"""Time to first token and tokens/s of streamed answers, beside transformers and llama.cpp's server.

    python benchmarks/serving_streams.py BUNDLE --checkpoint FOLDER --gguf FILE [--rounds 3] [--quick]

BUNDLE is that of a language model, FOLDER the `train-model/checkpoint` of the same run, which transformers
serves in fp32 and in bf16, one thread of `generate` for each request. FILE is a GGUF file that
llama-cpp-python's server serves, such as the one that the training began with: its 4-bit weights are smaller
than those of the bundle, and its answers others. All compute with as many threads as there are CPUs.

1, 4 and 16 clients each ask one question after the other, by `/v1/chat/completions` with `stream`, for 48
tokens at temperature 0. Servers take turns in rounds. Printed: medians over the rounds of the time to the
first token (median and 95th percentile of the requests), of the tokens/s of all clients together, and the
largest memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from gauntlet.components.convert_to_onnx.processor import describe_processor
from gauntlet.serving.bundle import read_info
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.load import quantile
from serving import HERE, OURS, Peer, Running, Setting, environment, gauntlet, prefer_the_generator, running

STREAMS = (1, 4, 16)
TOKENS = 48
ROUTE = "/v1/chat/completions"


@dataclass
class Heard:
    """What came of all streams of one server.

    Attributes:
        first: Seconds from each request to its first token.
        tokens: How many came before the end of the measurement.
    """

    first: list[float] = field(default_factory=list)
    tokens: int = 0
    failed: int = 0


def listen(port: int, bodies: Sequence[bytes], ends: float, heard: Heard) -> None:
    """Ask one question after the other until the end."""
    for body in bodies:
        begun = time.perf_counter()
        if begun > ends:
            return
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        try:
            connection.request("POST", ROUTE, body, {"content-type": "application/json"})
            response, is_first = connection.getresponse(), True
            heard.failed += response.status != 200
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    now = time.perf_counter()
                    heard.tokens += now <= ends
                    if is_first:
                        heard.first.append(now - begun)
                        is_first = False
        finally:
            connection.close()


def measure(server: Running, streams: int, seconds: float) -> dict[str, float]:
    """The figures of so many streams at once."""
    port, heard = int(server.url.split(":")[2].split("/")[0]), Heard()
    ends = time.perf_counter() + seconds
    threads = [
        threading.Thread(target=listen, args=(port, [*server.bodies[at:], *server.bodies[:at]], ends, heard))
        for at in range(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if heard.failed or not heard.first:
        raise RuntimeError(f"{server.peer.name}: {heard.failed} requests failed")
    return {
        "first_p50": 1000 * quantile(heard.first, 0.5),
        "first_p95": 1000 * quantile(heard.first, 0.95),
        "tokens_s": heard.tokens / seconds,
    }


def asker(model: str) -> Callable[[str], dict[str, Any]]:
    """Makes the request for one answer."""
    said = {"model": model, "max_tokens": TOKENS, "temperature": 0}
    return lambda text: {**said, "messages": [{"role": "user", "content": text}]}


def llama(gguf: Path) -> Callable[[str, int, Setting, Path], list[str]]:
    """The command of llama-cpp-python's server."""

    def command(python: str, port: int, setting: Setting, _folder: Path) -> list[str]:
        threads = str(setting.threads)
        said = ["--model", str(gguf), "--port", str(port), "--n_threads", threads, "--n_ctx", "1024"]
        return [
            python,
            "-m",
            "llama_cpp.server",
            *said,
            "--n_threads_batch",
            threads,
            "--verbose",
            "false",
            "--interrupt_requests",
            "false",
        ]

    return command


def transformers(python: str, _port: int, _setting: Setting, _folder: Path) -> list[str]:
    return [python, str(HERE / "transformers_app.py")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument("--environments", type=Path, default=Path("build/serving_peers"), metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one short round")
    given = parser.parse_args(arguments)
    rounds, seconds = (1, 2.0) if given.quick else (given.rounds, given.seconds)
    prefer_the_generator()
    info, cpus = read_info(given.bundle), usable_cpus()
    asked = asker(info.name)
    sample = json.loads((files("gauntlet.manifests") / "data/conversations_sample.json").read_text())
    questions = [one["text"].partition("\n")[0].removeprefix("Client: ") for one in sample["conversations"]]
    random.Random(7).shuffle(questions)
    bodies = [json.dumps({**asked(question), "stream": True}).encode() for question in questions]
    frame = info.frame or ("", "")
    os.environ |= {"BEFORE": frame[0], "AFTER": frame[1]}
    servers = {OURS: (gauntlet, sys.executable, Setting(0, cpus))}
    if given.checkpoint is not None:
        os.environ["CHECKPOINT"] = str(given.checkpoint.resolve())
        for dtype in ("float32", "bfloat16"):
            servers[f"transformers {dtype}"] = (transformers, sys.executable, Setting(1, cpus, variant=dtype))
    if given.gguf is not None:
        python = environment("llamacpp", given.environments.resolve())
        servers[f"llama-cpp-python {given.gguf.stem[-4:]}"] = (
            llama(given.gguf.resolve()), python, Setting(1, cpus),
        )  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    print(f"{describe_processor()}, {cpus} CPUs, {info.candidate}", flush=True)
    for _ in range(rounds):
        for name, (command, python, setting) in servers.items():
            one = Peer(OURS if name == OURS else name, ROUTE, command, asked, lambda content: content)
            with running(one, python, given.bundle, setting, bodies) as server:
                measure(server, 1, 1.0)
                figures: dict[str, float] = {}
                for streams in STREAMS:
                    of_streams = measure(server, streams, seconds)
                    figures |= {f"{key}_{streams}": value for key, value in of_streams.items()}
                figures["mb"] = server.look_at_memory()
            found[name].append(figures)
            print(name, {key: round(value, 1) for key, value in figures.items()}, flush=True)
    heads = [f"{streams} streams: first token p50, p95 ms; tokens/s" for streams in STREAMS]
    print(f"\n{'':24}" + "".join(f"{head:>48}" for head in heads) + f"{'MB':>8}")
    for name, of_server in found.items():
        middle = {key: statistics.median(one[key] for one in of_server) for key in of_server[0]}
        cells = [
            f"{middle[f'first_p50_{n}']:.0f}, {middle[f'first_p95_{n}']:.0f}; {middle[f'tokens_s_{n}']:.1f}"
            for n in STREAMS
        ]
        print(f"{name:24}" + "".join(f"{cell:>48}" for cell in cells) + f"{middle['mb']:>8.0f}")
    ours = [statistics.median(one[f"tokens_s_{n}"] for one in found[OURS]) for n in STREAMS]
    said = ", ".join(f"{rate:.0f} tokens/s of {n}" for rate, n in zip(ours, STREAMS, strict=True))
    print(f"serving_streams: {said} streams, {info.candidate}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
