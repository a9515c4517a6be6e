"""Seeded pairs of a date in words and its ISO form."""

from __future__ import annotations

import datetime
import json
import random
from pathlib import Path

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
# fmt: off
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)
# fmt: on


def date_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return ``count`` pairs with different sources, in four notations with names of months."""
    generator = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        days = generator.randint(FIRST.toordinal(), LAST.toordinal())
        date = datetime.date.fromordinal(days)
        pairs[generator.choice(notations(date))] = date.isoformat()
    return list(pairs.items())


def notations(date: datetime.date) -> list[str]:
    """Return the date as March 5, 1998; 5 March 1998; 5-Mar-1998; and the 5th of March, 1998."""
    month, day, year = MONTHS[date.month - 1], date.day, date.year
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return [
        f"{month} {day}, {year}",
        f"{day} {month} {year}",
        f"{day}-{month[:3]}-{year}",
        f"the {day}{ending} of {month}, {year}",
    ]


def write_date_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Write pairs as JSON Lines with ``source`` and ``target``."""
    lines = [json.dumps({"source": s, "target": t}) for s, t in date_pairs(count, seed)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path
