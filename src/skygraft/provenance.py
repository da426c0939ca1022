"""What made an output, as a W3C PROV-JSON document, and which software that was.

`PROV-JSON <https://www.w3.org/submissions/prov-json/>`_ names *entities* (files, settings), *activities* (the run)
and *agents* (software), and the relations between them. A survey of a million images is one entity with a number and
a fingerprint, not a million; each image's own story is in its record.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PACKAGES", "prov_document", "software_versions"]

PACKAGES = ("skygraft", "numpy", "astropy", "galsim", "numba", "scipy", "xarray", "pyarrow", "starlink-pyast")
"""Whose versions are recorded."""

_PREFIX = {
    "sg": "urn:skygraft:",
    "prov": "http://www.w3.org/ns/prov#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


@functools.lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def software_versions() -> dict[str, str]:
    """Versions of Python, skygraft, and the packages that pixels depend on."""
    return dict(_versions())


def _typed(value: Any) -> Any:
    """A literal as PROV-JSON writes it: text and truth values as they are, numbers with their XSD type."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return {"$": str(value), "type": "xsd:long"}
    if isinstance(value, float):
        return {"$": repr(value), "type": "xsd:double"}
    return str(value)


def _attributes(kind: str, label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"prov:type": {"$": kind, "type": "prov:QUALIFIED_NAME"}, "prov:label": label}
    content.update({f"sg:{name}": _typed(value) for name, value in attributes.items() if value is not None})
    return content


def prov_document(
    *,
    name: str,
    started: str,
    ended: str,
    inputs: Mapping[str, tuple[str, Mapping[str, Any]]],
    outputs: Mapping[str, tuple[str, Mapping[str, Any]]],
    calibrations: Sequence[Mapping[str, Any]],
    activity: Mapping[str, Any],
    software: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Compose the document.

    Parameters
    ----------
    name : str
        Name of the campaign.
    started, ended : str
        ISO 8601 times, with their offset from UTC.
    inputs, outputs : mapping of str to (str, mapping)
        Entities: identifier to a label and its attributes.
    calibrations : sequence of mapping
        Every calibration reference that was used: kind, radius_pixels, radius_arcsec, origin, n_images.
    activity : mapping
        Attributes of the run, such as seed and counts.
    software : sequence of mapping
        Each set of software versions that made an output: usually one.

    Returns
    -------
    dict
        JSON types, in the layout of PROV-JSON.
    """
    run = "sg:run"
    entities = {f"sg:{key}": _attributes("sg:Input", label, attributes) for key, (label, attributes) in inputs.items()}
    entities |= {
        f"sg:{key}": _attributes("sg:Output", label, attributes) for key, (label, attributes) in outputs.items()
    }
    references = {
        f"sg:calibration-{i}": _attributes("sg:CalibrationReference", "what calibrated fluxes are the flux of", item)
        for i, item in enumerate(calibrations)
    }
    agents = {
        f"sg:software-{i}": {
            **_attributes("prov:SoftwareAgent", "skygraft and what it runs on", {}),
            **{f"sg:version-{package}": version for package, version in sorted(versions.items())},
        }
        for i, versions in enumerate(software)
    }
    used = [f"sg:{key}" for key in inputs] + list(references)
    made = [f"sg:{key}" for key in outputs]
    derived = [(made_one, used_one) for made_one in made for used_one in used]
    return {
        "prefix": dict(_PREFIX),
        "entity": entities | references,
        "activity": {
            run: {
                "prov:startTime": started,
                "prov:endTime": ended,
                **_attributes("sg:Campaign", name, activity),
            }
        },
        "agent": agents,
        "used": {f"_:u{i}": {"prov:activity": run, "prov:entity": item} for i, item in enumerate(used)},
        "wasGeneratedBy": {f"_:g{i}": {"prov:entity": item, "prov:activity": run} for i, item in enumerate(made)},
        "wasAssociatedWith": {f"_:a{i}": {"prov:activity": run, "prov:agent": item} for i, item in enumerate(agents)},
        "wasDerivedFrom": {
            f"_:d{i}": {"prov:generatedEntity": new, "prov:usedEntity": old} for i, (new, old) in enumerate(derived)
        },
    }
