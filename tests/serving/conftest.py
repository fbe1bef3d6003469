from __future__ import annotations

from pathlib import Path

import pytest

from gauntlet.serving.bundle import BundleInfo, write_bundle
from tests.text_bundles import word_score_info, write_parts


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """The files of a bundle, by their name in it."""
    return write_parts(tmp_path / "parts")


@pytest.fixture
def info() -> BundleInfo:
    """What `bundle.json` says of it."""
    return word_score_info()


@pytest.fixture
def bundle_folder(tmp_path: Path, parts: dict[str, Path], info: BundleInfo) -> Path:
    """Where the bundle lies."""
    folder = tmp_path / "bundle"
    write_bundle(folder, info, parts)
    return folder
