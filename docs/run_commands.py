"""Runs the commands of tutorials and how-to pages word by word, each page in a fresh clone: `make docs-test`.

    python docs/run_commands.py                      # every page
    python docs/run_commands.py docs/tutorial/*.md   # some
    python docs/run_commands.py --list               # only look whether each block is run or says why not

A fenced block `sh` is run by bash. The blocks of a page share one shell, which starts in the clone, with its
`.venv` active and no `GAUNTLET_HOME`. A block `yaml` or `python` whose first line is a comment with a file's
name, such as `# tickets.yaml`, is written to that file. The code of a notebook is run as one block. A comment
before a block says what else is the case:

    <!-- not run: REASON -->              the block is not run
    <!-- nothing below is run: REASON --> nor is any block after it
    <!-- until URL answers -->            the block is a server: it runs in the background until the page ends
    <!-- exit code 3 -->                  the block's last command ends with this code
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("docs/tutorial/*.md", "docs/how-to/*.md", "examples/*.ipynb")
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
REST = re.compile(r"<!-- nothing below is run: ([^>]*) -->")
NAMED = re.compile(r"# (?P<path>[\w./-]+\.\w+)\n")
COMMAND = re.compile(r"^(?: {4})?\$? ?(?:gauntlet|python3?|pip|make|git|curl|docker|gcloud|kubectl|mlflow) ")
HOURS = 1


@dataclass(frozen=True)
class Block:
    """A block of a page: what bash runs for it, or why nothing is run."""

    line: int
    text: str
    script: str = ""
    reason: str = ""


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page or of a notebook.

    Raises:
        ValueError: A command is neither run nor has a reason.
    """
    page = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return list(_blocks(page))
    cells = [cell["source"] for cell in json.loads(page)["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(lines) for lines in cells)
    return [Block(1, code, f"cat > notebook.py <<'END_OF_FILE'\n{code}\nEND_OF_FILE\npython notebook.py\n")]


def _blocks(page: str) -> Iterator[Block]:
    rest = REST.search(page)
    prose = page
    for found in BLOCK.finditer(page):
        prose = prose.replace(found[0], "\n" * found[0].count("\n"))
        line, note, text = page[: found.start("language")].count("\n") + 1, found["note"] or "", found["text"]
        named = NAMED.match(text)
        if rest and found.start("language") > rest.start():
            reason = rest[1]
        else:
            reason = note.removeprefix("not run: ") if note.startswith("not run: ") else ""
        if found["language"] == "sh":
            yield Block(line, text, "" if reason else _script(text, note), reason)
        elif named and not reason:
            yield Block(line, text, f"cat > {named['path']} <<'END_OF_FILE'\n{text}END_OF_FILE\n")
        elif not found["language"] and any(map(COMMAND.match, text.splitlines())) and not reason:
            raise ValueError(f"line {line}: mark the block as `sh`, or say above it why it is not run")
    for number, text in enumerate(prose.splitlines(), 1):
        if COMMAND.match(text) and text.startswith("    "):
            raise ValueError(f"line {number}: write commands in a fenced block `sh`")


def _script(text: str, note: str) -> str:
    if url := re.match(r"until (\S+) answers", note):
        wait = f"until curl --silent --fail --output /dev/null {url[1]}; do sleep 1; kill -0 $server; done"
        return f"(\n{text}) & server=$!\n{wait}\n"
    if code := re.match(r"exit code (\d+)", note):
        return f"set +e; (\nset -e\n{text}); code=$?; set -e\ntest $code = {code[1]}\n"
    return text


def run(page: Path, clone: Path, log: Path) -> tuple[int, float, str]:
    """Run the blocks of a page in a clone: how many were run, the seconds, and what failed."""
    parts = [one for one in blocks_of(page) if one.script]
    told = log.with_suffix(".begun")
    script = "".join(
        f"echo {one.line} > {told}\nset -x\n{one.script}\n{{ set +x; }} 2> /dev/null\n" for one in parts
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GAUNTLET_")}
    environment |= {"PATH": f"{clone / '.venv/bin'}:{os.environ['PATH']}", "NO_COLOR": "1"}
    environment.pop("PYTHONPATH", None)
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | str = shell.wait(HOURS * 3600)
        except subprocess.TimeoutExpired:
            code = f"more than {HOURS} h"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
            down = [clone / ".venv/bin/gauntlet", "down"]
            subprocess.run(down, cwd=clone, env=environment, capture_output=True, check=False)
    failed = "" if code == 0 else f"line {told.read_text().strip()}: {code}"
    return len(parts), time.monotonic() - began, failed


def fresh(clone: Path) -> None:
    """Make the clone, or bring an earlier one to the newest commit without anything else in it."""
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    git = ["git", "-C", str(clone)]
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run([*git, "fetch", "--quiet", str(REPOSITORY), commit], check=True)
    subprocess.run([*git, "reset", "--quiet", "--hard", commit], check=True)
    subprocess.run(
        [*git, "clean", "-ffdxq", "-e", ".venv", "-e", "/gauntlet", "-e", "*.egg-info"], check=True
    )
    subprocess.run(["make", "--silent", "setup"], cwd=clone, check=True)


def main() -> int:
    """Run the pages and print a table; 1 if a command failed."""
    parser = argparse.ArgumentParser(
        description="Run the commands of the documentation's pages in a fresh clone."
    )
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument(
        "--list", action="store_true", help="run nothing: check that each block is run or says why not"
    )
    parser.add_argument("--clone", type=Path, help="a folder that keeps the clone for the next time")
    chosen = parser.parse_args()
    pages = chosen.pages or sorted(path for pattern in PAGES for path in REPOSITORY.glob(pattern))
    faults = 0
    for page in pages:
        try:
            found = blocks_of(page)
        except ValueError as error:
            faults += 1
            print(f"{page}: {error}", file=sys.stderr)
            continue
        if chosen.list:
            skipped = sum(bool(one.reason) for one in found)
            print(f"{sum(bool(one.script) for one in found):4} run {skipped:4} not run  {page.stem}")
    if chosen.list or faults:
        return int(faults > 0)
    with tempfile.TemporaryDirectory() as folder:
        clone = (chosen.clone or Path(folder) / "gauntlet").resolve()
        print(f"{'page':44} {'blocks':>6} {'seconds':>8}")
        for page in pages:
            fresh(clone)
            log = Path(folder) / f"{page.stem}.log"
            count, seconds, failed = run(page.resolve(), clone, log)
            faults += bool(failed)
            print(f"{page.stem:44} {count:6} {seconds:8.0f}  {failed or 'ok'}", flush=True)
            if failed:
                print(log.read_text(encoding="utf-8")[-3000:], file=sys.stderr)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
