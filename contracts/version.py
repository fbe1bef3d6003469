"""What register-model writes: the version that the bundle became in the registry."""

from __future__ import annotations

from typing import ClassVar

from gauntlet.contracts.document import Document


class Version(Document):
    """The content of `version`. `registered` is false if an earlier run has registered the same bundle.

    `overruled` are the rules that the model failed, if a person promoted it anyway. Only then are the fields
    after it set.
    """

    written_by: ClassVar[str] = "register-model"
    omits_none: ClassVar[bool] = True

    name: str
    version: str
    uri: str
    registered: bool = True
    aliases: tuple[str, ...]
    bundle_sha256: str
    overruled: tuple[str, ...] | None = None
    approved_by: str | None = None
    approved_at: str | None = None
    reason: str | None = None
