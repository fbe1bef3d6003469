"""A model that is not on this machine: is its name wrong, or is the network down?"""

from __future__ import annotations

import pytest

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.texts.vocabulary import download_from_hub


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody/nothing", "hub cannot be reached"), ("/no/such/folder", "hub has no such model")],
)
def test_a_hub_that_cannot_be_reached_is_not_called_a_wrong_name(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UsageError) as raised:
        download_from_hub("training.encoder", name, ["*.json"], "a folder")
    message = str(raised.value)
    assert message.startswith(f"training.encoder: {'found ' if 'no such' in said else ''}{name!r}")
    assert said in message
