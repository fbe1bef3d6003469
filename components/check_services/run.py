"""Asks the services that later steps write to."""

from __future__ import annotations

from pathlib import Path

from gauntlet.backends.factory import open_registry, open_tracking
from gauntlet.contracts.document import write_text


def run(name: str, registry_uri: str, tracking_uri: str, checked: Path) -> None:
    """Read the champion of `name`, and write what was found to `checked`. Tracking never ends a run, so of
    the tracking URI only the form is checked.

    Raises:
        UsageError: A URI is of no known kind, or this account may not read the registry.
        GauntletError: The registry is unavailable.
    """
    open_tracking(tracking_uri, name, name, {})
    champion = open_registry(registry_uri).champion(name)
    found = "no champion yet" if champion is None else f"champion {champion.version}"
    message = f"{registry_uri}: {name} has {found}"
    print(message, flush=True)
    write_text(checked, f"{message}\n")
