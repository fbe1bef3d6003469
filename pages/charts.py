"""Charts of the pages, drawn by matplotlib: figures in, inline SVG out.

A chart follows the reader's colour scheme by the colours of the style sheet, and shows a mark's value on
hover. The same figures give the same bytes. A chart without data is empty.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from gauntlet.pages.formatting import decimal, general, is_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 500.0, 220.0
ROW_HEIGHT = 24.0
MOST_POINTS = 240
MOST_DOTS = 12
MOST_TICKS = 5
MOST_NAMES, MOST_SIGNS = 24, 24
GROUP_TONES = ("accent", "quiet", "second")
LEAST_IN_DECIMALS = 1e-3
COLOURS = {
    "accent": "#2c5bd4",
    "second": "#b0730f",
    "quiet": "#9aa1ad",
    "idle": "#6d7481",
    "line": "#e5e5df",
    "edge": "#d3d3cb",
    "soft": "#565d6a",
    "card": "#ffffff",
}
"""Colours of the light scheme, by their names in the style sheet."""

TITLE = "title:"  # marks an artist's id as the text to show when it is pointed at
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line of points (x, y). The legend shows its name and value, but no dashed line."""

    name: str
    points: Points
    tone: str = "accent"
    value: str = ""
    is_dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar with a whisker that reaches to `tail`; `label` is written at its end."""

    name: str
    value: float
    tail: float
    label: str
    tone: str = "accent"


@dataclass(frozen=True)
class Mark:
    """A named place in a scatter plot."""

    name: str
    x: float
    y: float
    tone: str = "second"
    is_on_front: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, in the row of its name."""

    name: str
    value: float
    low: float
    high: float
    tone: str = "accent"


def curves(
    title: str, x_label: str, series: Sequence[Series], marker: tuple[float, str] | None = None
) -> Markup:
    """Lines over a whole-numbered x; `marker` is the x and the name of an upright line."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup()

    def draw(axes: Axes) -> None:
        for one in drawn:
            points = thinned(one.points)
            xs, ys = zip(*points, strict=True)
            axes.plot(
                xs,
                ys,
                color=COLOURS[one.tone],
                linestyle=(0, (4, 3)) if one.is_dashed else "solid",
                linewidth=1.25 if one.is_dashed else 2,
                marker="o" if len(points) <= MOST_DOTS and not one.is_dashed else None,
                markersize=5,
                label="_" if one.is_dashed else _named(one),
                gid=TITLE + _named(one),
            )
        if marker is not None:
            axes.axvline(marker[0], color=COLOURS["edge"], linestyle=(0, (2, 2)), label=marker[1], zorder=0)
        axes.set_xlabel(x_label)
        _ticks(axes, [x for one in drawn for x, _ in one.points])
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0)

    return _svg(title, ", ".join(map(_named, drawn)), draw)


def band(
    title: str, x_label: str, points: Sequence[tuple[float, float, float, float]], margin: float
) -> Markup:
    """A line with its interval over a whole-numbered x: points (x, value, low, high).

    0 is marked, and so are the dashed lines at plus and minus the `margin`.
    """
    if not points:
        return Markup()
    xs, values, lows, highs = zip(*points, strict=True)
    # The first intervals are so wide that they would hide all else: the axis fits those after a quarter.
    later = points[len(points) // 4 :]
    reach = 1.2 * max(margin, *(abs(edge) for _, _, low, high in later for edge in (low, high)))

    def within(ys: Iterable[float]) -> list[float]:  # a page does not clip what is drawn outside
        return [min(max(y, -reach), reach) for y in ys]

    def draw(axes: Axes) -> None:
        axes.fill_between(xs, within(lows), within(highs), color=COLOURS["accent"], alpha=0.18, linewidth=0)
        axes.plot(xs, within(values), color=COLOURS["accent"], linewidth=2)
        axes.axhline(0, color=COLOURS["soft"], linewidth=1)
        for edge in (-margin, margin):
            axes.axhline(edge, color=COLOURS["second"], linestyle=(0, (4, 3)), linewidth=1.25)
        axes.set(ylim=(-reach, reach), xlabel=x_label)
        _ticks(axes, xs)
        for x, value, low, high in points[:: max(1, len(points) // MOST_DOTS)]:
            shown = f"{x:,.0f}: {general(value)}, {general(low)} to {general(high)}"
            axes.plot(x, *within([value]), "o", color=COLOURS["accent"], markersize=4, gid=TITLE + shown)

    last = points[-1]
    described = f"{general(last[1])}, {general(last[2])} to {general(last[3])} after {last[0]:,.0f}"
    return _svg(title, described, draw, width=960, height=HEIGHT * 1.3)


def bars(title: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars below each other, the first at the top."""
    if not rows:
        return Markup()

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            colour = COLOURS[row.tone]
            axes.barh(place, row.value, height=0.6, color=colour, gid=f"{TITLE}{row.name}: {row.label}")
            axes.plot(
                [row.value, row.tail], [place, place], color=colour, linewidth=1.25, marker="|", markevery=[1]
            )
            axes.annotate(
                row.label,
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                annotation_clip=False,
            )
        axes.set(xlim=(0, None), xticks=[], yticks=range(len(rows)), yticklabels=[row.name for row in rows])
        axes.invert_yaxis()
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_visible(True)
        axes.grid(visible=False)

    described = ", ".join(f"{row.name} {row.label}" for row in rows)
    return _svg(title, described, draw, width=330, height=ROW_HEIGHT * len(rows) + 12)


