"""Outputs in a store: published file by file from a work folder, and found again on any machine.

Writing an object is atomic: it has its name when all of it is there. So nothing is renamed; what says that others are
complete is written after them, and last. The work folder holds what is needed to go on (plan, ledger, records, tables);
images leave it as soon as they are in the store, and their stubs (`skygraft.places.stubs`) stand for them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import OutputExistsError, PlaceError, PlaceNotFoundError
from skygraft.place_names import WORK_KIND, as_kind, is_copy, url_of
from skygraft.places.scratch import Scratch, default_folder, scratch_of
from skygraft.places.stores import READ_ONLY, Storage
from skygraft.places.stubs import note
from skygraft.places.urls import scheme_of

__all__ = ["Outputs", "OutputsAt", "outputs_of"]

MANIFEST = ".published.json"
"""What was published of the files of the whole campaign: size and time here, and what the store said."""
_THREADS, _TOGETHER = 16, 128
_IMAGES, _RECORDS = "images", "records"
_PACK = "part-0.parquet"
"""Of records and truth tables of a patch in one file (`skygraft.records.packs`); it is published as tables are."""
_NOT_PUBLISHED = (".lock", ".lock.held", "logs", "ledger_checkpoint.arrow", MANIFEST, _IMAGES, _RECORDS)
_OWN = ("campaign.yaml", MANIFEST)
"""Files by which a campaign's folder is recognised."""


def _is_pack(name: str) -> bool:
    return name.startswith(f"{_RECORDS}/") and name.endswith(f"/{_PACK}")


@dataclass(frozen=True)
class OutputsAt:
    """Where outputs go, for workers that may be on other machines; it holds no secret.

    Parameters
    ----------
    url : str
        The folder in the store.
    storage : dict
        Fields of `skygraft.places.Storage`.
    root : str
        The work folder of the driver.
    work : str
        The folder for work folders that was asked for; empty for each machine's own.
    """

    url: str
    storage: dict[str, Any]
    root: str
    work: str = ""

    def here(self, wanted: dict[str, tuple[int, int]]) -> Path:
        """Return the work folder on this machine, with some files as the driver has them.

        Parameters
        ----------
        wanted : dict
            Names, and `FileIdentity.size_and_time` of them for the driver.

        Raises
        ------
        PlaceError
            If they cannot be fetched.
        """
        scratch = Scratch(Path(self.work) if self.work else default_folder(), Storage(**self.storage))
        own = Path(self.root)
        known = [FileIdentity.find(own / name) for name in wanted]
        if all(one is not None and one.size_and_time == wanted[name] for name, one in zip(wanted, known, strict=True)):
            return own
        root = scratch.path(self.url, WORK_KIND)
        scratch.make()
        outputs = Outputs(root, scratch)
        for name, identity in wanted.items():
            there = FileIdentity.find(root / name)
            if there is None or there.size_and_time != identity:
                # With another plan, partitions that were fetched before may be others too.
                shutil.rmtree(root / "catalog", ignore_errors=True)
                outputs.fetch(name, FileIdentity(*identity))
        return root


def outputs_of(root: Path) -> Outputs | None:
    """Return the outputs of a work folder; None for other folders, whose files are where they belong."""
    if not is_copy(root) or as_kind(root, WORK_KIND) != root:
        return None
    return Outputs(root, scratch_of(root))


