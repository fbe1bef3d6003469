"""Before a run, check that a text classifier's encoder exists and reads texts of `training.max_length`."""

from __future__ import annotations

from pathlib import Path

from gauntlet.manifests.errors import Fault, ManifestError
from gauntlet.manifests.schema import Manifest
from gauntlet.tasks.text_classification.encoder_files import READING_FILES, find_here
from gauntlet.tasks.text_classification.manifest import TextTraining


def require_text_length(manifest: Manifest, path: Path) -> None:
    """Refuse more tokens than the encoder reads, if it is on this machine; otherwise validate-data checks it.

    Raises:
        ManifestError: `training.max_length`, or a value that a search may try, is over that; or there is no
            folder at the encoder's path.
        UsageError: The encoder's folder lacks a file.
    """
    training = manifest.training
    if not isinstance(training, TextTraining):
        return
    if Path(training.encoder).is_absolute() and not Path(training.encoder).is_dir():
        expected, action = "a folder that exists, or the name of a model", "Correct it."
        raise ManifestError([Fault(str(path), "training.encoder", training.encoder, expected, action)])
    files = find_here(training.encoder, READING_FILES)
    positions = None if files is None else files.positions
    if positions is None:
        return
    asked = {"training.max_length": training.max_length}
    if training.search is not None and training.search.max_length is not None:
        values = [value for value in training.search.max_length.checked() if not isinstance(value, str)]
        asked["training.search.max_length"] = int(max(values))
    expected = f"at most {positions}, the tokens that {training.encoder} reads"
    faults = [
        Fault(str(path), key, str(found), expected, "Lower it, or choose an encoder for longer texts.")
        for key, found in asked.items()
        if found > positions
    ]
    if faults:
        raise ManifestError(faults)
