"""Whether a process is fit to make a campaign's images: same software, same files, room to write.

What is expected is worked out where the campaign is run, and looked at where its tasks run: a wrong version, a file
system that is not mounted or a full disk then has the machine's name, once, instead of a million failed images.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from skygraft.config.campaign import CampaignConfig
from skygraft.errors import OutputError
from skygraft.records.image_record import PIXEL_VERSION

__all__ = ["Expectation", "Fitness", "software", "version_differences"]

PIXEL_PACKAGES = ("skygraft", "numpy", "astropy", "galsim", "numba", "scipy", "starlink-pyast")
"""Pixels depend on these: another version is another image."""
OTHER_PACKAGES = ("pyarrow", "dask", "distributed")
"""Another version of these may work; it is said."""

_LEAST_OUTPUT = 100 * 2**20
_LEAST_SCRATCH = 20 * 2**20


@dataclass(frozen=True)
class Fitness:
    """What is wrong with a process.

    Parameters
    ----------
    problems : tuple of str
        Why it cannot make images; empty where it can.
    warnings : tuple of str
        What may matter.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it can make images."""
        return not self.problems


def software() -> dict[str, str]:
    """Versions of what runs here; a package that is not there is left out."""
    found = {"python": platform.python_version(), "pixel version": str(PIXEL_VERSION)}
    for name in (*PIXEL_PACKAGES, *OTHER_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version_differences(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> Fitness:
    """Compare the software of a worker with that of the client.

    Parameters
    ----------
    here, there : mapping
        Name to version, of the worker and of the client.

    Returns
    -------
    Fitness
        Problems for what pixels depend on and for another Python, which cannot read what this one sends; warnings
        for the rest.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for name, wanted in there.items():
        found = here.get(name)
        if found == wanted:
            continue
        text = f"{name} is {found or 'missing'}, the client has {wanted or 'none'}"
        if name == "python":
            minor = [str(version).split(".")[:2] for version in (found, wanted)]
            (warnings if minor[0] == minor[1] else problems).append(text)
        else:
            (warnings if name in OTHER_PACKAGES and found else problems).append(text)
    return Fitness(tuple(problems), tuple(warnings))


@dataclass(frozen=True)
class Expectation:
    """What a campaign needs of each process that makes its images.

    Parameters
    ----------
    software : tuple of (str, str)
        Names and versions, as `software` finds them at the client.
    root, catalog, output : Path
        Folder of the survey, file of the catalogue, folder of the outputs.
    landmark : str
        An entry of `root`: the mount point of a file system that is not mounted is an empty folder.
    catalog_bytes : int
        Size of the catalogue.
    token : str
        Content of `token_path`.
    """

    software: tuple[tuple[str, str], ...]
    root: Path
    catalog: Path
    output: Path
    landmark: str
    catalog_bytes: int
    token: str

    @classmethod
    def of(cls, config: CampaignConfig) -> Self:
        """What a campaign needs, as it is here."""
        root, catalog = config.survey.root, config.catalog.path
        with os.scandir(root) as entries:
            landmark = min((entry.name for entry in entries if not entry.name.startswith(".")), default="")
        return cls(
            software=tuple(software().items()),
            root=root,
            catalog=catalog,
            output=config.output,
            landmark=landmark,
            catalog_bytes=catalog.stat().st_size,
            token=secrets.token_hex(8),
        )

    @property
    def token_path(self) -> Path:
        """A file that only who sees the client's output folder can read; gone after the run, or with the next."""
        return self.output / f".preflight-{self.token}.tmp"

    def place_token(self) -> None:
        """Write the token's file.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        try:
            self.token_path.write_text(self.token, encoding="ascii")
        except OSError as error:
            raise OutputError(
                f"the output folder cannot be written ({error.strerror or error})",
                path=self.output,
                fix="Check permissions and free space",
            ) from error

    def remove_token(self) -> None:
        """Remove the token's file."""
        self.token_path.unlink(missing_ok=True)

    def look(self, scratch: str | os.PathLike[str] | None = None) -> Fitness:
        """See whether this process is fit.

        Parameters
        ----------
        scratch : path-like, optional
            Folder for temporary files.
        """
        versions = version_differences(software(), dict(self.software))
        problems = [*versions.problems, *self._inputs(), *self._outputs()]
        if scratch is not None:
            problem = _writable(Path(scratch), _LEAST_SCRATCH)
            problems += [f"the scratch folder {scratch} {problem}"] if problem else []
        return Fitness(tuple(problems), versions.warnings)

    def problems(self) -> list[str]:
        """Why this process cannot make the images; empty where it can."""
        return list(self.look().problems)

    def _inputs(self) -> list[str]:
        problems = []
        try:
            with os.scandir(self.root):
                pass
            if self.landmark and not os.path.lexists(self.root / self.landmark):
                problems.append(f"the survey's folder {self.root} is another one here: {self.landmark} is not in it")
        except OSError as error:
            problems.append(f"the survey's folder {self.root} cannot be read ({error.strerror or error})")
        try:
            size = self.catalog.stat().st_size
            with self.catalog.open("rb"):
                pass
            if self.catalog.is_file() and size != self.catalog_bytes:
                problems.append(
                    f"the catalogue {self.catalog} is another one here ({size} bytes, not {self.catalog_bytes})"
                )
        except IsADirectoryError:
            pass
        except OSError as error:
            problems.append(f"the catalogue {self.catalog} cannot be read ({error.strerror or error})")
        return problems

    def _outputs(self) -> list[str]:
        try:
            token = self.token_path.read_text(encoding="ascii")
        except FileNotFoundError:
            why = "is on another file system than the client's" if self.output.is_dir() else "does not exist here"
            return [f"the output folder {self.output} {why}"]
        except (OSError, UnicodeDecodeError) as error:
            return [f"the output folder {self.output} cannot be read ({error})"]
        if token != self.token:
            return [f"the output folder {self.output} is not the client's"]
        problem = _writable(self.output, _LEAST_OUTPUT)
        return [f"the output folder {self.output} {problem}"] if problem else []


def _writable(folder: Path, n_bytes: int) -> str:
    """Why files of so many bytes cannot be written to a folder; empty where they can."""
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
