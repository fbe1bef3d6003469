"""Why a model was not found on the Hugging Face hub: its name, or the network."""

from __future__ import annotations

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from gauntlet.manifests.errors import UsageError

HUB_ERRORS = (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ValueError, OSError)
"""What `snapshot_download` raises, besides bugs."""
REFUSALS = (401, 403, 404)


def not_found(key: str, name: str, expected: str, error: Exception) -> UsageError:
    """The message for a model that is neither on this machine nor could be fetched from the hub.

    Args:
        key: The manifest's key, such as `training.encoder`.
        name: What it names.
        expected: What it may name besides a model on the hub.
        error: One of `HUB_ERRORS`.
    """
    said = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in REFUSALS or isinstance(error, HFValidationError):
        return UsageError(
            f"{key}: found {name!r}, expected {expected}, or a model's name on the Hugging Face hub. "
            f"The hub has no such model, or shows it only to its owners ({said})."
        )
    return UsageError(
        f"{key}: {name!r} is no folder here, and the Hugging Face hub cannot be reached to look for it "
        f"({said}). Check the network, or name {expected}."
    )
