"""How to cite what a campaign was made with: BibTeX of skygraft and of the papers whose methods it used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["AUTHORS", "PAPERS", "TITLE", "bibtex"]

TITLE = "skygraft: fake stars and galaxies for survey images, with fluxes that mean what the calibration says"
AUTHORS = "The skygraft developers"
"""As ``CITATION.cff``, which an installed package does not have; a test compares them."""

PAPERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "bertin1996": (
        "Bertin & Arnouts 1996",
        "article",
        {
            "author": "Bertin, E. and Arnouts, S.",
            "title": "{SExtractor}: Software for source extraction",
            "journal": "Astronomy and Astrophysics Supplement Series",
            "volume": "117",
            "pages": "393--404",
            "year": "1996",
            "doi": "10.1051/aas:1996164",
        },
    ),
    "barbary2016": (
        "Barbary 2016",
        "article",
        {
            "author": "Barbary, K.",
            "title": "{SEP}: Source Extractor as a library",
            "journal": "Journal of Open Source Software",
            "volume": "1",
            "number": "6",
            "pages": "58",
            "year": "2016",
            "doi": "10.21105/joss.00058",
        },
    ),
    "bickerton2013": (
        "Bickerton & Lupton 2013",
        "article",
        {
            "author": "Bickerton, S. J. and Lupton, R. H.",
            "title": "An algorithm for precise aperture photometry of critically sampled images",
            "journal": "Monthly Notices of the Royal Astronomical Society",
            "volume": "431",
            "pages": "1275--1285",
            "year": "2013",
            "doi": "10.1093/mnras/stt244",
        },
    ),
    "wilson1927": (
        "Wilson 1927",
        "article",
        {
            "author": "Wilson, E. B.",
            "title": "Probable inference, the law of succession, and statistical inference",
            "journal": "Journal of the American Statistical Association",
            "volume": "22",
            "pages": "209--212",
            "year": "1927",
            "doi": "10.1080/01621459.1927.10502953",
        },
    ),
    "efron1979": (
        "Efron 1979",
        "article",
        {
            "author": "Efron, B.",
            "title": "Bootstrap methods: another look at the jackknife",
            "journal": "The Annals of Statistics",
            "volume": "7",
            "pages": "1--26",
            "year": "1979",
            "doi": "10.1214/aos/1176344552",
        },
    ),
    "rowe2015": (
        "Rowe et al. 2015",
        "article",
        {
            "author": "Rowe, B. T. P. and others",
            "title": "{GalSim}: The modular galaxy image simulation toolkit",
            "journal": "Astronomy and Computing",
            "volume": "10",
            "pages": "121--150",
            "year": "2015",
            "doi": "10.1016/j.ascom.2015.02.002",
        },
    ),
    "astropy2022": (
        "Astropy Collaboration 2022",
        "article",
        {
            "author": "{Astropy Collaboration}",
            "title": "The {Astropy} Project: sustaining and growing a community-oriented open-source project and the "
            "latest major release (v5.0) of the core package",
            "journal": "The Astrophysical Journal",
            "volume": "935",
            "pages": "167",
            "year": "2022",
            "doi": "10.3847/1538-4357/ac7c74",
        },
    ),
    "dask2015": (
        "Rocklin 2015",
        "inproceedings",
        {
            "author": "Rocklin, M.",
            "title": "{Dask}: Parallel computation with blocked algorithms and task scheduling",
            "booktitle": "Proceedings of the 14th Python in Science Conference",
            "pages": "126--132",
            "year": "2015",
            "doi": "10.25080/Majora-7b98e3ed-013",
        },
    ),
}
"""Papers by key: how the text names them, kind of the entry, and its fields."""


def bibtex(keys: Iterable[str], version: str, year: str) -> str:
    """Return the entries of skygraft and of some of `PAPERS`, in order.

    `year` is that in which the campaign was run; empty leaves it out.
    """
    own = {"author": f"{{{AUTHORS}}}", "title": f"{{{TITLE}}}", "version": version} | ({"year": year} if year else {})
    entries = [_entry("software", "skygraft", own)]
    entries += [_entry(kind, key, fields) for key in keys for _, kind, fields in (PAPERS[key],)]
    return "\n\n".join(entries)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}}}"
