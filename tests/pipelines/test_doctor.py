"""`gauntlet doctor` against a project on loopback, asked through Google's own credentials and transport."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gauntlet.manifests.errors import GauntletError
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.vertex.doctor import Needs, needs
from tests.fakes.cloud import CLOSED_PORT, Trust
from tests.fakes.google_rest import RestProject

REGION = "europe-west4"
PROJECT = "cloudresourcemanager/v3/projects/demo"


def addresses(wanted: Needs) -> dict[str, str]:
    """Where the documentation of each API says that a resource is."""
    account = "iam/v1/projects/demo/serviceAccounts/{}@demo.iam.gserviceaccount.com"
    repository = f"artifactregistry/v1/projects/demo/locations/{REGION}/repositories/" + "{}"
    return {
        "project": PROJECT,
        "runs": "storage/storage/v1/b/demo-gauntlet-runs",
        "data": "storage/storage/v1/b/demo-gauntlet-data",
        **{name: repository.format(each.id) for name, each in wanted.repositories.items()},
        **{name: account.format(each.id) for name, each in wanted.accounts.items()},
    }


@pytest.fixture
def project(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestProject]:
    """A project with all that is needed."""
    fake = RestProject(trust.authority)
    environment = {
        **trust.environment,
        "https_proxy": fake.proxy.url,
        "no_proxy": "127.0.0.1",
    }
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("COLUMNS", "200")
    wanted, where = needs(), addresses(needs())
    fake.apis = set(wanted.apis)
    fake.there = set(where.values()) - {PROJECT}
    fake.may_act_as = {f"{each.id}@demo.iam.gserviceaccount.com" for each in wanted.accounts.values()}
    for grant in wanted.grants:
        caller = "me" if grant.who == "submitter" else where[grant.who].rpartition("/")[2]
        fake.permissions[caller, where[grant.target]] |= set(grant.permissions)
    yield fake
    fake.close()
    assert fake.proxy.refused == []


def doctor(
    capsys: pytest.CaptureFixture[str], project: str = "demo", region: str = REGION
) -> tuple[int, str]:
    """The exit code, and everything that was printed."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--project", project, "--region", region])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


def line(printed: str, need: str) -> str:
    """The row of one need, its columns parted by one space."""
    [found] = [row for row in printed.splitlines() if row.split()[1:2] == [need]]
    return " ".join(found.split())


