"""What is done with damaged files, and what must not come of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fuzz import seeds
from fuzz.mutate import BY_STANDARD, BYTES, FITS, TEXT, Change, mutate
from fuzz.watch import Outcome

PICKLED = ("path", "hdu", "row", "key", "message")


class SilentError(Exception):
    """Something was accepted that must not be, or changed that must not."""


class Fuzz:
    """Cases by number: each damages one file and does with it what a user would.

    Parameters
    ----------
    folder : Path
        Where the sound files are, or will be.
    seed : int
        Of the whole run.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._known: dict[str, Any] = {}

    def make_seeds(self, targets: list[str]) -> None:
        """Write the sound files, in a process of its own: what it loads must not be forked."""
        wanted = [t for t in targets if not (self.folder / t / "names.json").is_file()]
        if not wanted:
            return
        pid = os.fork()
        if pid:
            if os.waitpid(pid, 0)[1] != 0:
                raise RuntimeError(f"the sound files cannot be made in {self.folder}")
            return
        try:
            for target in wanted:
                shutil.rmtree(self.folder / target, ignore_errors=True)
                names = TARGETS[target][0](self.folder / target)
                (self.folder / target / "names.json").write_text(json.dumps(names))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def run(self, target: str, number: int) -> Outcome:
        """One case, in the folder ``case`` of the current one."""
        rng = np.random.default_rng([self.seed, zlib.crc32(target.encode()), number])
        names = json.loads((self.folder / target / "names.json").read_text())
        name, case = names[rng.integers(len(names))], Path("case")
        shutil.rmtree(case, ignore_errors=True)
        what: list[str] = [name]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                TARGETS[target][1](self, name, case, rng, what)
        except SilentError as error:
            return Outcome(target, number, "silent", "; ".join(what), str(error))
        except MemoryError:
            return Outcome(target, number, "memory", "; ".join(what), traceback.format_exc())
        except Exception as error:
            return Outcome(target, number, *_judge(error, what))
        return Outcome(target, number, "ok", "; ".join(what))

    def known[T](self, key: str, make: Callable[[], T]) -> T:
        """What the sound file says, found once."""
        if key not in self._known:
            self._known[key] = make()
        value: T = self._known[key]
        return value


def _judge(error: Exception, what: list[str]) -> tuple[str, str, str]:
    """Whether an exception is a refusal that a user can read, and another process too."""
    from skygraft.errors import SkygraftError

    text = "; ".join(what)
    if not isinstance(error, SkygraftError):
        return "foreign", text, traceback.format_exc()
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception as problem:
        return "foreign", text, f"cannot be pickled ({problem!r}): {error!r}"
    if str(again) != str(error) or any(getattr(again, n) != getattr(error, n) for n in PICKLED):
        return "foreign", text, f"does not survive pickling: {error!r}"
    return "refused", text, str(error)


def _damage(path: Path, mutators: tuple[Any, ...], rng: np.random.Generator, what: list[str]) -> Change:
    change = mutate(path.read_bytes(), mutators, rng)
    target = path.resolve()
    target.write_bytes(change.data)
    what.append(f"{path.name}: {change.what}")
    return change


# --- images


def _added(folder: Path, options: dict[str, Any]) -> tuple[np.ndarray[Any, Any], Any]:
    """Noise-free flux that injection adds to an image at fixed places, and the injection."""
    from skygraft import inject, read_exposure
    from skygraft.formats import read_calibration, read_footprint

    image = (folder / "image.fits").resolve()
    read_footprint(image)
    read_calibration(image, **options)
    exposure = read_exposure(image, **options)
    catalog = seeds.sources()
    where = json.loads((folder / "where.json").read_text())
    catalog["ra"], catalog["dec"] = where["ra"], where["dec"]
    made = inject(exposure, catalog, band="r", noise=False, seed=1, image_id="image", flux_mode=where["mode"])
    return np.asarray(made.exposure.image, float) - np.asarray(exposure.image, float), made


def make_fits(folder: Path) -> list[str]:
    """Sound images, each with the positions on the sky that are injected."""
    from skygraft import read_exposure

    names = seeds.make_fits(folder)
    for name in names:
        exposure = read_exposure((folder / name / "image.fits").resolve(), **seeds.FITS_OPTIONS[name])
        rng, (ny, nx) = np.random.default_rng(5), exposure.shape
        x, y = rng.uniform(0.3, 0.7, (2, 12)) * np.array([[nx], [ny]]) + np.array(exposure.xy0)[:, None]
        ra, dec = exposure.wcs.pixel_to_world_values(x, y)
        mode = "calibrated" if exposure.photo_calib is not None and exposure.photo_calib.reference else "psf_sum"
        where = {"ra": np.asarray(ra).tolist(), "dec": np.asarray(dec).tolist(), "mode": mode}
        (folder / name / "where.json").write_text(json.dumps(where))
    return names


