"""Check whether a process can make a campaign's images: same software, same files, room to write.

The driver works out what is expected, and each worker compares itself with that before its first task. A wrong version,
a file system that is not mounted, or a full disk is then reported once, with the name of the machine, instead of
failing a million images.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distributed.versions import get_versions

from skygraft.config.campaign import CampaignConfig
from skygraft.errors import OutputError
from skygraft.place_names import is_copy
from skygraft.records.image_record import PIXEL_VERSION

__all__ = ["PACKAGES", "Expectation", "Fitness", "relevant_versions", "software", "version_differences"]

_PIXEL_PACKAGES = ("skygraft", "numpy", "astropy", "galsim", "numba", "scipy", "starlink-pyast")
"""Packages that pixels depend on: with another version, images may differ."""
_OTHER_PACKAGES = ("pyarrow", "dask", "distributed")
"""Packages of which another version may work; it is reported."""
PACKAGES = (*_PIXEL_PACKAGES, *_OTHER_PACKAGES)
"""Packages whose versions are compared."""

_LEAST_OUTPUT_BYTES = 100 * 2**20
_LEAST_SCRATCH_BYTES = 20 * 2**20


@dataclass(frozen=True)
class Fitness:
    """Why a process cannot make images, and differences that may matter."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if the process can make images."""
        return not self.problems


def relevant_versions(packages: Mapping[str, str | None]) -> dict[str, str]:
    """Return the versions that matter, of those that `distributed.versions.get_versions` reports for `PACKAGES`.

    Packages that are not installed are left out.
    """
    found = {name: version for name in PACKAGES if (version := packages.get(name)) is not None}
    return {"python": ".".join(str(packages.get("python")).split(".")[:3]), **found}


def software() -> dict[str, str]:
    """Return the versions of this process, by name, and the version of skygraft's pixels."""
    return relevant_versions(get_versions(PACKAGES)["packages"]) | {"pixel version": str(PIXEL_VERSION)}


def version_differences(here: Mapping[str, str], there: Mapping[str, str]) -> Fitness:
    """Compare the software of a worker, by name, with that of the client.

    Problems are packages that pixels depend on, and another Python, which cannot unpickle what this one sends.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for name, wanted in there.items():
        found = here.get(name)
        if found == wanted:
            continue
        text = f"{name} is {found or 'missing'}, the client has {wanted}"
        if name == "python":
            minor = [str(version).split(".")[:2] for version in (found, wanted)]
            (warnings if minor[0] == minor[1] else problems).append(text)
        else:
            (warnings if name in _OTHER_PACKAGES and found else problems).append(text)
    return Fitness(tuple(problems), tuple(warnings))


@dataclass(frozen=True)
class Expectation:
    """What a process needs to make a campaign's images."""

    software: tuple[tuple[str, str], ...]  # names and versions, as `software` finds them at the client
    root: Path
    catalog: Path
    output: Path
    landmark: str
    """Name of an entry of `root`. It is missing if the file system is not mounted: the mount point is empty then."""
    catalog_bytes: int
    token: str
    """Content of the file `token_path`."""

    @classmethod
    def of(cls, config: CampaignConfig) -> Self:
        """Return what a campaign needs, as seen by this process."""
        root, catalog = config.survey.root, config.catalog.path
        with os.scandir(root) if not is_copy(root) else contextlib.nullcontext(()) as entries:
            landmark = min((entry.name for entry in entries if not entry.name.startswith(".")), default="")
        n_bytes = 0 if is_copy(catalog) else catalog.stat().st_size
        versions = tuple(software().items())
        return cls(versions, root, catalog, config.output, landmark, n_bytes, secrets.token_hex(8))

    @property
    def token_path(self) -> Path:
        """A file by which a worker recognises the client's output folder; removed after the run, or by the next one."""
        return self.output / f".preflight-{self.token}.tmp"

    def place_token(self) -> None:
        """Write the file `token_path`; raises `OutputError` if it cannot be written."""
        if is_copy(self.output):
            return  # each machine has a work folder of its own
        try:
            self.token_path.write_text(self.token, encoding="ascii")
        except OSError as error:
            raise OutputError(
                f"the output folder cannot be written ({error.strerror or error})",
                path=self.output,
                fix="Check permissions and free space",
            ) from error

    def remove_token(self) -> None:
        """Remove the file `token_path`."""
        self.token_path.unlink(missing_ok=True)

    def check(self, scratch: str | os.PathLike[str] | None = None) -> Fitness:
        """Check this process, and a folder for temporary files, which has to be writable."""
        versions = version_differences(software(), dict(self.software))
        problems = [*versions.problems, *self._inputs(), *self._outputs()]
        if scratch is not None:
            problem = _writable(Path(scratch), _LEAST_SCRATCH_BYTES)
            problems += [f"the scratch folder {scratch} {problem}"] if problem else []
        return Fitness(tuple(problems), versions.warnings)

    def _inputs(self) -> list[str]:
        problems = []
        try:
            with os.scandir(self.root) if not is_copy(self.root) else contextlib.nullcontext():
                pass
            if self.landmark and not os.path.lexists(self.root / self.landmark):
                problems.append(f"the survey's folder {self.root} differs here: {self.landmark} is not in it")
        except OSError as error:
            problems.append(f"the survey's folder {self.root} cannot be read ({error.strerror or error})")
        if is_copy(self.catalog):
            return problems
        try:
            size = self.catalog.stat().st_size
            with self.catalog.open("rb"):
                pass
            if self.catalog.is_file() and size != self.catalog_bytes:
                problems.append(f"the catalogue {self.catalog} differs here ({size} bytes, not {self.catalog_bytes})")
        except IsADirectoryError:
            pass
        except OSError as error:
            problems.append(f"the catalogue {self.catalog} cannot be read ({error.strerror or error})")
        return problems

    def _outputs(self) -> list[str]:
        if is_copy(self.output):
            return []
        try:
            token = self.token_path.read_text(encoding="ascii")
        except FileNotFoundError:
            why = "is on another file system than the client's" if self.output.is_dir() else "does not exist here"
            return [f"the output folder {self.output} {why}"]
        except (OSError, UnicodeDecodeError) as error:
            return [f"the output folder {self.output} cannot be read ({error})"]
        if token != self.token:
            return [f"the output folder {self.output} is not the client's"]
        problem = _writable(self.output, _LEAST_OUTPUT_BYTES)
        return [f"the output folder {self.output} {problem}"] if problem else []


def _writable(folder: Path, n_bytes: int) -> str:
    """Return why `n_bytes` bytes cannot be written to a folder; empty if they can."""
    trial = folder / f".preflight-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with trial.open("wb") as handle:
            handle.write(bytes(4096))
            handle.flush()
            os.fsync(handle.fileno())
        trial.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            trial.unlink()
        return f"cannot be written ({error.strerror or error})"
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        return f"has {free / 2**30:.2f} GiB free; {n_bytes / 2**30:.2f} GiB are needed"
    return ""
