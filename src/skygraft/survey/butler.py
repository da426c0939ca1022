"""Find images in a Butler repository: the datasets that match a query, and their files.

The library (``lsst-daf-butler``, BSD-licensed and on PyPI: ``skygraft[butler]``) is used once, while the survey is
indexed; afterwards images are read from their files, without a database. Files written by the LSST stack are read
too, since the library is not used to read their content, which would need the stack.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from skygraft.dataset import Dataset
from skygraft.errors import ConfigError, CorruptFileError, FormatError, SkygraftError
from skygraft.exposure import DataId
from skygraft.formats import get_format

__all__ = [
    "FORMATS",
    "ButlerQuery",
    "FoundImage",
    "butler_errors",
    "data_id_text",
    "error_text",
    "find_images",
    "open_butler",
    "repository",
]

FORMATS = {
    "Exposure": "lsst_afw",
    "ExposureF": "lsst_afw",
    "ExposureI": "lsst_afw",
    "CellCoadd": "lsst_images",
    "DifferenceImage": "lsst_images",
    "MaskedImageV2": "lsst_images",
    "VisitImage": "lsst_images",
}
"""Formats by the storage class whose files they read."""

_INSTALL = "Install the library that opens it: pip install 'skygraft[butler]'"
_BATCH = 500
_KEY = "survey.butler"
_NEEDED = ("repo", "collections", "dataset_type")


@dataclass(frozen=True)
class ButlerQuery:
    """A query for the images in a Butler repository.

    Parameters
    ----------
    repo : str
        The repository: a folder or its ``butler.yaml``, a URI, or a name in ``DAF_BUTLER_REPOSITORIES``.
    collections : tuple of str
        Collections to search in order; a dataset is taken from the first collection that has its data id.
    dataset_type : str
        Name of the dataset type.
    where : str
        Butler query expression for data ids; empty for all.
    schema_type : str, optional
        Dataset type of the schema of the source catalogues, such as ``src_schema``. It records the calibration aperture
        of images that do not record it themselves (format ``lsst_afw``).
    """

    repo: str
    collections: tuple[str, ...]
    dataset_type: str
    where: str = ""
    schema_type: str | None = None

    @classmethod
    def from_spec(cls, spec: Any) -> Self:
        """Build the query from a mapping with these keys; `collections` may be one string, separated by commas.

        Parameters
        ----------
        spec : mapping
            Configuration of the query.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value is not text.
        """
        if not isinstance(spec, Mapping):
            raise ConfigError(f"butler is {spec!r}; a mapping with {', '.join(_NEEDED)} is needed", key=_KEY)
        known = [field.name for field in fields(cls)]
        for key in spec:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}"
                raise ConfigError(f"butler has no key {key!r}", key=f"{_KEY}.{key}", fix=hint)
        given = {key: value for key, value in spec.items() if value is not None}
        collections = given.get("collections")
        if isinstance(collections, str):
            given["collections"] = [name.strip() for name in collections.split(",") if name.strip()]
        if not isinstance(given.get("collections", []), list | tuple):
            raise ConfigError(f"collections is {collections!r}; names are needed", key=f"{_KEY}.collections")
        for key in _NEEDED:
            if not given.get(key):
                raise ConfigError(f"butler needs {key}", key=f"{_KEY}.{key}", fix=f"Add {key}: to butler:")
        for name in given["collections"]:
            if isinstance(name, str) and any(letter in name for letter in "*?["):
                raise ConfigError(
                    f"the collection {name!r} is a pattern; the order of collections matters, so they have to be named",
                    key=f"{_KEY}.collections",
                    fix="Name each collection, or one that chains them",
                )
        rest = {key: given[key] for key in ("where", "schema_type") if key in given}
        texts = [given["repo"], given["dataset_type"], *rest.values(), *given["collections"]]
        if not all(isinstance(text, str | os.PathLike) for text in texts):
            raise ConfigError(f"butler is {dict(spec)!r}; its values must be texts", key=_KEY)
        return cls(os.fspath(given["repo"]), tuple(given["collections"]), given["dataset_type"], **rest)


@dataclass(frozen=True)
class FoundImage:
    """An image that a query found.

    Parameters
    ----------
    path : str
        Its file; its URI or data id if there is no file on this machine.
    format : str
        Name of the format.
    options : dict
        Reading options of the format, from the data id.
    data_id : DataId
        Identity of the image.
    dataset : Dataset
        The dataset in the repository.
    problem : SkygraftError or None
        Why its file cannot be read.
    """

    path: str
    format: str
    options: dict[str, Any]
    data_id: DataId
    dataset: Dataset
    problem: SkygraftError | None = None


def repository(text: str, base: Path) -> str:
    """Resolve the name of a repository: a path relative to `base` if that exists, otherwise the text unchanged.

    Parameters
    ----------
    text : str
        Name of the repository in a configuration.
    base : Path
        Folder of the configuration.
    """
    try:
        path = base / Path(text).expanduser()
        return os.path.normpath(path.absolute()) if path.exists() else text
    except (OSError, RuntimeError, ValueError):
        return text  # no valid path, or an unknown home folder


def error_text(error: BaseException) -> str:
    """Return the message of an exception as one line, or the name of its class if it has none."""
    return (" ".join(str(error).split()) or type(error).__name__)[:500]


@contextlib.contextmanager
def butler_errors(repo: str, doing: str, kind: type[SkygraftError] = ConfigError, key: str = _KEY) -> Iterator[None]:
    """Context in which any exception of the library becomes an error that names the repository and what failed.

    Parameters
    ----------
    repo : str
        The repository.
    doing : str
        What fails, for the message.
    kind : type
        Class of the error.
    key : str
        Configuration key, for the error.
    """
    try:
        yield
    except SkygraftError:
        raise
    except ImportError as error:
        name = error.name or "a library"
        # Its files may be in a store that needs another library (botocore for s3://).
        fix = _INSTALL if name.split(".")[0] in ("lsst", "sqlalchemy") else f"Install it: pip install {name}"
        raise ConfigError(f"the Butler repository needs {name}", path=repo, key=key, fix=fix) from error
    except Exception as error:  # Errors of the library, its database and drivers have no common base class.
        raise kind(f"{doing}: {error_text(error)}", path=repo, key=key) from error


@contextlib.contextmanager
def open_butler(repo: str, *, writeable: bool = False) -> Iterator[Any]:
    """Open a repository as an ``lsst.daf.butler.Butler``, and close it at the end of the context.

    Parameters
    ----------
    repo : str
        The repository.
    writeable : bool
        Open it for writing.

    Yields
    ------
    lsst.daf.butler.Butler

    Raises
    ------
    ConfigError
        If the repository does not exist or cannot be opened, or the library is not installed.
    """
    with butler_errors(repo, "the Butler repository cannot be opened", key=f"{_KEY}.repo"):
        from lsst.daf.butler import Butler

        try:
            butler = Butler.from_config(repo, writeable=writeable)
        except FileNotFoundError as error:
            raise ConfigError(
                f"there is no Butler repository ({error_text(error)})",
                path=repo,
                key=f"{_KEY}.repo",
                fix="Give the folder that holds butler.yaml, or a name that DAF_BUTLER_REPOSITORIES knows",
            ) from error
    try:
        yield butler
    finally:
        butler.close()


def find_images(
    query: ButlerQuery, fmt: str = "auto", options: Mapping[str, Any] | None = None
) -> Iterator[FoundImage]:
    """Find the images of a query, in the order of the database.

    Parameters
    ----------
    query : ButlerQuery
    fmt : str
        Name of their format; "auto" for that of their storage class.
    options : mapping, optional
        Reading options of the format; they take precedence over the data id.

    Yields
    ------
    FoundImage

    Raises
    ------
    ConfigError
        If there is no such repository, collection or dataset type, or the expression is invalid.
    FormatError
        If no format reads datasets of this type.
    """
    with open_butler(query.repo) as butler:
        fmt = _format_of(butler, query) if fmt == "auto" else fmt
        known = {field.name for field in fields(get_format(fmt).Options)}
        common = {} if query.schema_type is None else {"source_catalog": _schema(butler, query, fmt, known)}
        common |= dict(options or {})
        with _query(butler, query) as refs:
            for batch in itertools.batched(refs, _BATCH):
                with butler_errors(query.repo, "the files of datasets cannot be found"):
                    uris = butler.get_many_uris(batch, allow_missing=True)
                for ref in batch:
                    path, problem = _file(ref, uris.get(ref))
                    data_id = _data_id(ref)
                    settings = {key: value for key, value in data_id.as_dict().items() if key in known}
                    yield FoundImage(path, fmt, settings | common, data_id, Dataset.from_simple(_simple(ref)), problem)


def _dataset_type(butler: Any, query: ButlerQuery, name: str, key: str) -> Any:
    """Return a dataset type of the repository by its name."""
    from lsst.daf.butler import MissingDatasetTypeError

    with butler_errors(query.repo, f"the dataset type {name!r} cannot be used", key=key):
        try:
            return butler.get_dataset_type(name)
        except MissingDatasetTypeError as error:
            types = sorted(one.name for one in butler.registry.queryDatasetTypes(...))
            near = difflib.get_close_matches(name, types, n=1)
            raise ConfigError(
                f"the repository has no dataset type {name!r}",
                path=query.repo,
                key=key,
                fix=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(types[:20]) or 'none'}",
            ) from error


def _format_of(butler: Any, query: ButlerQuery) -> str:
    """Return the format of a dataset type's files, from its storage class."""
    key, name = f"{_KEY}.dataset_type", query.dataset_type
    found = _dataset_type(butler, query, name, key)
    if found.isComponent():
        raise ConfigError(
            f"{name!r} is a component of a dataset, not a dataset itself",
            path=query.repo,
            key=key,
            fix=f"Give the whole: {found.nameAndComponent()[0]}",
        )
    if found.storageClass_name not in FORMATS:
        raise FormatError(
            f"datasets of the type {name!r} are of the storage class {found.storageClass_name}; images that can be "
            f"read are of {', '.join(FORMATS)}",
            path=query.repo,
            key=key,
            fix="Name the type of an image; or, if its files can be read, their format (format: beside butler:)",
        )
    return FORMATS[found.storageClass_name]


