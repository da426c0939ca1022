"""Parts of a report from independent checks: the verification of the outputs, and the curves of growth of stars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skygraft.report.blocks import Block, Cell, Column, Note, Table, Text, cell
from skygraft.report.counting import BATCH_ROWS, grouped, numbers
from skygraft.wording import number

__all__ = ["Verified", "count_verification", "verification_blocks"]

PASSES, FAILS, FEW, NONE = "passes", "fails", "too few stars", "not applicable"
_VERDICTS = (PASSES, FAILS, FEW, NONE)
_LISTED = 50
_FOLDED = 12


@dataclass
class Verified:
    """Counts of a verification."""

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows by (check, verdict)
    order: list[str] = field(default_factory=list)  # checks in the order of the table
    failed: list[dict[str, Any]] = field(default_factory=list)  # the first: image, check, value, limit and note
    closure: dict[str, list[float]] = field(default_factory=dict)  # of each image, mag, by band
    campaign: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Verdict, value, error and note of each check on the campaign as a whole."""

    @property
    def n_failed(self) -> int:
        """Checks of images that fail, and of the campaign as a whole that do though no image does."""
        failed = {check for (check, verdict), n in self.verdicts.items() if verdict == FAILS and n}
        whole = [check for check, row in self.campaign.items() if row["verdict"] == FAILS and check not in failed]
        return sum(n for (_, verdict), n in self.verdicts.items() if verdict == FAILS) + len(whole)

    @property
    def n_passed(self) -> int:
        """Rows that pass."""
        whole = [check for check, row in self.campaign.items() if row["verdict"] == PASSES and check not in self.order]
        return sum(n for (_, verdict), n in self.verdicts.items() if verdict == PASSES) + len(whole)


def count_verification(dataset: Any, campaign: Sequence[dict[str, Any]] = ()) -> Verified:
    """Count the verdicts of a verification, in batches.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
        With columns ``image_id``, ``band``, ``check``, ``verdict``, ``value``, ``limit`` and ``note``.
    campaign : sequence of dict
        Rows of the verdicts on the campaign as a whole.
    """
    found = Verified(campaign={str(row["check"]): row for row in campaign})
    columns = ["image_id", "band", "check", "verdict", "value", "limit", "note"]
    for batch in dataset.to_batches(columns=columns, batch_size=BATCH_ROWS):
        for name in batch["check"].unique().to_pylist():
            if name not in found.order:
                found.order.append(str(name))
        values = numbers(batch["value"])
        for (check, verdict), rows in grouped(batch, ("check", "verdict")):
            found.verdicts[check, verdict] += len(rows)
            if verdict == FAILS:
                left = max(_LISTED - len(found.failed), 0)
                found.failed += batch.take(rows[:left].tolist()).to_pylist()
        for (check, band), rows in grouped(batch, ("check", "band")):
            if check == "closure":
                good = values[rows][np.isfinite(values[rows])]
                found.closure.setdefault(band, []).extend(good.tolist())
    found.failed.sort(key=lambda row: (str(row["image_id"]), found.order.index(str(row["check"]))))
    return found


def verification_blocks(found: Verified, meanings: dict[str, str]) -> list[Block]:
    """The verdict of every check, with what each says if it passes, and what failed."""
    n = found.n_failed
    note = (
        Note("bad", f"{number(n, 'check')} of the outputs failed; {found.n_passed:,} passed.")
        if n
        else Note("good", f"No check of the outputs failed; {found.n_passed:,} passed.")
    )
    rows: list[list[Cell]] = []
    for check in [*found.order, *(name for name in found.campaign if name not in found.order)]:
        counts = [found.verdicts[check, verdict] for verdict in _VERDICTS]
        cells = [cell(k) if k else Cell("–", 0.0) for k in counts]
        if counts[1]:
            cells[1] = cell(counts[1], level="bad")
        rows.append([cell(check), cell(meanings.get(check, "")), _whole(found, check), *cells])
    blocks: list[Block] = [
        Text(
            "The outputs were verified from output minus input, with the sources drawn again: numbers of images by the "
            "verdict of each check."
        ),
        note,
        Table(
            "Verification of the outputs",
            (
                Column("check"),
                Column("what it says", long=True),
                Column("of the campaign"),
                *Column.numbers("passes", "fails", "too few stars", "not applicable"),
            ),
            rows,
        ),
    ]
    if closure := _closure_table(found):
        blocks.append(closure)
    if found.failed:
        keys = ("image_id", "check", "value", "limit", "note")
        columns = (
            Column("image", long=True),
            Column("check"),
            *Column.numbers("value", "limit"),
            Column("note", long=True),
        )
        listed = [[cell(row[key]) for key in keys] for row in found.failed]
        blocks.append(Table("Checks that failed", columns, listed, n, folded=len(listed) > _FOLDED))
    return blocks


def _whole(found: Verified, check: str) -> Cell:
    """The verdict on the campaign as a whole."""
    row = found.campaign.get(check)
    if row is None:
        return cell(None)
    verdict = str(row["verdict"] or "")
    text = f"{verdict}: {row['note']}" if verdict == FAILS and row.get("note") else verdict
    return cell(text, level="bad" if verdict == FAILS else "good" if verdict == PASSES else "")


def _closure_table(found: Verified) -> Table | None:
    rows = []
    for band, values in sorted(found.closure.items()):
        if values:
            mmag = 1e3 * np.array(values)
            worst = float(mmag[np.argmax(np.abs(mmag))])
            rows.append(
                [cell(band or "unknown"), cell(len(values)), cell(float(np.median(mmag)), "+.2f"), cell(worst, "+.2f")]
            )
    columns = (Column("band"), *Column.numbers("images", "median (mmag)", "worst image (mmag)"))
    caption = "Closure by band: recovered minus injected magnitude of lone stars in the calibration aperture"
    return Table(caption, columns, rows) if rows else None
