"""A model that is not found: is it the name, or the network?"""

from __future__ import annotations

import pytest
from huggingface_hub import snapshot_download

from gauntlet.trainer.hub import HUB_ERRORS, not_found


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody/nothing", "hub cannot be reached"), ("/no/such/folder", "hub has no such model")],
)
def test_a_hub_that_cannot_be_reached_is_not_called_a_wrong_name(name: str, said: str) -> None:
    with pytest.raises(HUB_ERRORS) as raised:
        snapshot_download(name, endpoint="http://127.0.0.1:1")
    message = str(not_found("training.encoder", name, "a folder", raised.value))
    assert message.startswith(f"training.encoder: {'found ' if 'no such' in said else ''}{name!r}")
    assert said in message
