"""The page of an A/B test: the interval over the units, the arms, the sample-ratio test and the decision."""

from __future__ import annotations

from datetime import datetime

from gauntlet.components.deploy_model.judge import RATIO_ALPHA
from gauntlet.contracts.experiment import Analysis, Arm, Experiment
from gauntlet.pages.charts import band
from gauntlet.pages.formatting import count, general, moment, percent, signed_general
from gauntlet.pages.page import Masthead, Section, Tile, partial, render

TONES = {"winner": "good", "no difference": "idle", "inconclusive": "warn", "mismatch": "bad"}
HEADLINES = {
    "go on": "Not decided yet",
    "no difference": "No difference",
    "inconclusive": "Inconclusive",
    "mismatch": "The units are not split as asked",
}
TEMPLATES = "gauntlet.components.compare_variants:"


def ab_page(model: str, experiment: Experiment, analysis: Analysis) -> str:
    """The page."""
    control, other = experiment.variants
    sections = [_interval(experiment, analysis), _arms(experiment, analysis), _ratio(experiment, analysis)]
    last = analysis.path[-1] if analysis.path else None
    shown = f"{signed_general(last.low)} to {signed_general(last.high)}" if last else "no interval yet"
    tiles = [
        Tile(f"{other.name} − {control.name}", signed_general(last.difference if last else None), shown),
        Tile(
            "Units with an outcome",
            count(sum(one.observed for one in analysis.arms)),
            f"at most {experiment.maximum_n:,} are evaluated",
        ),
        Tile("Units", count(sum(one.units for one in analysis.arms)), "that were assigned"),
    ]
    headline = f"{analysis.winner} is better" if analysis.winner else HEADLINES[analysis.decision]
    facts = {
        "test": experiment.id,
        "metric": f"{experiment.metric} ({experiment.type}), {experiment.better} is better",
        "alpha": general(experiment.alpha),
        "minimal effect": general(experiment.minimal_effect),
        "started": moment(datetime.fromisoformat(experiment.started)),
        "seen": moment(datetime.fromisoformat(analysis.at)),
    }
    if experiment.ended:
        facts |= {
            "ended": moment(datetime.fromisoformat(experiment.ended)),
            "by": experiment.by,
            "why": experiment.why,
        }
    masthead = Masthead(
        model,
        "A/B test",
        headline,
        lead=f"{control.name} is version {control.version}, {other.name} version {other.version}.",
        tone=TONES.get(analysis.decision, "idle"),
        reasons=(analysis.why,),
        facts=facts,
        tiles=tiles,
    )
    return render(masthead, sections)


def guarantee_of(experiment: Experiment) -> str:
    """What the interval promises, and under which assumption."""
    covers = (
        f"It covers the true difference at all looks at once with a probability of {1 - experiment.alpha:g}"
    )
    if experiment.type == "real":
        return (
            f"{covers}, approximately: an asymptotic confidence sequence for values of finite variance "
            "(Waudby-Smith et al. 2024)."
        )
    return f"{covers}: an empirical-Bernstein confidence sequence of bounded values (Howard et al. 2021)."


def _interval(experiment: Experiment, analysis: Analysis) -> Section:
    control, other = experiment.variants
    chart = band(
        f"{other.name} − {control.name} over the units",
        "units with an outcome",
        [(one.units, one.difference, one.low, one.high) for one in analysis.path],
        experiment.minimal_effect,
    )
    body = partial(
        f"{TEMPLATES}interval.html.jinja",
        experiment=experiment,
        analysis=analysis,
        control=control,
        other=other,
        chart=chart,
        guarantee=guarantee_of(experiment),
    )
    state = (analysis.decision, TONES.get(analysis.decision, "idle"))
    return Section("interval", "The interval over the units", body, state=state)


def _arms(experiment: Experiment, analysis: Analysis) -> Section:
    body = partial(
        f"{TEMPLATES}arms.html.jinja",
        experiment=experiment,
        analysis=analysis,
        control=experiment.variants[0],
        rows=list(zip(analysis.arms, experiment.variants, strict=True)),
    )
    return Section("arms", "Variants", body)


def _ratio(experiment: Experiment, analysis: Analysis) -> Section:
    def split(first: int, second: int) -> str:
        total = first + second
        return f"{first:,} : {second:,}" + (f" ({percent(second / total, 1)})" if total else "")

    def of(first: Arm, second: Arm) -> dict[str, str]:
        return {
            "all units": split(first.units, second.units),
            "with outcomes": split(first.observed, second.observed),
        }

    splits = of(*analysis.arms)
    asked = f"{experiment.variants[1].share} % {experiment.variants[1].name}"
    rows = [(name, splits[name], evidence) for name, evidence in analysis.ratio_evidence.items()]
    alarm = round(1 / RATIO_ALPHA)
    body = partial(f"{TEMPLATES}ratio.html.jinja", rows=rows, asked=asked, alarm=alarm)
    is_alarm = any(one >= alarm for one in analysis.ratio_evidence.values())
    state = ("alarm", "bad") if is_alarm else ("as asked", "good")
    return Section("ratio", "Sample ratio", body, state=state)