def try_fits(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read, inject, write; a number that the damage took away must not be made up."""
    from astropy.io import fits

    from skygraft import read_exposure, write_exposure

    options = seeds.FITS_OPTIONS[name]
    sound = fuzz.folder / "fits" / name
    before = fuzz.known(name, lambda: _added(sound, options)[0])
    shutil.copytree(sound, case, symlinks=True, copy_function=shutil.copyfile)
    files = sorted(p for p in case.iterdir() if p.suffix in (".fits", ".psf") and p.is_file())
    path = files[rng.integers(len(files))] if rng.random() < 0.3 else case / "image.fits"
    change = _damage(path, FITS, rng, what)
    added, made = _added(case, options)
    exposure = read_exposure((case / "image.fits").resolve(), **options)
    if not np.isfinite(np.asarray(made.exposure.image))[np.isfinite(exposure.image)].all():
        raise SilentError("pixels that were finite are not after injection")
    peak = float(np.abs(before).max())
    if change.loses and not BY_STANDARD.match(change.loses):
        off = np.inf if added.shape != before.shape else float(np.nanmax(np.abs(added - before))) / peak
        if off > 1e-3:
            raise SilentError(f"what is added differs by {off:.3g} of its peak, and nothing was said of {change.loses}")
    drawn = made.truth["stamp_size"] > 0
    deposited = np.asarray(made.truth["flux_deposited"])[drawn]
    if not np.isfinite(deposited).all():
        raise SilentError("truth reports flux that is not finite")
    out = case / "out.fits"
    write_exposure(made.exposure, out)
    with fits.open(out) as hdus:
        for hdu in hdus:
            if isinstance(hdu, fits.ImageHDU | fits.PrimaryHDU | fits.CompImageHDU) and hdu.header["NAXIS"]:
                assert hdu.data is not None


# --- catalogues


def _canonical(path: Path) -> Any:
    from skygraft import read_catalog

    return read_catalog(path, band="r")


def try_catalogue(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Read, inject, write again; what is drawn must be finite, and what is written must be what was read."""
    from skygraft import inject, write_catalog
    from skygraft.testing import make_exposure

    case.mkdir()
    path = case / name
    shutil.copyfile(fuzz.folder / "catalogue" / name, path)
    mutators = TEXT if path.suffix in (".csv", ".ecsv", ".vot") else FITS if path.suffix == ".fits" else BYTES
    _damage(path, mutators, rng, what)
    table = _canonical(path)
    exposure = make_exposure((seeds.SIZE, seeds.SIZE), center=(seeds.RA, seeds.DEC))
    made = inject(exposure, table, band="r", seed=1)
    if not np.isfinite(np.asarray(made.exposure.image)).all():
        raise SilentError("pixels are not finite after injection")
    write_catalog(table, case / "again.ecsv")
    again = _canonical(case / "again.ecsv")
    for column in ("injection_id", "ra", "dec", "mag_r"):
        if not np.array_equal(np.asarray(table[column]), np.asarray(again[column]), equal_nan=column == "mag_r"):
            raise SilentError(f"column {column} is another after it was written and read")


# --- configurations and outputs, by the command line


def _command(*words: str) -> tuple[int, str]:
    """Exit code and output of a command; anything but its own errors is raised."""
    from typer.testing import CliRunner

    from skygraft.cli import app

    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def try_config(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Plan and ask for the status; errors say so in words."""
    del name
    shutil.copytree(fuzz.folder / "config", case)
    _damage(case / "campaign.yaml", TEXT, rng, what)
    with _inside(case):
        for words in (("plan", "campaign.yaml", "--processes", "1"), ("status", "campaign.yaml")):
            code, text = _command(*words)
            what.append(f"{words[0]}: {code}")
            if code and not text.strip():
                raise SilentError(f"{words[0]} ended with {code} and said nothing")


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


_VOLATILE = ("ledger.jsonl", "campaign.yaml", ".lock", ".consolidated", "provenance.json", "plan", "failures.parquet")
"""What a campaign writes that is no result, or that tells when it was made."""


def _results(out: Path) -> dict[str, bytes]:
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    named = ((p.relative_to(out).as_posix(), p) for p in files)
    return {
        n: p.read_bytes()
        for n, p in named
        if not n.startswith((*_VOLATILE, "records/", "catalog/_partition.json")) and "/." not in n
    }


def try_outputs(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
    """Damage an output: status, run and verify between them mend it, or name it."""
    del name
    sound = fuzz.folder / "outputs"
    # File times are part of what a campaign looks at.
    shutil.copytree(sound, case, copy_function=shutil.copy2)
    files = sorted(p for p in (case / "out").rglob("*") if p.is_file() and p.stat().st_size)
    path = files[rng.integers(len(files))]
    mutators = FITS if path.suffix == ".fits" else TEXT if path.suffix in (".json", ".jsonl", ".yaml") else BYTES
    if rng.random() < 0.1:
        path.unlink()
        what.append(f"{path.relative_to(case)} removed")
    else:
        change = _damage(path, mutators, rng, what)
        what[-1] = f"{path.relative_to(case)}: {change.what}"
    said = ""
    codes = []
    with _inside(case):
        for words in (
            ("status", "campaign.yaml"),
            ("run", "campaign.yaml", "--workers", "0"),
            ("verify", "campaign.yaml", "--checksums"),
        ):
            code, text = _command(*words)
            codes.append(code)
            said += text
    what.append(f"status, run, verify: {codes}")
    before = fuzz.known("results", lambda: _results(sound / "out"))
    after = _results(case / "out")
    if not any(codes) and after != before:
        differ = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        raise SilentError(f"damaged and not noticed: {', '.join(differ)}")


TARGETS: dict[str, tuple[Callable[[Path], list[str]], Callable[..., None]]] = {
    "fits": (make_fits, try_fits),
    "catalogue": (seeds.make_catalogues, try_catalogue),
    "config": (lambda folder: seeds.make_campaign(folder, finished=False), try_config),
    "outputs": (lambda folder: seeds.make_campaign(folder, finished=True), try_outputs),
}
"""What makes a target's sound files, and what tries a damaged one."""
