"""Charts of the last hour, as points of SVG polylines."""

from dataclasses import dataclass

from service.core.traffic_statistics import Activity

HEIGHT = 48
_ROOM = 4
"""Free space above the highest point, in units of the view box."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One line of a chart."""

    name: str
    tone: str
    """The class in the style sheet."""
    points: str
    total: int
    most: str
    """The highest rate, per second."""


def charts_of(activity: Activity) -> list[Chart]:
    """Return the charts of transitions and refusals, and of shadow refusals if there are any."""
    lines = [("Transitions", "logged_in", activity.transitions), ("Refusals", "suspended", activity.refusals)]
    if any(activity.shadow):
        lines.append(("Shadow refusals", "expired", activity.shadow))
    return [_chart(name, tone, values, activity.bucket_s) for name, tone, values in lines]


def _chart(name: str, tone: str, values: list[int], bucket_s: int) -> Chart:
    most = max(values)
    scale = (HEIGHT - _ROOM) / (most or 1)
    points = " ".join(f"{at},{HEIGHT - value * scale:.1f}" for at, value in enumerate(values))
    return Chart(name, tone, points, sum(values), f"{most / bucket_s:.1f}")