def _schema(butler: Any, query: ButlerQuery, fmt: str, known: Collection[str]) -> str:
    """Return the file with the schema of the source catalogues."""
    key, name = f"{_KEY}.schema_type", str(query.schema_type)
    if "source_catalog" not in known:
        raise ConfigError(f"images of the format {fmt} take no schema", path=query.repo, key=key, fix="Leave it out")
    dimensions = _dataset_type(butler, query, name, key).dimensions.required
    if dimensions:
        raise ConfigError(
            f"{name!r} is a dataset of each {', '.join(sorted(dimensions))}; a schema is one for all",
            path=query.repo,
            key=key,
            fix=f"Name the type of the schema, such as {name}_schema",
        )
    with butler_errors(query.repo, f"the schema {name!r} cannot be found", key=key):
        refs = butler.query_datasets(name, collections=list(query.collections), explain=False)
        uris = butler.get_many_uris(refs, allow_missing=True)
    if not refs:
        raise ConfigError(
            f"there is no dataset {name!r} in {', '.join(query.collections)}",
            path=query.repo,
            key=key,
            fix="Add the collection that has it, or leave it out",
        )
    path, problem = _file(refs[0], uris.get(refs[0]))
    if problem is not None:
        raise problem
    return path


@contextlib.contextmanager
def _query(butler: Any, query: ButlerQuery) -> Iterator[Iterator[Any]]:
    """Iterate over the references that a query finds; their data ids include implied dimensions."""
    from lsst.daf.butler import MissingCollectionError

    def refs() -> Iterator[Any]:
        doing = f"where is {query.where!r}" if query.where else "the datasets cannot be listed"
        key = f"{_KEY}.where" if query.where else f"{_KEY}.collections"
        with butler_errors(query.repo, doing, key=key):
            try:
                # Without dimension records: asking for them would drop datasets whose records are incomplete.
                found = asked.datasets(query.dataset_type, collections=list(query.collections), find_first=True)
                yield from found.where(query.where) if query.where else found
            except MissingCollectionError as error:
                names = sorted(butler.collections.query("*"))
                wrong = next((one for one in query.collections if one not in names), query.collections[0])
                near = difflib.get_close_matches(wrong, names, n=1)
                raise ConfigError(
                    f"the repository has no collection {wrong!r}",
                    path=query.repo,
                    key=f"{_KEY}.collections",
                    fix=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(names[:20]) or 'none'}",
                ) from error

    with butler.query() as asked:
        yield refs()