def test_a_project_with_everything_is_sound(project: RestProject, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = doctor(capsys)

    assert code == 0
    assert "missing" not in printed.replace("nothing missing", "")
    wanted = needs()
    count = sum(map(len, (wanted.apis, wanted.buckets, wanted.repositories, wanted.accounts)))
    count += sum(len(grant.permissions) for grant in wanted.grants)
    assert f"demo: nothing missing of {count} needs, 0 not seen" in printed


def test_every_kind_of_thing_that_is_missing_has_its_line_and_its_command(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    where = addresses(needs())
    project.apis.remove("pubsub.googleapis.com")
    project.there -= {where["runs"], where["templates"], where["trigger"]}
    project.permissions["me", PROJECT].remove("aiplatform.schedules.update")

    with pytest.raises(SystemExit):
        main(["doctor", "--project", "demo", "--region", REGION, "--json"])
    found = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert {"group": "API", "need": "pubsub.googleapis.com", "state": "missing"}.items() <= next(
        each for each in found if each["state"] == "missing"
    ).items()

    code, printed = doctor(capsys)

    assert code == 1
    for need, command in {
        "pubsub.googleapis.com": "gcloud services enable pubsub.googleapis.com --project demo",
        "gs://demo-gauntlet-runs": "gcloud storage buckets create gs://demo-gauntlet-runs --location "
        "europe-west4 --project demo --uniform-bucket-level-access",
        "gauntlet-templates": "gcloud artifacts repositories create gauntlet-templates --location "
        "europe-west4 --repository-format kfp --project demo",
        "gauntlet-trigger@demo.iam.gserviceaccount.com": "gcloud iam service-accounts create "
        "gauntlet-trigger --project demo",
    }.items():
        state, number = line(printed, need).split()[-2:]
        assert state == "missing"
        assert f"\n{number:>3}  {command}\n" in printed
    assert "demo: 5 of " in printed
    row = next(row for row in printed.splitlines() if "schedules.update" in row and "missing" in row)
    assert row.split()[:2] == ["submitter", "may"]
    grant = (
        "gcloud projects add-iam-policy-binding demo --member "
        "serviceAccount:trainer@demo.iam.gserviceaccount.com --role roles/aiplatform.user"
    )
    assert f"\n{row.split()[-1]:>3}  {grant}\n" in printed


@pytest.mark.parametrize(
    ("who", "target", "permission", "command"),
    [
        (
            "training",
            "runs",
            "storage.objects.create",
            "gcloud storage buckets add-iam-policy-binding gs://demo-gauntlet-runs --member serviceAccount:"
            "gauntlet-training@demo.iam.gserviceaccount.com --role roles/storage.objectUser",
        ),
        (
            "build",
            "images",
            "artifactregistry.repositories.uploadArtifacts",
            "gcloud artifacts repositories add-iam-policy-binding gauntlet-images --member serviceAccount:"
            "gauntlet-build@demo.iam.gserviceaccount.com --role roles/artifactregistry.writer --location "
            "europe-west4 --project demo",
        ),
        (
            "release",
            "training",
            "iam.serviceAccounts.actAs",
            "gcloud iam service-accounts add-iam-policy-binding "
            "gauntlet-training@demo.iam.gserviceaccount.com --member serviceAccount:"
            "gauntlet-release@demo.iam.gserviceaccount.com --role roles/iam.serviceAccountUser "
            "--project demo",
        ),
        ("training", "project", "aiplatform.contexts.create", "terraform -chdir=infra apply"),
    ],
)
def test_what_a_service_account_may_not_do_is_found_by_asking_as_that_account(
    project: RestProject,
    capsys: pytest.CaptureFixture[str],
    who: str,
    target: str,
    permission: str,
    command: str,
) -> None:
    where = addresses(needs())
    account = where[who].rpartition("/")[2]
    project.permissions[account, where[target]].remove(permission)

    code, printed = doctor(capsys)

    assert code == 1
    [row] = [row for row in printed.splitlines() if "missing" in row.split()[-2:]]
    assert row.split() == [who, "may", permission, "on", target, "missing", "1"]
    assert f"\n  1  {command}\n" in printed


def test_what_may_not_be_looked_at_is_neither_there_nor_missing(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    where = addresses(needs())
    project.may_act_as.remove("gauntlet-build@demo.iam.gserviceaccount.com")
    project.hidden.add(where["images"])

    code, printed = doctor(capsys)

    assert code == 0
    assert ", 2 not seen" in printed
    assert line(printed, "gauntlet-images").split()[2:4] == ["not", "seen"]
    assert "Permission denied on resource (or it may not exist)." in printed
    assert (
        "gcloud iam service-accounts add-iam-policy-binding gauntlet-build@demo.iam.gserviceaccount.com "
        "--member user:YOU --role roles/iam.serviceAccountTokenCreator --project demo" in printed
    )


def test_an_unknown_project_is_said_and_nothing_else_is_asked(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = doctor(capsys, project="no/such?project")

    assert code == 2
    assert "--project: no/such?project: there is no such project, or this account may not see it" in printed
    assert project.asked == ["cloudresourcemanager/v3/projects/no%2Fsuch%3Fproject"]


def test_a_region_that_vertex_ai_does_not_have_is_refused_with_those_that_it_has(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = doctor(capsys, region="europe-west99")

    assert code == 2
    assert "--region: found 'europe-west99', expected one of europe-west4, us-central1." in printed


def test_where_vertex_ai_is_not_enabled_that_is_what_is_missing(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.apis.remove("aiplatform.googleapis.com")

    code, printed = doctor(capsys)

    assert code == 1
    assert line(printed, "aiplatform.googleapis.com").split()[-2] == "missing"


def test_where_nothing_can_be_looked_at_the_api_that_it_takes_is_named(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.apis.remove("cloudresourcemanager.googleapis.com")

    code, printed = doctor(capsys)

    assert code == 2
    assert "`gcloud services enable cloudresourcemanager.googleapis.com --project demo`" in printed


def test_without_the_list_of_apis_the_rest_is_looked_at(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.apis.remove("serviceusage.googleapis.com")

    code, printed = doctor(capsys)

    assert code == 0
    assert "gcloud services enable serviceusage.googleapis.com --project demo" in printed
    assert line(printed, "gs://demo-gauntlet-runs").split()[-1] == "ok"


def test_a_login_that_is_over_is_said_with_how_to_log_in_again(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.expired = True

    code, printed = doctor(capsys)

    assert code == 2
    assert "Token has been expired or revoked." in printed
    assert "gcloud auth application-default login" in printed
    assert project.asked == []


def test_nobody_logged_in_is_said(
    project: RestProject, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/key.json")

    code, printed = doctor(capsys)

    assert code == 2
    assert "Google Cloud: not logged in" in printed


def test_a_service_out_of_reach_is_a_failure_that_names_it(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.proxy.ports = {**project.proxy.ports, "cloudresourcemanager.googleapis.com": CLOSED_PORT}

    code, printed = doctor(capsys)

    assert code == GauntletError.exit_code
    assert "cloudresourcemanager.googleapis.com: cannot be reached" in printed


def test_a_busy_service_says_nothing_of_the_project(
    project: RestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.busy = True

    code, printed = doctor(capsys)

    assert code == GauntletError.exit_code
    assert "cloudresourcemanager.googleapis.com: answers 503. Run again in a minute." in printed


REGISTRY = "vertex://demo/europe-west4?staging=gs://demo-gauntlet-runs/models"
IMAGE = f"europe-west4-docker.pkg.dev/demo/images/serving@sha256:{'1' * 64}"
SERVING = "gauntlet-serving@demo.iam.gserviceaccount.com"
RELEASE = "gauntlet-release@demo.iam.gserviceaccount.com"


@pytest.fixture
def deploying(project: RestProject) -> RestProject:
    """A project with all that both deployment targets need, where versions run as an account of their own."""
    accounts = {"serving": f"iam/v1/projects/demo/serviceAccounts/{SERVING}", **addresses(needs())}
    project.there.add(accounts["serving"])
    for target in needs().deployments.values():
        for grant in target.grants:
            caller = {"submitter": "me", "release": RELEASE}.get(grant.who, SERVING)
            project.permissions[caller, accounts[grant.target]] |= set(grant.permissions)
    return project


def examined(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target: str, registry: str
) -> tuple[int, str]:
    """`gauntlet doctor` of a manifest that deploys to a target."""
    folder = Path(os.environ["GAUNTLET_HOME"])
    folder.mkdir(exist_ok=True)
    manifest = yaml.safe_load(Path("manifests/emotion_sample.yaml").read_text(encoding="utf-8"))
    manifest["deployment"] = {"target": target}
    if target in needs().deployments:
        manifest["deployment"][target] = {"service_account": SERVING}
    path = folder / "deployed.yaml"
    path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
    monkeypatch.setenv("GAUNTLET_REGISTRY", registry)
    monkeypatch.setenv("GAUNTLET_SERVICE_ACCOUNT", RELEASE)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(path)])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize("target", ["cloud_run", "vertex_endpoint"])
def test_a_manifest_whose_target_has_all_that_it_needs_is_sound(
    target: str,
    deploying: RestProject,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    code, printed = examined(capsys, monkeypatch, target, f"{REGISTRY}&serving_image={IMAGE}")
    assert code == 0, printed
    wanted = needs().deployments[target]
    granted = sum(len(each.permissions) for each in wanted.grants if each.who != "serving")
    # the manifest itself, and the accounts that run versions and pipelines
    assert f"nothing missing of {1 + len(wanted.apis) + 2 + granted} needs" in printed


@pytest.mark.parametrize(
    ("target", "permission"),
    [("cloud_run", "run.services.update"), ("vertex_endpoint", "aiplatform.endpoints.deploy")],
)
def test_what_a_deployment_target_lacks_is_listed_with_what_to_do(
    target: str,
    permission: str,
    deploying: RestProject,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    account = f"iam/v1/projects/demo/serviceAccounts/{SERVING}"
    deploying.apis.remove("monitoring.googleapis.com")
    deploying.permissions["me", account].clear()
    deploying.permissions[RELEASE, PROJECT].remove(permission)
    code, printed = examined(capsys, monkeypatch, target, REGISTRY)
    assert code == 1
    assert "4 of " in printed
    role = "roles/run.developer" if target == "cloud_run" else "roles/aiplatform.user"
    for action in (
        "found no serving_image in",
        "gcloud services enable monitoring.googleapis.com --project demo",
        f"gcloud iam service-accounts add-iam-policy-binding {SERVING} --member serviceAccount:"
        "trainer@demo.iam.gserviceaccount.com --role roles/iam.serviceAccountUser --project demo",
        f"gcloud projects add-iam-policy-binding demo --member serviceAccount:{RELEASE} --role {role}",
    ):
        assert action in printed, action


def test_a_target_that_is_not_on_google_cloud_needs_nothing_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    code, printed = examined(capsys, monkeypatch, "local", REGISTRY)
    assert code == 2
    assert "deployment.target local needs nothing of Google Cloud. `gauntlet doctor` looks at this" in printed


def test_who_submits_may_do_from_here_what_the_steps_may_do_there() -> None:
    """As --fallback-local does, but for what only a job of Vertex AI's does."""
    may = {
        who: {
            (grant.target, permission)
            for grant in needs().grants
            if grant.who == who and grant.target in ("project", "data", "runs")
            for permission in grant.permissions
        }
        for who in ("training", "release", "submitter")
    }
    alone = ("customJobs.", "executions.", "logEntries.")
    here = {one for one in may["training"] | may["release"] if not any(word in one[1] for word in alone)}
    assert {("data", "storage.objects.get"), ("project", "aiplatform.modelEvaluations.import")} <= here
    assert here - may["submitter"] == set()


def test_every_grant_is_of_something_that_is_named_to_somebody_who_is_named() -> None:
    wanted = needs()
    people = {"submitter", *wanted.accounts}
    things = {"project", *wanted.buckets, *wanted.repositories, *wanted.accounts}

    assert {grant.who for grant in wanted.grants} == people
    assert {grant.target for grant in wanted.grants} <= things
    for target in wanted.deployments.values():
        assert set(target.apis) <= set(wanted.apis)
        assert {grant.who for grant in target.grants} == {"submitter", "release", *target.accounts}
        assert {grant.target for grant in target.grants} <= things | set(target.accounts)
    deploying = [grant for target in wanted.deployments.values() for grant in target.grants]
    for grant in (*wanted.grants, *deploying):
        assert grant.role is None or re.fullmatch(r"roles/[a-zA-Z.]+", grant.role)
        assert grant.permissions
