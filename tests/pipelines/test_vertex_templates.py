"""Templates in Artifact Registry, through kfp's own client, and runs that are submitted from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from tests.fakes.cloud import FakeCloud
from tests.fakes.web import REPOSITORY
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet
from tests.pipelines.test_vertex_submit import cached_tasks, jobs

PACKAGE = "emotion-sample"
ACCOUNT = "trainer@demo.iam.gserviceaccount.com"


@pytest.fixture
def template(place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """One that was uploaded under the tag v1, as `gauntlet upload` names it."""
    compiled = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(compiled), "--set", "training.epochs=3") == 0
    capsys.readouterr()
    assert gauntlet("upload", str(compiled), "--repository", REPOSITORY, "--tag", "v1") == 0
    uri = capsys.readouterr().out.strip()
    assert uri == f"{REPOSITORY}/{PACKAGE}/v1@sha256:{hashlib.sha256(compiled.read_bytes()).hexdigest()}"
    return uri


def test_a_template_is_submitted_by_its_digest_with_its_own_settings_and_those_of_the_command(
    template: str, place: FakeCloud
) -> None:
    assert gauntlet("submit", "--template", template, "--set", "gates.min_macro_f1=0.7") == 0
    [request] = place.api.requests("CreatePipelineJob")
    job = request.pipeline_job
    version = template.partition("@")[2]
    assert job.template_uri == f"{REPOSITORY}/{PACKAGE}/{version}"
    values = job.runtime_config.parameter_values
    assert (values["training"]["epochs"], values["gates"]["min_macro_f1"]) == (3, 0.7)
    assert values["name"] == "emotion_sample"
    without_tag = template.replace("/v1@", "@")
    assert gauntlet("submit", "--template", without_tag, "--dry-run") == 0


def test_a_template_is_run_without_the_cache_where_that_is_asked_for(template: str, place: FakeCloud) -> None:
    assert gauntlet("submit", "--template", template, "--no-cache") == 0
    [job] = jobs(place)
    assert job.template_uri and cached_tasks(job) == set()


def test_a_template_from_before_training_had_an_account_of_its_own_is_submitted_without_one(
    place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(compiled)) == 0
    spec = yaml.safe_load(compiled.read_text())
    inside = "pipelinechannel--training_account"
    outer, steps = spec["root"], spec["components"]["comp-exit-handler-1"]
    del outer["inputDefinitions"]["parameters"]["training_account"]
    del outer["dag"]["tasks"]["exit-handler-1"]["inputs"]["parameters"][inside]
    del steps["inputDefinitions"]["parameters"][inside]
    del steps["dag"]["tasks"]["train-model"]["inputs"]["parameters"]["service_account"]
    compiled.write_text(yaml.safe_dump(spec))
    capsys.readouterr()
    assert gauntlet("upload", str(compiled), "--repository", REPOSITORY, "--tag", "v1") == 0
    submission = ("submit", "--template", capsys.readouterr().out.strip(), "--service-account", ACCOUNT)

    assert gauntlet(*submission) == 0
    for options in (("--training-account", ACCOUNT), ("--training-account", ACCOUNT, "--dry-run")):
        assert gauntlet(*submission, *options) == 2
        assert "was compiled without this parameter. Compile and upload it again" in capsys.readouterr().err
    assert len(place.api.requests("CreatePipelineJob")) == 1


def test_an_upload_whose_answer_is_lost_is_the_same_template_when_it_is_done_again(
    template: str, place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ("upload", str(tmp_path / "sample.yaml"), "--repository", REPOSITORY, "--tag", "v1")
    place.web.answers_to_lose = 1
    assert gauntlet(*again) == 1
    assert f"{REPOSITORY}: answered 503. Try again." in capsys.readouterr().err
    assert gauntlet(*again) == 0
    assert capsys.readouterr().out.strip() == template
    assert len(place.web.templates) == 1


def test_a_tag_that_has_moved_is_refused(
    template: str, place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = f"sha256:{'9' * 64}"
    place.web.tags[PACKAGE, "v1"] = moved
    assert gauntlet("submit", "--template", template) == 2
    message = capsys.readouterr().err
    assert "the tag v1 has moved" in message and moved in message
    assert place.api.requests("CreatePipelineJob") == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=three", "training.epochs"),
        ("seed=yes", "seed"),
        ("training.resources.max_hours=1", "it is compiled into the template"),
        ("name=other", "it is compiled into the template"),
        ("no.such.key=1", "no"),
    ],
)
def test_settings_that_a_template_does_not_take_are_refused(
    override: str, words: str, template: str, place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("submit", "--template", template, "--set", override) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
    assert "/tmp" not in message
    assert place.api.requests("CreatePipelineJob") == []


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (f"{REPOSITORY}/{PACKAGE}/v1", "expected https://REGION-kfp.pkg.dev"),
        (f"{REPOSITORY}/{PACKAGE}/latest", "expected https://REGION-kfp.pkg.dev"),
        (f"{REPOSITORY}/{PACKAGE}@sha256:{'0' * 64}", "answered 404"),
        (f"{REPOSITORY}/{PACKAGE}/v9@sha256:{'0' * 64}", "answered 404"),
    ],
)
def test_what_names_no_template_is_refused(uri: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("submit", "--template", uri) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_manifest_or_a_template_is_needed_and_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("submit") == 2
    assert gauntlet("submit", SAMPLE, "--template", "x") == 2
    assert capsys.readouterr().err.count("expected one of them") == 2


def test_only_what_can_be_run_is_uploaded(
    place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = str(ROOT / "compiled" / "emotion.yaml")
    assert gauntlet("upload", committed, "--repository", REPOSITORY, "--tag", "v1") == 2
    assert "expected one by digest" in capsys.readouterr().err
    (tmp_path / "x.yaml").write_text("pipelineInfo: {nme: x}")
    assert gauntlet("upload", str(tmp_path / "x.yaml"), "--repository", REPOSITORY, "--tag", "v1") == 2
    assert "not a compiled pipeline" in capsys.readouterr().err
    assert gauntlet("upload", committed, "--repository", "https://example.com/x", "--tag", "v1") == 2
    assert "--repository: found" in capsys.readouterr().err
    assert place.web.templates == {}
