"""The section of a report on star/galaxy confusion; only where the detections have a classification."""

from __future__ import annotations

import numpy as np

from skygraft.report.blocks import Cell, Column, Figure, Figures, Note, Section, Table, Text, cell
from skygraft.report.curves import Series, completeness_curves
from skygraft.report.recovered import Recovered
from skygraft.report.studio import Studio

__all__ = ["classes_section"]

_PLURALS = {"star": "stars", "galaxy": "galaxies"}


def classes_section(found: Recovered, studio: Studio) -> Section:
    """How often fakes of each class are classified as each; no blocks where nothing classifies."""
    section = Section("classes", "Stars and galaxies")
    for name, why in found.problems.items():
        if name.startswith("confusion"):
            section.add(Note("missing", f"{name.replace('_', ' ')}: {why}"))
    table = found.tables.get("confusion")
    if table is None:
        return section
    names = [str(name) for name in table["true_class"].values]
    rows: list[list[Cell]] = []
    for true in names:
        one = table.sel(true_class=true)
        n = [int(one["n"].sel(assigned_class=assigned)) for assigned in names]
        shares = [float(one["fraction"].sel(assigned_class=assigned)) for assigned in names]
        own = table.sel(assigned_class=true)
        rows.append(
            [
                cell(_PLURALS.get(true, true)),
                *(
                    Cell(f"{k:,} ({100 * share:.1f} %)" if np.isfinite(share) else f"{k:,}", float(k))
                    for k, share in zip(n, shares, strict=True)
                ),
                cell(100 * float(own["completeness"]), ".1f"),
                cell(100 * float(own["purity"]), ".1f"),
            ]
        )
    unclassified = int(table.attrs.get("n_unclassified", 0))
    more = f" {unclassified:,} found fakes have no classification." if unclassified else ""
    section.add(
        Text(
            "Fakes that were found, by what they are and what the catalogue's classification takes them for (above "
            f"{float(table.attrs['threshold']):g} a star).{more} Purity is that of the mix of stars and galaxies that "
            "was injected: of another mix it is another. How many detections are of no source at all is not known, "
            "since only those of fakes are in the recovery table."
        ),
        Figures(tuple(_against_mag(found, names, studio))),
        Table(
            "Star/galaxy confusion, of all magnitudes",
            (
                Column("injected"),
                *(Column(f"taken for {_PLURALS.get(name, name)}", numeric=True) for name in names),
                *Column.numbers("of them, right (%)", "purity of the class (%)"),
            ),
            rows,
        ),
    )
    section.blocks = [block for block in section.blocks if not (isinstance(block, Figures) and not block.figures)]
    return section


def _against_mag(found: Recovered, names: list[str], studio: Studio) -> list[Figure]:
    table = found.tables.get("confusion_mag")
    if table is None:
        return []
    series, said = [], []
    for name in names:
        one = table.sel(true_class=name, assigned_class=name)
        x, y, low, high = (np.asarray(one[key].values, float) for key in ("mag", "fraction", "lower", "upper"))
        found_of = Series(_PLURALS.get(name, name), x, y, low, high)
        if ends := found_of.ends(".1f"):
            series.append(found_of)
            said.append(f"{found_of.label} {ends}")
    if not series:
        return []
    return [
        studio.keep(
            completeness_curves(series, "injected magnitude", y_label="fraction classified rightly"),
            "confusion-mag",
            title="Classified rightly, by magnitude",
            caption="Of the stars and of the galaxies that were found; 68 % Wilson intervals.",
            alt=f"Fraction of found fakes whose class is right against injected magnitude: {'; '.join(said)}.",
        )
    ]
