"""Bars as SVG, readable on light and dark."""

from collections.abc import Sequence
from html import escape

WIDTH, BAR, GAP, LABELS = 860, 22, 10, 300


def bars(values: Sequence[tuple[str, float]], title: str) -> str:
    """A bar for each value, longest at full width."""
    most = max(value for _, value in values)
    height = 40 + len(values) * (BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        "<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
        f'<text x="0" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values):
        y = 32 + number * (BAR + GAP)
        long = max(1.0, value / most * (WIDTH - LABELS - 70))
        colour = "#2f6fdb" if name.startswith("Rollcall") else "#9aa5b1"
        parts += [
            f'<text x="0" y="{y + 16}">{escape(name)}</text>',
            f'<rect x="{LABELS}" y="{y}" width="{long:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
            f'<text x="{LABELS + long + 6:.1f}" y="{y + 16}">{value:.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])
