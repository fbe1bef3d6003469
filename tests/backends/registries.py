"""The registries that `test_registry.py` tests, each with the means to damage its bundles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import Registry
from gauntlet.serving.bundle import BundleInfo, write_bundle

if TYPE_CHECKING:  # the fake imports Google's clients, which takes seconds
    from tests.fakes.cloud import FakeCloud
    from tests.fakes.mlflow_server import LoopbackMlflow

MODEL = "emotion"


@dataclass(frozen=True)
class RegistryCase:
    """A registry under test.

    Attributes:
        registry: The registry, empty except for other tests' models.
        model: A model name that no other test uses.
        alter: Replaces a file of a bundle, by the bundle's URI and the file's name.
        remove: Deletes a bundle's files.
    """

    registry: Registry
    model: str
    alter: Callable[[str, str, bytes], None]
    remove: Callable[[str], None]

    def register(self, folder: Path, run_id: str) -> str:
        """Register the bundle of a run, made if it does not exist, and return the version's number."""
        bundle = folder / run_id
        if not bundle.exists():
            make_bundle(bundle, run_id)
        return self.registry.register(self.model, bundle, {"run_id": run_id}).version

    def promote(self, folder: Path, *run_ids: str) -> None:
        """Register and promote the bundles of some runs, one after the other."""
        for run_id in run_ids:
            self.register(folder, run_id)
            self.registry.promote(self.model)

    @property
    def aliases(self) -> dict[str, str]:
        """alias → version, without Vertex AI's own alias `default`."""
        listed = self.registry.versions(self.model)
        return {alias: v.version for v in listed for alias in v.aliases if alias != "default"}


def make_bundle(folder: Path, content: str = "weights") -> Path:
    """A bundle that differs from others by the content of its model."""
    source = folder.with_name(folder.name + "-source")
    source.write_text(content)
    info = BundleInfo(
        name=MODEL,
        task="text_classification",
        labels=("sadness", "joy"),
        inputs=(),
        outputs=(),
        max_length=128,
        opset=17,
        candidate="fused",
        precision="fp32",
        quality={"macro_f1": 0.9},
        latency_ms={"1": 2.0},
        speedup={"1": 3.0},
        lineage={"git_commit": "abc"},
    )
    write_bundle(folder, info, {"model.onnx": source, "tokenizer.json": source})
    return folder


def on_disk(registry_uri: str) -> RegistryCase:
    """A registry whose bundles are folders on this machine, as SQLite's."""

    def remove(bundle_uri: str) -> None:
        for file in Path(bundle_uri).iterdir():
            file.unlink()

    return RegistryCase(
        registry=open_registry(registry_uri),
        model=MODEL,
        alter=lambda uri, name, content: _write(Path(uri) / name, content),
        remove=remove,
    )


def mlflow_server(server: LoopbackMlflow, model: str) -> RegistryCase:
    """MLflow's registry on a server, which all tests share."""

    def files(bundle_uri: str) -> Path:
        [folder] = server.artifacts.rglob(f"{bundle_uri.rpartition('?run=')[2]}/artifacts/bundle")
        return folder

    def remove(bundle_uri: str) -> None:
        for file in files(bundle_uri).iterdir():
            file.unlink()

    return RegistryCase(
        registry=open_registry(server.uri),
        model=model,
        alter=lambda uri, name, content: _write(files(uri) / name, content),
        remove=remove,
    )


def vertex(cloud: FakeCloud) -> RegistryCase:
    """Vertex AI Model Registry."""

    def alter(bundle_uri: str, name: str, content: bytes) -> None:
        cloud.bucket.objects[f"{bundle_uri}/{name}"] = content

    def remove(bundle_uri: str) -> None:
        for uri in [uri for uri in cloud.bucket.objects if uri.startswith(bundle_uri)]:
            del cloud.bucket.objects[uri]

    uri = f"vertex://demo/{cloud.LOCATION}?staging=gs://bucket/gauntlet"
    return RegistryCase(registry=open_registry(uri), model=MODEL, alter=alter, remove=remove)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
