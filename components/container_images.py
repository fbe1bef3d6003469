"""The container images that steps run in. Cloud Build sets them by digest."""

from __future__ import annotations

import os

COMPONENTS_IMAGE = os.environ.get("GAUNTLET_COMPONENTS_IMAGE", "gauntlet-python/components:0.1.0")
TRAINER_IMAGE = os.environ.get("GAUNTLET_TRAINER_IMAGE", "gauntlet-python/trainer:0.1.0")
