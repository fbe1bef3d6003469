"""What a user may set of a server: the options of its command."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from gauntlet.manifests.errors import UsageError

Batching = Literal["off", "safe", "on"]
BATCHING = (
    "Whether rows share a batch: off; on; or safe, where the certificate says that few enough labels change "
    "with the rows of a batch."
)

Store = Literal["full", "features", "nothing"]
STORE = (
    "What the request log has: features of the rows and what was predicted; full, with texts; or nothing but "
    "ids, times and statuses."
)
Shape = Literal["auto", "wide", "per-core"]
SHAPE = (
    "How a model that scores rows uses the CPUs: wide, one batch at a time on all of them; per-core, a batch "
    "on each; or auto, the one that computes more rows a second when the server starts."
)


LOG_SETTINGS = ("request_log", "sample_rate", "store")
LOG_KEY = "GAUNTLET_REQUEST_LOG_KEY"
"""The variable with the key of the request log, which decides what is sampled and hides clients."""


@dataclass(frozen=True)
class Settings:
    """How to serve. The metadata of each field describe its option on the command line."""

    host: str | None = field(
        default=None,
        metadata={"type": str, "help": "Default: 127.0.0.1; in a container that sets a port, 0.0.0.0."},
    )
    port: int | None = field(
        default=None,
        metadata={"type": int, "help": "Default: $AIP_HTTP_PORT, $PORT or 8080; 0 takes a free one."},
    )
    batching: Batching = field(default="safe", metadata={"choices": get_args(Batching), "help": BATCHING})
    shape: Shape = field(default="auto", metadata={"choices": get_args(Shape), "help": SHAPE})
    timeout: float = field(
        default=10.0,
        metadata={"type": float, "help": "Seconds for a request without the header X-Request-Timeout."},
    )
    batch_tokens: int = field(
        default=4096, metadata={"type": int, "help": "The most tokens of a batch, with padding."}
    )
    queue_tokens: int = field(
        default=131_072, metadata={"type": int, "help": "The most tokens that may wait."}
    )
    queue_mb: float = field(
        default=128.0, metadata={"type": float, "help": "The most megabytes of requests that may be held."}
    )
    max_body_mb: float = field(
        default=10.0, metadata={"type": float, "help": "The most megabytes of one request."}
    )
    max_instances: int = field(default=256, metadata={"type": int, "help": "The most rows of one request."})
    max_pixels: int = field(
        default=20_000_000, metadata={"type": int, "help": "The most pixels of an image."}
    )
    allow_gs: str | None = field(
        default=None, metadata={"type": str, "help": "gs://BUCKET/FOLDER of which requests may name images."}
    )
    request_log: str | None = field(
        default=None, metadata={"type": str, "help": "A folder or gs://BUCKET/FOLDER to log requests in."}
    )
    sample_rate: float = field(
        default=1.0, metadata={"type": float, "help": "The share of rows in the request log, up to 1."}
    )
    store: Store = field(default="features", metadata={"choices": get_args(Store), "help": STORE})

    def __post_init__(self) -> None:
        if self.sample_rate > 1:
            raise UsageError(f"--sample-rate: found {self.sample_rate}, expected a number up to 1.")
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and (value < 0 or (value == 0 and one.name != "port")):
                name = one.name.replace("_", "-")
                raise UsageError(f"--{name}: found {value}, expected a number over 0.")

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen, given what Vertex AI and Cloud Run say in the environment."""
        said = os.environ.get("AIP_HTTP_PORT") or os.environ.get("PORT")
        if said is not None and not said.isdecimal():
            raise UsageError(f"AIP_HTTP_PORT or PORT: found {said!r}, expected the number of a port.")
        port = int(said or 8080) if self.port is None else self.port
        return self.host or ("127.0.0.1" if said is None else "0.0.0.0"), port
