"""Virtual environments with a part of the installed packages. Only `download` asks the network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

INSTALLED = Path(sysconfig.get_path("purelib"))


class Environment:
    """A virtual environment beside whose interpreter a user works, in a folder with files of usual names."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv/bin/python"
        self.packages = next((folder / "venv/lib").glob("python3*")) / "site-packages"
        self.work = folder / "work"
        (self.work / "pipelines").mkdir(parents=True)
        for name in ("trainer.py", "serving.py", "tasks.py", "pipelines/__init__.py"):
            (self.work / name).write_text("raise SystemExit('a file of the user was imported')\n")

    def see(self, names: Sequence[str]) -> None:
        """Link some of the installed files and folders."""
        for name in names:
            (self.packages / name).symlink_to(INSTALLED / name)

    def install(self, *what: str) -> None:
        """Install a wheel or a folder by pip, which is that of these tests."""
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", *options]
        done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def download(self, *what: str) -> None:
        """Install packages from the package index, with what they require."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", *what]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str, program: str = "python") -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the user's folder."""
        command = [str(self.python.with_name(program)), *arguments]
        path = os.pathsep.join([str(self.python.parent), os.defpath])
        return subprocess.run(
            command, cwd=self.work, env={"PATH": path}, capture_output=True, text=True, check=False
        )


def everything_but_gauntlet() -> list[str]:
    hidden = ("gauntlet", "__editable__", "__pycache__")
    return [
        path.name
        for path in INSTALLED.iterdir()
        if not path.name.startswith(hidden) and path.suffix != ".pth"
    ]
