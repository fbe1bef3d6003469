"""Templates: compiled pipelines in a KFP repository of Artifact Registry, with a tag and a digest.

A tag can be moved to other content; a digest cannot. So a template is submitted by its digest. If the URI has
a tag too and the tag now points to another digest, the submission is refused.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from gauntlet.backends.google.calls import not_logged_in, unreachable
from gauntlet.components.sections import given
from gauntlet.manifests.errors import GauntletError, ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import SECTIONS
from gauntlet.pipelines.checks import require_affordable
from gauntlet.pipelines.vertex.lint import require_acceptable
from gauntlet.pipelines.vertex.packages import require_packaged
from gauntlet.pipelines.vertex.submission import Submission

REPOSITORY = re.compile(r"https://[a-z0-9-]+-kfp\.pkg\.dev/[\w.:-]+/[a-z0-9-]+")
TEMPLATE = re.compile(
    rf"(?P<repository>{REPOSITORY.pattern})/(?P<package>[a-z0-9-]+)(?:/(?P<tag>[\w.-]+))?"
    r"@(?P<version>sha256:[0-9a-f]{64})"
)
COMPILED_IN = ("name", "task", "training.resources")
"""Keys that a template does not read from its parameters: its name and its machines are compiled in."""


@dataclass(frozen=True)
class Template:
    """A template's repository, package and digest, and the tag that should point to it, if there is one."""

    repository: str
    package: str
    version: str
    tag: str | None = None

    @classmethod
    def of(cls, uri: str) -> Template:
        """Read `…-kfp.pkg.dev/PROJECT/REPOSITORY/PACKAGE[/TAG]@sha256:…`, or raise a `UsageError`."""
        found = TEMPLATE.fullmatch(uri)
        if found is None:
            raise UsageError(
                f"--template: found {uri!r}, expected "
                "https://REGION-kfp.pkg.dev/PROJECT/REPOSITORY/PACKAGE[/TAG]@sha256:…. See `gauntlet upload`."
            )
        return cls(found["repository"], found["package"], found["version"], found["tag"])

    @property
    def uri(self) -> str:
        """The URI that Vertex AI reads."""
        return f"{self.repository}/{self.package}/{self.version}"

    def __str__(self) -> str:
        tag = f"/{self.tag}" if self.tag else ""
        return f"{self.repository}/{self.package}{tag}@{self.version}"


def upload(path: Path, repository: str, tag: str) -> Template:
    """Upload a compiled pipeline under a tag.

    Raises:
        UsageError: Vertex AI would not run it, its images are not named by digest or lack a package that it
            reads, or this account may not write it.
        GauntletError: The repository cannot be reached.
    """
    if not REPOSITORY.fullmatch(repository.rstrip("/")):
        raise UsageError(
            f"--repository: found {repository!r}, expected https://REGION-kfp.pkg.dev/PROJECT/REPOSITORY."
        )
    parsed = _parsed(path, str(path))[1]
    require_acceptable(parsed, by_digest=True)
    require_packaged(_settings(parsed))
    with _explained(repository):
        package, version = _client(repository).upload_pipeline(str(path), tags=[tag])
    return Template(repository.rstrip("/"), package, version, tag)


def template_submission(uri: str, overrides: Sequence[str]) -> Submission:
    """The template, with the manifest that its parameters and the overrides give.

    Raises:
        UsageError: The URI is not valid, the tag has moved, or an override changes what is compiled in.
        ManifestError: The parameters give no valid manifest, or one that does not fit its budget.
        GauntletError: The repository cannot be reached.
    """
    template = Template.of(uri)
    fixed = [one for one in overrides if one.partition("=")[0].strip().startswith(COMPILED_IN)]
    if fixed:
        raise UsageError(f"--set {fixed[0]}: it is compiled into the template. Submit a manifest instead.")
    _require_unmoved(template)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.yaml"
        with _explained(template.repository):
            client = _client(template.repository)
            client.download_pipeline(template.package, version=template.version, file_name=str(path))
        spec, parsed = _parsed(path, uri)
        manifest_file = Path(folder) / "manifest.yaml"
        manifest_file.write_text(yaml.safe_dump(_settings(parsed)), encoding="utf-8")
        try:
            manifest = load_manifest(manifest_file, overrides)
        except ManifestError as error:
            raise ManifestError([replace(fault, file=uri) for fault in error.faults]) from None
    require_affordable(manifest, uri)
    return Submission(manifest, spec, template.uri)


def _require_unmoved(template: Template) -> None:
    if template.tag is None:
        return
    with _explained(template.repository):
        named = _client(template.repository).get_tag(template.package, template.tag)["version"]
    version = named.rpartition("/")[2]
    if version != template.version:
        raise UsageError(
            f"--template: the tag {template.tag} has moved: it names {version} now, not "
            f"{template.version}. Look at what changed, then submit the one that you mean."
        )


def _settings(spec: PipelineSpec) -> dict[str, Any]:
    """The manifest's content, from the defaults of the template's parameters."""
    inputs = spec.root.input_definitions.parameters
    content = {}
    for key in ("name", "task", "seed", *SECTIONS):
        if key in inputs:
            value = json_format.MessageToDict(inputs[key].default_value)
            content[key] = _whole(given(value) if isinstance(value, dict) else value)
    return {"description": spec.pipeline_info.description, **content}


def _whole(content: Any) -> Any:
    """Whole numbers as integers: all numbers in a template are floating point."""
    if isinstance(content, dict):
        return {key: _whole(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_whole(value) for value in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content


def _parsed(path: Path, source: str) -> tuple[dict[str, Any], PipelineSpec]:
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return spec, json_format.ParseDict(spec, PipelineSpec())
    except json_format.ParseError as error:
        cause = str(error).partition("\n")[0]
        raise UsageError(f"{source}: not a compiled pipeline for Vertex AI: {cause}") from None


def _client(repository: str) -> Any:
    from kfp.registry import RegistryClient

    return RegistryClient(host=repository)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    import requests
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAuthError as error:
        raise not_logged_in(repository, error) from error
    except requests.HTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise UsageError(
                f"{repository}: answered {status}. There is no such template, or this account may not "
                "read it, or write: see the roles Artifact Registry Reader and Writer."
            ) from error
        raise GauntletError(f"{repository}: answered {status}. Try again.") from error
    except requests.ConnectionError as error:
        raise unreachable(repository, error) from error
