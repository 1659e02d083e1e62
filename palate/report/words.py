"""How numbers, times and other people's text are written on the page."""

from __future__ import annotations

import html
import re
from datetime import datetime

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


# What a figure's name holds where it is a share.
_SHARE = re.compile(
    r"accuracy|rate\b|rate_|ceiling|\bece|gap$|capability|degenerate|correct_|fooled/|_same|attainable|_way"
)


# Not strftime's %B: it follows the machine's locale, and the page must not.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def escaped(text: object) -> str:
    """Text as HTML, fit for an element or a quoted attribute; what HTML cannot hold becomes U+FFFD."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True)


def number(value: float) -> str:
    """Two decimals below 10, one below 100, none above, with a true minus: −0.25, 14.2, 1,204."""
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:z,.{decimals}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage with one decimal: 0.784 → 78.4%."""
    return f"{100 * share:z.1f}%".replace("-", "−")


def percent_range(low: float, high: float) -> str:
    """An interval of shares: (0.742, 0.821) → 74.2–82.1%."""
    return f"{100 * low:z.1f}–{100 * high:z.1f}%".replace("-", "−")


def written(name: str, value: float) -> str:
    """A figure of `summary.json` by its name: a share as a percentage, all else as a number."""
    return percent(value) if _SHARE.search(name) else number(value)


def spoken(name: str) -> str:
    """A name of the code as words: confident_wrong → confident wrong."""
    return name.replace("_", " ").replace("/", ": ")


def sentence(text: str) -> str:
    """The text with a full stop where it ends without any."""
    return text if text.endswith((".", "!", "?", ")", ":")) else f"{text}."


def change(before: float, after: float) -> str:
    """Before and after, kept on one line: 14.2 → 12.3."""
    return f"{number(before)}\u00a0→\u00a0{number(after)}"


def date(moment: str) -> str:
    """An ISO 8601 moment as a date: 1 October 2026, 12:00 UTC; what is none is given back."""
    try:
        day = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{day.day} {_MONTHS[day.month - 1]} {day:%Y, %H:%M} {day.tzname() or ''}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def length_change(before: float, after: float) -> str:
    """How lengths changed: (10, 11.2) → 12% longer; under half a percent, as long as before."""
    change = round(100 * (after / before - 1)) if before > 0 else 0
    if change == 0:
        return "as long as before"
    return f"{abs(change)}% {'longer' if change > 0 else 'shorter'}"


def shortened(text: str, limit: int = 240) -> str:
    """The text on one line, its middle left out where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