def _file(ref: Any, uris: Any) -> tuple[str, SkygraftError | None]:
    """Return the file of a dataset, and the reason if it cannot be read."""
    if uris is None:
        name = f"{ref.datasetType.name} {data_id_text(ref)}"
        return name, CorruptFileError(
            "the repository has no file of it", path=name, fix="Exclude it with where:, or have it made again"
        )
    if uris.primaryURI is None:
        name = os.fspath(next(iter(uris.componentURIs.values())).ospath) if uris.componentURIs else data_id_text(ref)
        return name, FormatError("the repository holds the dataset in pieces, a file for each", path=name)
    uri = uris.primaryURI
    if uri.scheme not in ("file", "") or uri.fragment:
        return str(uri), FormatError(
            f"the dataset's file is {'in a ZIP file' if uri.fragment else 'not on a file system of this machine'}",
            path=str(uri),
            fix="Bring it into a repository of your own: butler transfer-datasets",
        )
    return str(uri.ospath), None


def data_id_text(ref: Any) -> str:
    """Return the data id of a reference as text, for messages."""
    return ", ".join(f"{name}={value}" for name, value in ref.dataId.required.items())


def _data_id(ref: Any) -> DataId:
    values = dict(ref.dataId.mapping)
    visit = values.get("visit", values.get("exposure"))
    return DataId(
        instrument=values.get("instrument"),
        visit=visit,
        detector=values.get("detector"),
        tract=values.get("tract"),
        patch=values.get("patch"),
        band=values.get("band"),
    )


def _simple(ref: Any) -> dict[str, Any]:
    """Return a reference as JSON types, without dimension records."""
    kind = ref.datasetType
    return {
        "id": str(ref.id),
        "datasetType": {
            "name": kind.name,
            "storageClass": kind.storageClass_name,
            "dimensions": sorted(kind.dimensions.required),
        },
        "dataId": {"dataId": dict(ref.dataId.mapping)},
        "run": ref.run,
    }
