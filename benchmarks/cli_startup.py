"""CPU seconds of commands beside the least Python that does the same: what Gauntlet's start costs.

    GAUNTLET_HOME=HOME python benchmarks/cli_startup.py [--runs 5] [--quick]

HOME has a text classifier as its only champion, as after `gauntlet run manifests/emotion_sample.yaml`. A
process is timed by the user and system time that it used, so other programs distort it little; commands take
turns. The least Python is `import typer, rich` for a command that only reads files, and for `predict` a
script that scores the same text with onnxruntime and tokenizers on the champion's own files.

Aims, of the medians:
- `gauntlet --help` takes at most 0.5 s;
- `gauntlet predict` of one text takes at most 2 s.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.pipelines.home import gauntlet_home

HELP, PREDICT = "--help", "predict"
AIMS = {HELP: 0.5, PREDICT: 2.0}
TEXT = "what a wonderful surprise"
READING = "import typer, rich.table, rich.markdown"
SCORING = """
import sys
from pathlib import Path
import numpy as np, onnxruntime
from tokenizers import Tokenizer
folder = Path(sys.argv[1])
encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(sys.argv[2])
session = onnxruntime.InferenceSession(folder / "model.onnx")
values = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
values["token_type_ids"] = encoded.type_ids
named = {one.name: np.array([values[one.name]], dtype=np.int64) for one in session.get_inputs()}
print(session.run(None, named)[0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one run; aims are not judged")
    options = parser.parse_args()
    store = open_registry(gauntlet_home().registry_uri)
    [name] = store.names()
    champion = store.champion(name)
    assert champion is not None, f"{name} has no champion"
    with bundle_folder(champion) as folder:
        least = {
            "least Python, reading": ["-c", READING],
            "least Python, predicting": ["-c", SCORING, str(folder), TEXT],
        }
        arguments = {
            HELP: ["--help"],
            "--version": ["--version"],
            "runs": ["runs"],
            "registry": ["registry"],
            "tasks": ["tasks"],
            "check": ["check"],
            "cost": ["cost"],
            PREDICT: ["predict", TEXT],
        }
        commands = least | {
            command: ["-m", "gauntlet.pipelines.cli", *given] for command, given in arguments.items()
        }
        seconds: dict[str, list[float]] = {command: [] for command in commands}
        for _ in range(1 if options.quick else options.runs):
            for command, given in commands.items():
                seconds[command].append(cpu_seconds(given))
    medians = {command: statistics.median(measured) for command, measured in seconds.items()}
    reading, predicting = (medians.pop(command) for command in least)
    for command, median in medians.items():
        beside = predicting if command == PREDICT else reading
        print(f"{command:10} {median:5.2f} s  {median / beside:5.1f}× the least Python ({beside:.2f} s)")
    met = all(medians[command] <= aim for command, aim in AIMS.items())
    print(
        f"CPU seconds, medians of {len(seconds[HELP])}: --help {medians[HELP]:.2f} (aim {AIMS[HELP]}), "
        f"predict {medians[PREDICT]:.2f} (aim {AIMS[PREDICT]}), "
        f"{medians[HELP] / reading:.1f}× and {medians[PREDICT] / predicting:.1f}× the least Python"
    )
    sys.exit(0 if met or options.quick else 1)


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONSAFEPATH": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
