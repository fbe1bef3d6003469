from __future__ import annotations

from pathlib import Path

import pytest

from gauntlet.backends.prices import (
    LIST_PRICES,
    PRICES_VARIABLE,
    Estimate,
    estimate,
    hourly_rate,
    over_budget,
)
from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.training import Resources


@pytest.fixture(autouse=True)
def list_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRICES_VARIABLE, raising=False)


def with_accelerator(machine: str, accelerator: str, count: int = 1) -> Resources:
    return Resources(machine_type=machine, accelerator_type=accelerator, accelerator_count=count)


@pytest.mark.parametrize(
    ("resources", "listed"),
    [
        # Figures that the Vertex AI page itself lists for custom training in us-central1.
        (Resources(machine_type="n1-standard-4"), 0.21849885),
        (with_accelerator("n1-standard-4", "NVIDIA_TESLA_T4"), 0.21849885 + 0.4025),
    ],
)
def test_rates_match_the_prices_vertex_lists(resources: Resources, listed: float) -> None:
    assert hourly_rate(resources) == pytest.approx(listed, abs=1e-6)


# USD an hour of one vCPU, one GB and one accelerator: the SKUs that machine types are made of.
N1 = (0.031611, 0.004237)
E2 = (0.02181159, 0.00292353)
G2 = (0.02498844, 0.00292728)
L4, A100 = 0.56004, 2.933908


@pytest.mark.parametrize(
    ("machine", "skus", "cpus", "gigabytes", "accelerators"),
    [
        ("n1-standard-8", N1, 8, 30, 0.0),
        ("n1-standard-16", N1, 16, 60, 0.0),
        ("n1-highmem-8", N1, 8, 52, 0.0),
        ("e2-standard-4", E2, 4, 16, 0.0),
        ("e2-standard-16", E2, 16, 64, 0.0),
        ("g2-standard-4", G2, 4, 16, L4),
        ("g2-standard-12", G2, 12, 48, L4),
        ("g2-standard-24", G2, 24, 96, 2 * L4),
        ("g2-standard-32", G2, 32, 128, L4),
        ("g2-standard-48", G2, 48, 192, 4 * L4),
        ("g2-standard-96", G2, 96, 384, 8 * L4),
        ("a2-highgpu-1g", N1, 12, 85, A100),
        ("a2-highgpu-4g", N1, 48, 340, 4 * A100),
    ],
)
def test_a_machine_costs_the_sum_of_its_parts_and_the_management_fee(
    machine: str, skus: tuple[float, float], cpus: int, gigabytes: int, accelerators: float
) -> None:
    parts = cpus * skus[0] + gigabytes * skus[1] + accelerators

    assert hourly_rate(Resources(machine_type=machine)) == pytest.approx(1.15 * parts, rel=1e-5)


def test_built_in_accelerators_are_not_charged_twice() -> None:
    with_name = hourly_rate(with_accelerator("g2-standard-8", "NVIDIA_L4"))

    assert with_name == hourly_rate(Resources(machine_type="g2-standard-8"))


def test_attached_accelerators_are_charged_each() -> None:
    base = hourly_rate(Resources(machine_type="n1-standard-8"))

    assert hourly_rate(with_accelerator("n1-standard-8", "NVIDIA_TESLA_T4", 4)) == pytest.approx(
        base + 4 * 0.35 * 1.15
    )


def test_an_unknown_machine_is_refused_with_the_known_ones_and_the_way_to_add_one() -> None:
    with pytest.raises(UsageError, match=r"m9-huge-1.*n1-standard-4.*a3-highgpu-8g.*GAUNTLET_PRICES"):
        hourly_rate(Resources(machine_type="m9-huge-1"))


def test_an_unknown_accelerator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"NVIDIA_K9.*NVIDIA_TESLA_T4.*NVIDIA_L4.*GAUNTLET_PRICES"):
        hourly_rate(with_accelerator("n1-standard-4", "NVIDIA_K9"))


def test_an_accelerator_that_is_only_built_in_points_to_its_machines() -> None:
    with pytest.raises(UsageError, match=r"NVIDIA_L4 cannot be attached to n1-standard-4.*g2-standard-4"):
        hourly_rate(with_accelerator("n1-standard-4", "NVIDIA_L4"))


def test_a_machine_with_built_in_accelerators_takes_no_other_kind_or_number() -> None:
    with pytest.raises(UsageError, match=r"g2-standard-4 has 1 × NVIDIA_L4.*2 × NVIDIA_L4"):
        hourly_rate(with_accelerator("g2-standard-4", "NVIDIA_L4", 2))
    with pytest.raises(UsageError, match=r"cannot take 1 × NVIDIA_TESLA_T4"):
        hourly_rate(with_accelerator("g2-standard-4", "NVIDIA_TESLA_T4"))


