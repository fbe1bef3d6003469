"""Lists the packages of the wheel: the folders of the repository, imported as `gauntlet.<folder>`.

`pyproject.toml` maps each folder to its import name. Setuptools cannot find packages under another name than
their folder's, so that this file adds the prefix.
"""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

MAPPED = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()

setup(
    packages=[
        "gauntlet",
        *(
            f"gauntlet.{name}"
            for name in find_packages(include=[f"{folder}*" for folder in MAPPED if folder != "gauntlet"])
        ),
    ]
)
