"""Training speed by how OpenMP threads wait, on an idle and on a shared machine.

    python benchmarks/openmp_waiting.py --runs 3

Each figure is examples/s of fine-tuning the packaged MiniLM-L6 on batches of 16 × 20 random tokens, in a
process of its own; policies take turns. A shared machine is played by one busy process per CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SECONDS = 8.0
BATCH, TOKENS = 16, 20
POLICIES = {
    "spin (libgomp's default)": {},
    "sleep (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{
        f"spin briefly (GOMP_SPINCOUNT={count})": {"GOMP_SPINCOUNT": str(count)}
        for count in (1_000, 10_000, 100_000)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(examples_per_second())
        return
    for busy in (0, os.cpu_count() or 1):
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        try:
            for _ in range(options.runs):
                for policy, environment in POLICIES.items():
                    rates[policy].append(measure(environment))
        finally:
            for loop in loops:
                loop.kill()
        print(f"{busy} busy processes beside it")
        medians = [statistics.median(values) for values in rates.values()]
        for policy, median in zip(POLICIES, medians, strict=True):
            print(f"  {policy:34} {median:7.1f} examples/s  {median / medians[0]:5.2f}×", flush=True)


def measure(environment: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def examples_per_second() -> float:
    import torch

    from serving.cpu import usable_cpus
    from trainer.encoder import find_encoder, load_encoder

    torch.set_num_threads(usable_cpus())
    encoder = load_encoder(find_encoder("sentence-transformers/all-MiniLM-L6-v2").folder, dropout=0.1).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    ids = torch.randint(1000, 2000, (BATCH, TOKENS))
    mask = torch.ones_like(ids)

    def step() -> None:
        optimizer.zero_grad()
        encoder(input_ids=ids, attention_mask=mask)[0].mean().backward()
        optimizer.step()

    step()
    steps, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        step()
        steps += 1
    return steps * BATCH / (time.monotonic() - started)


if __name__ == "__main__":
    main()