def scatter(title: str, x_label: str, y_label: str, marks: Sequence[Mark]) -> Markup:
    """Marks with their names at the right of the plot; a line joins those on the front. x begins at 0."""
    if not marks:
        return Markup()

    def draw(axes: Axes) -> None:
        front = sorted((mark.x, mark.y) for mark in marks if mark.is_on_front)
        if front:
            axes.plot(*zip(*front, strict=True), color=COLOURS["edge"], linestyle=(0, (3, 3)), zorder=1)
        axes.margins(y=0.12)
        for mark in marks:
            title_of = f"{TITLE}{mark.name}: {general(mark.x)}, {decimal(mark.y, 4)}"
            axes.plot(mark.x, mark.y, "o", color=COLOURS[mark.tone], markersize=8, gid=title_of, zorder=3)
        axes.set(xlim=(0, None), xlabel=x_label, ylabel=y_label)
        low, high = axes.get_ylim()
        places = spread([(mark.y - low) / (high - low) for mark in marks], gap=15 / HEIGHT, low=0.0, high=1.0)
        for mark, place in zip(marks, places, strict=True):
            axes.annotate(
                mark.name,
                xy=(mark.x, mark.y),
                xytext=(1.03, place),
                textcoords="axes fraction",
                va="center",
                color=COLOURS["idle" if mark.tone == "quiet" else mark.tone],
                arrowprops={"arrowstyle": "-", "color": COLOURS["line"], "shrinkB": 4, "shrinkA": 1},
            )

    described = ", ".join(f"{mark.name} {general(mark.x)}, {decimal(mark.y, 4)}" for mark in marks)
    return _svg(title, described, draw, width=680, height=250)


def against(title: str, x_label: str, y_label: str, points: Points) -> Markup:
    """Points in a square, and the line on which x and y are equal. Where points lie close, it is darker."""
    if not points:
        return Markup()
    xs, ys = zip(*points, strict=True)
    ends = min(*xs, *ys), max(*xs, *ys)

    def draw(axes: Axes) -> None:
        axes.plot(ends, ends, color=COLOURS["edge"], linestyle=(0, (3, 3)), zorder=1)
        axes.plot(xs, ys, "o", color=COLOURS["accent"], markersize=4, markeredgewidth=0, alpha=0.3, zorder=2)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(visible=True, axis="both")

    return _svg(title, f"{len(points):,} points", draw, width=380, height=340)


def intervals(title: str, rows: Sequence[Estimate]) -> Markup:
    """Values with their intervals on one axis; rows of one name are drawn side by side."""
    if not rows:
        return Markup()
    names = list(dict.fromkeys(row.name for row in rows))

    def draw(axes: Axes) -> None:
        for name in names:
            of_name = [row for row in rows if row.name == name]
            for order, row in enumerate(of_name):
                place = names.index(name) + (order - (len(of_name) - 1) / 2) * 0.3
                shown = f"{TITLE}{name} {decimal(row.value, 4)}, {decimal(row.low)} to {decimal(row.high)}"
                colour = COLOURS[row.tone]
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, gid=shown)
                axes.plot(row.value, place, "o", color=colour, markersize=6, gid=shown)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")

    described = ", ".join(f"{row.name} {decimal(row.value, 4)}" for row in rows)
    return _svg(title, described, draw, height=ROW_HEIGHT * len(names) * 1.4 + 30)


