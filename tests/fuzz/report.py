"""Tables of outcomes, and faults grouped by what made them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fuzz.watch import FAULTS, Outcome

_PLACE = re.compile(r'File "[^"]*?/src/(skygraft/[^"]+)", line (\d+)(?:,)? in (\S+)')
_HANDLED = "During handling of the above exception"


@dataclass
class Group:
    """Faults of one mechanism: how many, the sound files concerned, and the smallest case to look at."""

    kind: str
    mechanism: str
    cases: list[tuple[int, str, str]] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def lines(self) -> str:
        """The group as text."""
        _, case, what = min(self.cases)
        names = ", ".join(f"{name} {n}" for name, n in self.names.most_common(6))
        return f"{len(self.cases):5} {self.kind:8} {self.mechanism}\n      {case}: {what[:300]}\n      ({names})"


def mechanism(outcome: Outcome) -> str:
    """What faults of one cause have in common.

    Of an exception its type and the innermost line of skygraft, of a crash or hang the signal and that line, of what
    was accepted in silence the message without its numbers.
    """
    detail = outcome.detail
    if outcome.kind == "foreign" and "Traceback" in detail:
        last = detail.rsplit(_HANDLED, 1)[-1]
        places = _PLACE.findall(last) or _PLACE.findall(detail)
        # The exception's own line is the first after the last frame that is not indented.
        rest = last.rsplit('  File "', 1)[-1].splitlines()[1:]
        kind = next((line for line in rest if line and not line.startswith(" ")), "exception").split(":")[0][:80]
        return f"{kind} in {_at(places[-1])}" if places else f"{kind}, outside skygraft"
    if outcome.kind in ("hang", "signal", "memory"):
        # The stacks of faulthandler have the innermost line first.
        places = _PLACE.findall(detail)
        first = "" if outcome.kind == "memory" else detail.split("\n")[0].strip()
        place = (places[-1] if "Traceback" in detail else places[0]) if places else None
        return " ".join(filter(None, (first, f"in {_at(place)}" if place else "nowhere in skygraft")))
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", detail.strip().splitlines()[0] if detail.strip() else "")[:200]


def _at(place: tuple[str, str, str]) -> str:
    return f"{place[0]}:{place[1]} ({place[2]})"


def groups(outcomes: Iterable[Outcome]) -> list[Group]:
    """Faults by mechanism, the commonest first."""
    found: dict[tuple[str, str], Group] = {}
    for outcome in outcomes:
        if outcome.kind in FAULTS:
            key = (outcome.kind, mechanism(outcome))
            group = found.setdefault(key, Group(*key))
            group.cases.append((outcome.number, f"{outcome.target}:{outcome.number}", outcome.what))
            group.names[f"{outcome.target}/{outcome.name}"] += 1
    return sorted(found.values(), key=lambda g: (-len(g.cases), g.kind, g.mechanism))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def table(outcomes: Iterable[Outcome], *, verbose: bool = False) -> str:
    """Outcomes counted by target; `verbose` counts them by sound file, with the dearest case's time and memory."""
    by: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by.setdefault(f"{outcome.target}/{outcome.name}" if verbose else outcome.target, []).append(outcome)
    rows = [("target", "cases", *FAULTS, "ok", "refused", "cpu s", "most cpu s", "most MB")]
    for name, some in sorted(by.items()):
        counts = Counter(o.kind for o in some)
        cpu = [o.cpu for o in some]
        cells = [*(str(counts[k]) for k in (*FAULTS, "ok", "refused"))]
        rows.append(
            (
                name,
                str(len(some)),
                *cells,
                f"{sum(cpu) / len(cpu):.3f}",
                f"{max(cpu):.1f}",
                str(max(o.peak for o in some)),
            )
        )
    return _aligned(rows)