@dataclass(frozen=True)
class Outputs:
    """The outputs of a campaign in a store.

    Parameters
    ----------
    root : Path
        The work folder.
    scratch : Scratch
        The scratch folder that it is in.
    """

    root: Path
    scratch: Scratch

    @property
    def url(self) -> str:
        """The folder in the store."""
        url = url_of(self.root)
        assert url is not None
        return url.rstrip("/")

    def url_of(self, path: Path) -> str:
        """The URL of a file, by its path in the work folder."""
        url = url_of(path)
        assert url is not None
        return url

    def at(self, work: Path | None = None) -> OutputsAt:
        """What workers need to find the outputs."""
        return OutputsAt(self.url, asdict(self.scratch.storage), str(self.root), "" if work is None else str(work))

    def check(self) -> None:
        """Raise if the store is only read.

        Raises
        ------
        PlaceError
            If it is.
        """
        if scheme_of(self.url) in READ_ONLY:
            raise PlaceError("outputs cannot be written by HTTP", path=self.url, fix="Name a bucket or a folder")

    # -- of images

    def publish(self, path: Path, *, keep: bool = True) -> None:
        """Upload a file of the work folder, and give it the time that the store gives it.

        Parameters
        ----------
        path : Path
            The file.
        keep : bool
            Whether it stays here too; otherwise only its stub does.

        Raises
        ------
        PlaceError
            If it cannot be written, or the store does not show it as it is.
        """
        url = self.url_of(path)
        identity = self.scratch.store.upload(path, url)
        note(url, identity, self.scratch)
        if keep:
            os.utime(path, ns=(identity.mtime_ns, identity.mtime_ns))
        else:
            path.unlink()

    def remove(self, path: Path) -> None:
        """Remove a file from the store; what is here is left alone."""
        self.scratch.store.remove(self.url_of(path))
        stub = as_kind(path, "stubs")
        with contextlib.suppress(IsADirectoryError):
            stub.unlink(missing_ok=True)

    # -- of the campaign

    def fetch(self, name: str, identity: FileIdentity) -> None:
        """Fetch a file to the work folder and give it a time.

        Raises
        ------
        PlaceNotFoundError, PlaceError
            If it is not there, or of another size.
        """
        self._write(name, identity, self.scratch.store.read(f"{self.url}/{name}"))

    def _write(self, name: str, identity: FileIdentity, content: bytes) -> None:
        """Write a file that was fetched, and give it a time."""
        path = self.root / name
        if len(content) != identity.n_bytes:
            raise PlaceError(
                f"it has {len(content):,} bytes, and should have {identity.n_bytes:,}",
                path=f"{self.url}/{name}",
                fix="Start the command again",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(content)
            os.utime(temporary, ns=(identity.mtime_ns, identity.mtime_ns))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _fetch_all(self, wanted: list[tuple[str, FileIdentity]]) -> None:
        """Fetch many files, so many at a time that they need little memory."""
        for some in itertools.batched(wanted, _TOGETHER):
            contents = self.scratch.store.read_all([f"{self.url}/{name}" for name, _ in some])
            for (name, identity), content in zip(some, contents, strict=True):
                self._write(name, identity, content)

    def need(self, path: Path) -> None:
        """Fetch a file, with those beside it, if it is not here: a worker's partition of the catalogue."""
        if path.exists():
            return
        found = self.scratch.store.listing(self.url_of(path.parent))
        self._fetch_all([(url[len(self.url) + 1 :], identity) for url, identity in found.items()])

    def sync(self, *, clean: bool = False) -> None:
        """Bring the work folder up to date with what is in the store.

        Images are not fetched: their stubs say that they are there. Records and truth tables are those of the store.
        Of plan, ledger and tables, what is newer here stays.

        Parameters
        ----------
        clean : bool
            Whether to remove what a run left here that did not come to publish it. Only for who holds the lock.

        Raises
        ------
        OutputExistsError
            If there is something else in the store.
        PlaceError
            If it cannot be read.
        """
        self.check()
        self.scratch.make()
        found = {url[len(self.url) + 1 :]: one for url, one in self.scratch.store.listing(self.url, deep=True).items()}
        names = {name.partition("/")[0] for name in found if not name.startswith(".lock")}
        if names and not names & {*_OWN}:
            raise OutputExistsError(
                f"the output folder holds something else ({', '.join(sorted(names)[:3])})",
                path=self.url,
                fix="Name a new folder",
            )
        stubs = as_kind(self.root, "stubs")
        wanted = {note(f"{self.url}/{name}", one, self.scratch) for name, one in found.items()}
        for stub in [path for path in stubs.rglob("*") if path.is_file() and path not in wanted]:
            stub.unlink(missing_ok=True)
        before, published = self._manifest(), self._published(found)
        missing: list[tuple[str, FileIdentity]] = []
        for name, one in found.items():
            top = name.partition("/")[0]
            here = FileIdentity.find(self.root / name)
            if top == _RECORDS and not _is_pack(name):
                if not one.same_content(here):
                    missing.append((name, one))
            elif _is_pack(name) or (
                top not in _NOT_PUBLISHED and not top.startswith(".lock") and not name.endswith(".tmp")
            ):
                there = published.get(name)
                known = before.get(name)
                # Its time where it was written, if that is known: checksums and memories of patches compare it.
                then = FileIdentity(one.n_bytes, there[1] if there and there[2:] == [*one.size_and_time] else 0)
                then = then if then.mtime_ns else one
                changed_there = known is None or known[2:] != [*one.size_and_time]
                changed_here = here is not None and (known is None or known[:2] != [*here.size_and_time])
                if here is None or (changed_there and not changed_here):
                    missing.append((name, then))
        self._fetch_all(missing)
        for name in [name for name, _ in missing if _is_pack(name)]:
            # Single files that were packed elsewhere: they would count more than what is in the pack.
            for path in [one for one in (self.root / name).parent.iterdir() if one.is_file()]:
                if path.relative_to(self.root).as_posix() not in found and not path.name.endswith(".tmp"):
                    path.unlink(missing_ok=True)
        if MANIFEST in found and missing:
            self._note_fetched(before, published, [name for name, _ in missing])
        if clean:
            self._remove_unpublished({*found})

    def _remove_unpublished(self, published: set[str]) -> None:
        records = self.root / _RECORDS
        for path in [p for p in records.rglob("*") if p.is_file()] if records.is_dir() else []:
            if path.relative_to(self.root).as_posix() not in published:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.root / _IMAGES, ignore_errors=True)

    def publish_all(self) -> int:
        """Upload plan, ledger, catalogue and tables that changed since they were published; returns how many.

        Raises
        ------
        PlaceError
            If one cannot be written.
        """
        before = self._manifest()
        here = {}
        for path in self._own_files():
            status = path.stat()
            here[path.relative_to(self.root).as_posix()] = [status.st_size, status.st_mtime_ns]
        changed = [name for name, one in here.items() if before.get(name, [])[:2] != one]
        manifest = {name: known for name, known in before.items() if name in here}

        def put(name: str) -> None:
            url = f"{self.url}/{name}"
            identity = self.scratch.store.upload(self.root / name, url)
            note(url, identity, self.scratch)
            manifest[name] = [*here[name], *identity.size_and_time]

        # First the files by which the folder is recognised as this campaign's.
        self._each(put, [name for name in changed if name in _OWN])
        self._each(put, [name for name in changed if name not in _OWN])
        gone = [name for name in before if name not in here]
        self._each(lambda name: self.remove(self.root / name), gone)
        if changed or gone or not (self.root / MANIFEST).exists():
            self._write_manifest(manifest)
            self.scratch.store.upload(self.root / MANIFEST, f"{self.url}/{MANIFEST}")
        return len(changed)

    def _own_files(self) -> list[Path]:
        found: list[Path] = []
        for entry in self.root.iterdir():
            if entry.name in _NOT_PUBLISHED or entry.name.endswith(".tmp") or entry.name.startswith(".planning-"):
                continue
            inside = [p for p in entry.rglob("*") if p.is_file()] if entry.is_dir() else [entry]
            found += [path for path in inside if not path.name.endswith(".tmp") and not path.name.startswith(".lock")]
        return sorted([*found, *self.packs()])

    def packs(self) -> list[Path]:
        """The packs of records that there are in the work folder."""
        return sorted((self.root / _RECORDS).glob(f"tract=*/patch=*/{_PACK}"))

    def packed_in_store(self) -> dict[Path, dict[str, FileIdentity]]:
        """Return packs that the store has as they are here, and what else it has in the folder of each, by name.

        Raises
        ------
        PlaceError
            If it cannot be listed.
        """
        packs, manifest = self.packs(), self._manifest()
        if not packs:
            return {}
        folders: dict[str, dict[str, FileIdentity]] = {}
        for url, one in self.scratch.store.listing(f"{self.url}/{_RECORDS}", deep=True).items():
            folder, _, name = url[len(self.url) + 1 :].rpartition("/")
            folders.setdefault(folder, {})[name] = one
        found = {}
        for pack in packs:
            own, here = pack.relative_to(self.root), FileIdentity.of(pack)
            there = folders.get(own.parent.as_posix(), {})
            if _PACK in there and manifest.get(own.as_posix()) == [*here.size_and_time, *there[_PACK].size_and_time]:
                found[pack] = {one: identity for one, identity in there.items() if one != _PACK}
        return found

    def remove_all(self, paths: list[Path]) -> None:
        """Remove files from the store, many at a time."""
        self._each(self.remove, paths)

    def _manifest(self) -> dict[str, list[int]]:
        with contextlib.suppress(OSError, ValueError):
            content: dict[str, list[int]] = json.loads((self.root / MANIFEST).read_bytes())
            if isinstance(content, dict):
                return content
        return {}

    def _published(self, found: dict[str, FileIdentity]) -> dict[str, list[int]]:
        if MANIFEST not in found:
            return {}
        with contextlib.suppress(ValueError, PlaceNotFoundError):
            content: dict[str, list[int]] = json.loads(self.scratch.store.read(f"{self.url}/{MANIFEST}"))
            return content
        return {}

    def _note_fetched(
        self, before: dict[str, list[int]], published: dict[str, list[int]], names: Iterable[str]
    ) -> None:
        fetched = {name: published[name] for name in names if name in published}
        self._write_manifest(before | fetched)

    def _write_manifest(self, content: dict[str, list[int]]) -> None:
        with atomic_path(self.root / MANIFEST, sync=False) as temporary:
            temporary.write_text(json.dumps(dict(sorted(content.items()))), encoding="utf-8")

    def _each[T](self, function: Callable[[T], None], items: list[T]) -> None:
        if not items:
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(function, items):
                pass

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Scratch]]:
        return type(self), (self.root, self.scratch)