def histogram(
    title: str, x_label: str, things: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]]
) -> Markup:
    """The shares of each group in bins that begin at `edges`; `counts` are numbers of `things` by group.

    Empty bins after the last filled one are left out.
    """
    filled = max((place + 1 for of in counts.values() for place, n in enumerate(of) if n), default=0)
    if not filled:
        return Markup()
    shares = {group: [count / max(1, sum(of)) for count in of[:filled]] for group, of in counts.items()}

    def draw(axes: Axes) -> None:
        width = 0.8 / len(shares)
        for order, (group, of) in enumerate(shares.items()):
            tone = GROUP_TONES[order % len(GROUP_TONES)]
            for place, share in enumerate(of):
                number, left = counts[group][place], place - 0.4 + order * width
                if number:
                    label = f"{TITLE}{group}: {number:,} {things} ({share:.1%})"
                    axes.bar(left, share, width, align="edge", color=COLOURS[tone], gid=label)
            axes.bar(0, 0, color=COLOURS[tone], label=group)
        shown = edges[: filled + 1]
        axes.set_xticks([place - 0.5 for place in range(len(shown))], [general(edge) for edge in shown])
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlabel(x_label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0)

    return _svg(title, ", ".join(shares), draw, width=960, height=HEIGHT)


def shares(
    title: str, things: str, counts: Mapping[str, Mapping[str, int]], totals: Mapping[str, int]
) -> Markup:
    """A row for each name with a bar for each group: the share of the group's `things` that the name has.

    `counts` are numbers of `things` by group, then by name, and `totals` those of all things by group. The
    names with the most are drawn, at most `MOST_NAMES`, in their order.
    """
    groups = [group for group in counts if totals.get(group)]
    by_name = {
        name: sum(counts[group].get(name, 0) for group in groups) for of in counts.values() for name in of
    }
    largest = set(sorted(by_name, key=lambda name: -by_name[name])[:MOST_NAMES])
    names = [name for name in by_name if name in largest]
    if not groups or not names:
        return Markup()

    def draw(axes: Axes) -> None:
        height = 0.8 / len(groups)
        for order, group in enumerate(groups):
            colour = COLOURS[GROUP_TONES[order % len(GROUP_TONES)]]
            for place, name in enumerate(names):
                number = counts[group].get(name, 0)
                label = f"{TITLE}{name}, {group}: {number:,} {things} ({number / totals[group]:.1%})"
                top = place - 0.4 + order * height
                axes.barh(top, number / totals[group], height, align="edge", color=colour, gid=label)
            axes.barh(0, 0, color=colour, label=group)
        shortened = [name if len(name) <= MOST_SIGNS else f"{name[: MOST_SIGNS - 1]}…" for name in names]
        axes.set(yticks=range(len(names)), yticklabels=shortened, ylim=(len(names) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0)

    rows = len(names) * max(1.0, 0.55 * len(groups))
    return _svg(title, ", ".join(groups), draw, height=0.75 * ROW_HEIGHT * rows + 60)


def timeline(
    title: str, things: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]], are_dates: bool
) -> Markup:
    """Numbers of `things` by group in bins between the `edges`, stacked; an edge is one more than the bins.

    `are_dates`: the edges are seconds since 1970, and the axis shows dates in UTC.
    """
    drawn = {group: of for group, of in counts.items() if any(of)}
    if not drawn:
        return Markup()

    def shown(at: float) -> str:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" if are_dates else general(at)

    def draw(axes: Axes) -> None:
        below = [0] * (len(edges) - 1)
        for order, (group, of) in enumerate(drawn.items()):
            colour = COLOURS[GROUP_TONES[order % len(GROUP_TONES)]]
            for place, number in enumerate(of):
                start, end = edges[place : place + 2]
                label = f"{TITLE}{group}, {shown(start)} to {shown(end)}: {number:,} {things}"
                if number:
                    axes.bar(start, number, end - start, below[place], align="edge", color=colour, gid=label)
            axes.bar(edges[0], 0, color=colour, label=group)
            below = [one + more for one, more in zip(below, of, strict=True)]
        places = [edges[0] + (edges[-1] - edges[0]) * part / MOST_TICKS for part in range(MOST_TICKS + 1)]
        axes.set_xticks(places, [shown(place) for place in places])
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0)

    return _svg(title, ", ".join(drawn), draw, width=960, height=HEIGHT)


