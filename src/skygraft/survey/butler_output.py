"""Register output files as datasets in a RUN collection of a Butler repository."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from skygraft.dataset import Dataset, made_by
from skygraft.errors import OutputError, OutputExistsError
from skygraft.survey.butler import FORMATS, butler_errors, data_id_text, error_text, open_butler

__all__ = ["DatasetFile", "OutputRun", "open_run"]

_KEY = "survey.butler.output_run"
_AFW_MODULE = "lsst.obs.base.formatters.fitsExposure"
_AFW_CLASS = "FitsExposureFormatter"
_BATCH = 500


@dataclass(frozen=True)
class DatasetFile:
    """A file to register as a dataset.

    Parameters
    ----------
    path : str
        The file, absolute.
    dataset : Dataset
        The dataset that it becomes.
    fixed : bool
        Whether the same inputs always give the same bytes. The size is then recorded, and checked when it is read.
    """

    path: str
    dataset: Dataset
    fixed: bool = True


class OutputRun:
    """The datasets of one campaign in a RUN collection.

    Parameters
    ----------
    butler : Butler
        The repository, writeable.
    repo, run : str
        Name of the repository, for messages, and of the collection.
    types : sequence of Dataset
        One dataset of each type to register, of which only type, storage class and dimensions are used.
    tag : str
        Tag of the campaign's datasets; see `Dataset.derive`.
    source : Butler, optional
        The repository of the input images, if it is another one.
    """

    def __init__(
        self, butler: Any, repo: str, run: str, types: Iterable[Dataset], tag: str, source: Any = None
    ) -> None:
        self._butler, self._repo, self._run, self._tag, self._source = butler, repo, run, tag, source
        self._types = {one.type: one for one in types}

    def check(self, *, begun: bool) -> None:
        """Check that the datasets can be registered in the run.

        Parameters
        ----------
        begun : bool
            Whether the run may already contain datasets of this campaign.

        Raises
        ------
        OutputExistsError
            If the run contains other datasets of these types.
        OutputError
            If the collection is not a run, or a dataset type exists with another definition.
        """
        from lsst.daf.butler import MissingCollectionError

        with self._errors("the run collection cannot be used"):
            try:
                kind = self._butler.collections.get_info(self._run).type.name
            except MissingCollectionError:
                kind = None
            if kind not in (None, "RUN"):
                raise OutputError(
                    f"{self._run!r} is a {kind} collection; datasets are written into a RUN collection",
                    path=self._repo,
                    key=_KEY,
                    fix="Name another",
                )
            for one in self._types.values():
                self._check_type(one)
                if kind is not None:
                    self._refuse_others(one.type, begun=begun)

    def _check_type(self, one: Dataset) -> None:
        from lsst.daf.butler import MissingDatasetTypeError

        try:
            there = self._butler.get_dataset_type(one.type)
        except MissingDatasetTypeError:
            return
        wanted = self._dataset_type(one)
        if there != wanted:
            raise OutputError(
                f"the repository has a dataset type {one.type!r} of the storage class {there.storageClass_name} and "
                f"the dimensions {', '.join(sorted(there.dimensions.required))}; {wanted.storageClass_name} and "
                f"{', '.join(sorted(wanted.dimensions.required))} are needed",
                path=self._repo,
                key="survey.butler.output_type",
                fix="Give another output_type",
            )

    def _refuse_others(self, name: str, *, begun: bool) -> None:
        for ref in self._present(name):
            if begun and made_by(self._tag, ref.id):
                continue
            raise OutputExistsError(
                f"the run {self._run!r} has datasets {name!r} that this campaign did not put there, such as "
                f"{data_id_text(ref)}",
                path=self._repo,
                key=_KEY,
                fix="Name another output_run; or remove them (butler prune-datasets) if nobody needs them",
            )

    def _present(self, name: str) -> Iterator[Any]:
        from lsst.daf.butler import MissingCollectionError, MissingDatasetTypeError

        with self._butler.query() as query, contextlib.suppress(MissingCollectionError, MissingDatasetTypeError):
            yield from query.datasets(name, collections=[self._run], find_first=False)

    def present(self) -> Iterator[tuple[uuid.UUID, tuple[int | str, ...]]]:
        """Iterate over ids and places (`Dataset.place`) of the datasets of these types in the run."""
        with self._errors("the datasets of the run cannot be listed"):
            for one in self._types.values():
                names = sorted(one.dimensions)
                for ref in self._present(one.type):
                    yield ref.id, tuple(ref.dataId[name] for name in names)

    def begin(self) -> None:
        """Create the run and the dataset types, unless they exist.

        Raises
        ------
        OutputError
            If they cannot be created.
        """
        with self._errors("the run collection cannot be made"):
            self._butler.collections.register(self._run)
            for one in self._types.values():
                self._butler.registry.registerDatasetType(self._dataset_type(one))

    def remove(self, ids: Iterable[uuid.UUID]) -> None:
        """Remove datasets from the repository; files outside of it are kept."""
        with self._errors("datasets of outputs that were made again cannot be removed"):
            for some in itertools.batched(ids, _BATCH):
                refs = self._butler.get_many_datasets(some)
                self._butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)

    def add(self, files: Iterable[DatasetFile], transfer: str) -> None:
        """Register files in one database transaction: all of them or none.

        Parameters
        ----------
        files : iterable of DatasetFile
            Files that are not registered yet.
        transfer : str
            Transfer mode of ``Butler.ingest``, such as ``"direct"``.

        Raises
        ------
        OutputError
            If they cannot be registered, with Butler's reason, such as a missing dimension record.
        """
        from lsst.daf.butler import DatasetRef, FileDataset, SerializedDatasetRef

        sorts: dict[bool, list[Any]] = {True: [], False: []}
        with self._errors("outputs cannot be registered"):
            for file in files:
                content = SerializedDatasetRef.model_validate(file.dataset.to_simple())
                ref = DatasetRef.from_simple(content, universe=self._butler.dimensions)
                formatter = _formatter(file.dataset.storage_class)
                sorts[file.fixed].append(FileDataset(file.path, ref, formatter=formatter))
            refs = [ref for datasets in sorts.values() for one in datasets for ref in one.refs]
            if self._source is not None and refs:
                self._copy_records(refs)
            try:
                with self._butler.transaction():
                    for fixed, datasets in sorts.items():
                        if datasets:
                            self._butler.ingest(*datasets, transfer=transfer, record_validation_info=fixed)
            except Exception:
                # Butler only reports that some constraint of the database fails.
                self._refuse_unknown(refs)
                raise

    def _copy_records(self, refs: list[Any]) -> None:
        """Copy dimension records from the repository of the input images."""
        try:
            self._butler.transfer_dimension_records_from(self._source, refs)
        except KeyError as error:  # its text is only the name of the dimension
            raise OutputError(
                f"the repository of the images has no {error} records for them, which {self._repo} needs",
                path=self._repo,
                key="survey.butler.output_repo",
                fix="Add them there (butler define-visits), or register in that repository: without output_repo",
            ) from error

    def _refuse_unknown(self, refs: Iterable[Any]) -> None:
        from lsst.daf.butler import DataIdValueError

        for ref in refs:
            try:
                self._butler.registry.expandDataId(ref.dataId.required)
            except DataIdValueError as error:
                raise OutputError(
                    f"the repository has no record of a dimension of {data_id_text(ref)}: {error_text(error)}",
                    path=self._repo,
                    key=_KEY,
                    fix="Bring the record there first, as butler define-visits or Butler.transfer_from do",
                ) from error

    def _dataset_type(self, one: Dataset) -> Any:
        from lsst.daf.butler import DatasetType

        return DatasetType(one.type, one.dimensions, one.storage_class, universe=self._butler.dimensions)

    def _errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return butler_errors(self._repo, f"{doing} ({self._run})", OutputError, _KEY)


def _formatter(storage_class: str) -> Any:
    """Return the formatter class to record for a file; None for the one in the repository's configuration."""
    from lsst.daf.butler import FormatterV2
    from lsst.daf.butler.formatters.json import JsonFormatter

    if storage_class == "StructuredDataDict":
        return JsonFormatter  # the configuration names the YAML formatter, which refuses the suffix .json
    if FORMATS.get(storage_class) != "lsst_afw" or _has_stack():
        return None
    # Butler records only the name of the class. Without the stack, a class of that name replaces the stack's own.
    content = {
        "default_extension": ".fits",
        "supported_extensions": frozenset({".fits", ".fits.gz", ".fits.fz", ".fz"}),
        "name": classmethod(lambda cls: f"{_AFW_MODULE}.{_AFW_CLASS}"),
    }
    return type(_AFW_CLASS, (FormatterV2,), content)


def _has_stack() -> bool:
    try:
        importlib.import_module(_AFW_MODULE)
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def open_run(
    repo: str, run: str, types: Iterable[Dataset], tag: str, *, source: str | None = None
) -> Iterator[OutputRun]:
    """Open a RUN collection of a repository for writing.

    The parameters are those of `OutputRun`, with repositories given by name.

    Yields
    ------
    OutputRun

    Raises
    ------
    ConfigError
        If a repository cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        origin = None if source is None or source == repo else stack.enter_context(open_butler(source))
        butler = stack.enter_context(open_butler(repo, writeable=True))
        yield OutputRun(butler, repo, run, types, tag, origin)