def test_only_n1_machines_take_attached_accelerators() -> None:
    with pytest.raises(UsageError, match=r"e2-standard-4: only n1-\* machines"):
        hourly_rate(with_accelerator("e2-standard-4", "NVIDIA_TESLA_T4"))


def test_an_estimate_counts_hours_replicas_and_every_retry() -> None:
    resources = Resources(machine_type="n1-standard-4", max_hours=2.5, replica_count=3)

    most = estimate(resources, retries=2)

    assert most.usd == pytest.approx(0.21849885 * 2.5 * 3 * 3, rel=1e-5)
    assert str(most) == "0.2185 USD/h × 2.5 h × 3 replicas × 3 attempts = 4.92 USD"


def test_an_estimate_leaves_out_factors_of_one() -> None:
    assert str(Estimate(0.5, 4, replicas=1, attempts=1)) == "0.5000 USD/h × 4 h = 2.00 USD"


def test_a_step_that_may_cost_more_than_its_budget_is_a_fault_with_the_sum_and_a_way_out() -> None:
    resources = Resources(machine_type="a2-highgpu-1g", max_hours=4, max_cost_usd=10)

    fault = over_budget(resources, "manifests/emotion.yaml", retries=1)

    assert fault is not None
    assert str(fault) == (
        "manifests/emotion.yaml: training.resources.max_cost_usd: found 10, expected at least 33.80, as "
        "a2-highgpu-1g may cost 4.2244 USD/h × 4 h × 2 attempts = 33.80 USD. "
        "Raise it, lower max_hours to 1.18 at most, or take a cheaper machine. "
        "Prices are of 2026-10-07; a file named by GAUNTLET_PRICES replaces them."
    )


def test_the_budget_and_the_hours_that_a_fault_suggests_are_enough() -> None:
    resources = Resources(machine_type="a3-highgpu-1g", max_hours=7.3, max_cost_usd=11)
    fault = over_budget(resources, "m.yaml")
    assert fault is not None
    usd = float(fault.expected.removeprefix("at least ").partition(",")[0])
    hours = float(fault.action.partition("max_hours to ")[2].partition(" ")[0])

    assert over_budget(resources.model_copy(update={"max_cost_usd": usd}), "m.yaml") is None
    assert over_budget(resources.model_copy(update={"max_hours": hours}), "m.yaml") is None


def test_a_step_that_costs_exactly_its_budget_fits() -> None:
    rate = LIST_PRICES.machines["n1-standard-4"].usd_per_hour
    resources = Resources(machine_type="n1-standard-4", max_hours=10, max_cost_usd=rate * 10)

    assert over_budget(resources, "m.yaml") is None


def test_a_price_file_adds_machines_and_replaces_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        "machines:\n"
        "  n1-standard-4: {usd_per_hour: 0.5}\n"
        "  a4-highgpu-8g: {usd_per_hour: 120, accelerator_type: NVIDIA_B200, accelerator_count: 8}\n"
        "accelerators:\n"
        "  NVIDIA_TESLA_T4: 0.25\n"
    )
    monkeypatch.setenv(PRICES_VARIABLE, str(file))

    assert hourly_rate(with_accelerator("n1-standard-4", "NVIDIA_TESLA_T4", 2)) == pytest.approx(1.0)
    assert hourly_rate(with_accelerator("a4-highgpu-8g", "NVIDIA_B200", 8)) == 120
    assert hourly_rate(Resources(machine_type="n1-standard-8")) == pytest.approx(0.379998 * 1.15, abs=1e-6)


def test_every_fault_of_a_price_file_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(
        "machines: {n1-standard-4: {usd_per_hour: -1}, g2-standard-4: {usd_per_hour: .nan}}\n"
        "accelerators: {NVIDIA_TESLA_T4: cheap}\n"
        "discount: 0.2\n"
    )
    monkeypatch.setenv(PRICES_VARIABLE, str(file))

    with pytest.raises(ManifestError) as caught:
        hourly_rate(Resources())

    assert {fault.key for fault in caught.value.faults} == {
        "machines.n1-standard-4.usd_per_hour",
        "machines.g2-standard-4.usd_per_hour",
        "accelerators.NVIDIA_TESLA_T4",
        "discount",
    }
    assert all(fault.file == str(file) for fault in caught.value.faults)


@pytest.mark.parametrize("content", [None, "machines: {", "just words", ""])
def test_a_price_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "prices.yaml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(PRICES_VARIABLE, str(file))

    with pytest.raises(UsageError, match=r"prices\.yaml.*GAUNTLET_PRICES"):
        hourly_rate(Resources())