def stacked(charts: Sequence[Markup]) -> Markup:
    """Charts of the common size below each other as one picture, for readers that take files."""
    moved = [
        str(chart).replace("<svg ", f'<svg y="{HEIGHT * place:g}" width="{WIDTH:g}" height="{HEIGHT:g}" ', 1)
        for place, chart in enumerate(charts)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT * len(charts):g}">'
    return Markup(f"{head}{''.join(moved)}</svg>")


def present(points: Iterable[tuple[float, float | None]]) -> Points:
    """The points that have a number."""
    return tuple((x, y) for x, y in points if is_figure(y))


def thinned(points: Points) -> Points:
    """At most `MOST_POINTS` points, each the mean of a run of neighbours; both ends keep their x."""
    if len(points) <= MOST_POINTS:
        return points
    run = math.ceil(len(points) / MOST_POINTS)
    runs = [points[start : start + run] for start in range(0, len(points), run)]
    means = [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]
    return ((points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1]))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, near the wanted ones and in their order, within the bounds if they fit."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    placed = [0.0] * len(wanted)
    floor = low
    for at in order:
        placed[at] = max(wanted[at], floor)
        floor = placed[at] + gap
    ceiling = high
    for at in reversed(order):
        placed[at] = min(placed[at], ceiling)
        ceiling = placed[at] - gap
    return placed


def _named(series: Series) -> str:
    return f"{series.name} {series.value}".rstrip()


def _ticks(axes: Axes, xs: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if max(xs) - min(xs) <= MOST_TICKS:
        axes.set_xticks(range(math.ceil(min(xs)), math.floor(max(xs)) + 1))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if max(map(abs, axes.get_ylim())) < LEAST_IN_DECIMALS:
        axes.yaxis.set_major_formatter(_power_of_ten)


def _power_of_ten(value: float, _: object = None) -> str:
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") if value else "0"


def _svg(
    title: str, description: str, draw: Callable[[Axes], None], width: float = WIDTH, height: float = HEIGHT
) -> Markup:
    """The picture as an element of a page. Ids are derived from the title, which is unique in a page."""
    import matplotlib as mpl  # takes a third of a second
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout is the same everywhere
        "font.size": 11,
        "text.color": COLOURS["soft"],
        "axes.edgecolor": COLOURS["edge"],
        "axes.labelcolor": COLOURS["idle"],
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": COLOURS["line"],
        "legend.frameon": False,
        "legend.handlelength": 1.2,
    }
    settings |= {f"axes.spines.{side}": False for side in ("top", "right", "left")}
    for axis in ("xtick", "ytick"):
        settings |= {f"{axis}.major.size": 0, f"{axis}.color": COLOURS["idle"], f"{axis}.labelsize": 10.5}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure.subplots())
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    head = (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="system-ui, sans-serif" style="max-width: {width * 1.2:g}px; stroke-linejoin: round" '
        f'aria-label="{escape(title)}: {escape(description)}">'
    )
    return Markup(head + _for_a_page(written.getvalue()))


def _for_a_page(svg: str) -> str:
    """What matplotlib has drawn, without its head and with nothing that concerns other parts of a page."""
    svg = svg[svg.index("</defs>") + len("</defs>") :]  # the first defs hold a style rule for all elements
    svg = re.sub(r"<defs>\s*<clipPath.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="[^"]*"| transform="rotate\(-0 [^"]*"|(?<=px); font-family: [^;"]*', "", svg)
    svg = re.sub(rf'<g id="{TITLE}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    for name, colour in COLOURS.items():
        svg = svg.replace(f": {colour}", f": var(--{name}, {colour})")
    return re.sub(r"\s*\n\s*", "\n", svg)
