"""Names of files that users write: URLs of stores, and names of PSFs and catalogues with fields in braces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from fuzz.judge import SilentError
from fuzz.kit import Fuzz

_SECRET = "hunter2hunter2"
_SCHEMES = ("s3", "gs", "https", "http", "memory", "file", "s3a", "S3", "HTTPS", "", "s3x", "1s3", "simplecache::s3",
            "python", "zip", "local", "dir", "reference")  # fmt: skip
_PARTS = ("a", "b.fits", "..", ".", "", "a b", "ä", "*", "[ab]", "[", "?x=1", "#x", "%2e%2e", "%~2e", "%~", "%~zz",
          "~", "\n", "\0", "\udc80", "x" * 250, "x" * 300, "ä" * 130, "a:b", "a@b", "{band}", "-", "::", "'", '"',
          "\\", "\t", ".skygraft-places", "stubs", "settings.json", "**", "[!a]", "[]", "[z-a]", "(", "^$")  # fmt: skip
_HOSTS = ("bucket", "h.example.org", "h:80", "", "..", ".", "a b", "[::1]", "BUCKET", "x" * 300, "*", "ä", "\0", "a\n",
          "%~2e", f"user:{_SECRET}@h", f":{_SECRET}@h", f"a@b:{_SECRET}@h", "user@h")  # fmt: skip
_QUERIES = ("", "", "", f"?X-Amz-Signature={_SECRET}", f"?a=1&sig={_SECRET}", f"?x=1&TOKEN={_SECRET}", "?v=2",
            f"?api_key={_SECRET}#a", f"?AWSAccessKeyId={_SECRET}")  # fmt: skip


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[rng.integers(len(words))]


def _url(rng: np.random.Generator, scheme: str) -> str:
    scheme = scheme if rng.random() < 0.7 else _pick(_SCHEMES, rng)
    host = ("bucket", "h.example.org")[rng.integers(2)] if rng.random() < 0.6 else _pick(_HOSTS, rng)
    usual = rng.random() < 0.3
    parts = [_pick(_PARTS[:2] if usual else _PARTS, rng) for _ in range(rng.integers(0, 5))]
    text = f"{scheme}://{'/'.join([host, *parts])}{_pick(_QUERIES, rng)}"
    return text if rng.random() < 0.9 else text.replace("//", ("/", "///", "//////")[rng.integers(3)], 1)


def _look(url: str, scratch: Any) -> None:
    """Find the copy's name of a URL; it lies in the scratch folder, and says the URL."""
    from skygraft.errors import SkygraftError
    from skygraft.place_names import shown_place, url_of, with_urls
    from skygraft.places import checked_url, is_place, local_path

    is_place(url)
    is_place(Path(url) if "\0" not in url else "x")
    for text in (with_urls(url), with_urls(f"'{url}' cannot be read: {url}.")):
        if _SECRET in text and _is_secret(url):
            raise SilentError("a secret is shown")
    try:
        usual = checked_url(url)
        path = local_path(url, scratch)
    except SkygraftError as error:
        if _SECRET in str(error) and _is_secret(url):
            raise SilentError("an error shows a secret") from error
        raise
    if _SECRET in usual and _is_secret(url):
        raise SilentError("a URL with a secret is accepted")
    inside = os.path.normpath(path)
    if not inside.startswith(os.path.normpath(scratch.folder) + os.sep) or Path(inside) != path:
        raise SilentError("the copy is elsewhere than in the scratch folder")
    # A bucket alone has no path.
    if usual not in (url_of(path), f"{url_of(path)}/"):
        raise SilentError(f"the copy's name says {url_of(path)!r}, the URL is {usual!r}")
    if shown_place(path) != url_of(path):
        raise SilentError("the copy is shown by another name")
    if checked_url(usual) != usual:
        raise SilentError("the usual form of a URL is not its own")


def _is_secret(url: str) -> bool:
    """Whether the words of `_HOSTS` and `_QUERIES` are still in a place where they are secrets."""
    before, _, after = url.partition("?")
    if _SECRET in before and before.lower().startswith(("memory", "file")) and "://" not in before.replace(":///", ""):
        return False  # part of a path on this machine
    authority = before.partition("://")[2].split("/")[0]
    return ("://" in before and f":{_SECRET}@" in authority) or (_SECRET in after and "#" not in before)


def _stored(url: str, scratch: Any) -> None:
    """Put a file into a store in memory, and get it by its URL and by a pattern."""
    import fsspec

    from skygraft.places import bring, find_copies, local_path

    path = local_path(url, scratch)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    content = url.encode(errors="replace")
    try:
        memory.pipe_file(url, content)
    except Exception:
        return  # no name of that store
    key = memory._strip_protocol(url)
    try:
        if memory.store.keys() != {key}:
            return
        if Path(bring(path)).read_bytes() != content:
            raise SilentError("another content came back")
        folder = url.rpartition("/")[0]
        if "//" in f"/{url.partition('://')[2]}" or "::" in url:
            return  # that store has no such folders, and takes the latter for two URLs
        if len(folder) > len("memory://") and not any(c in folder for c in "*?["):
            names = [str(one) for one in find_copies(f"{folder}/*", scratch)]
            if not url.rpartition("/")[2].startswith(".") and str(path) not in names:
                raise SilentError(f"a file of a folder is not found by '*': {names}")
    finally:
        memory.store.clear()


class Urls:
    """The target of URLs."""

    WEIGHTS: ClassVar[dict[str, float]] = {}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """There are no sound files: URLs are made of parts."""
        folder.mkdir(parents=True)
        return ["s3", "https", "memory", "file", "patterns"]

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """A URL is refused, or has a copy's name of its own that says it, and shows no secret."""
        from skygraft.places import Scratch
        from skygraft.places.urls import checked_url, common_folder

        scratch = Scratch(case / "scratch")
        scheme = "s3" if name == "patterns" else name
        url = "s3://bucket/a.fits" if fuzz.harmless else _url(rng, scheme)
        what.append(repr(url))
        fuzz.say(what)
        if name == "patterns":
            others = [url, *(_url(rng, scheme) for _ in range(0 if fuzz.harmless else rng.integers(0, 3)))]
            what[:] = [repr(others)]
            top, names = common_folder(others)
            if any(f"{top}/{n}" != checked_url(one) for n, one in zip(names, others, strict=True)):
                raise SilentError(f"{names} of {top}")
        _look(url, scratch)
        if name == "memory" and url.startswith("memory://"):
            _stored(url, scratch)


# --- names with fields in braces

_FIELDS = ("stem", "name", "band", "visit", "expnum", "detector", "ccd", "instrument", "file", "folder", "image_id",
           "tract", "patch", "", "0", "visti", "visit.real", "visit[0]", "__class__", "band!r", " visit")  # fmt: skip
_FORMS = (
    "",
    "",
    "",
    ":06d",
    ":d",
    ":6",
    ":03",
    ":x",
    ":>10",
    ":1000000000d",
    ":{band}",
    ":02d",
    ":0",
    ":99d",
    ":,",
    ":e",
)
_TEXTS = ("psf", "_", "/", "..", "{", "}", "{{", "}}", "~", ".fits", "ä", "\0", "s3://b/", "", "[", "*", "x" * 300, " ")


class Templates:
    """The target of names with fields in braces."""

    WEIGHTS: ClassVar[dict[str, float]] = {}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """There are no sound files: names are made of parts."""
        folder.mkdir(parents=True)
        return ["psf", "psf_bands", "catalogue"]

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """A name is refused, or filled in as Python does it."""
        fields = [f"{{{_pick(_FIELDS, rng)}{_pick(_FORMS, rng)}}}" for _ in range(rng.integers(1, 3))]
        text = "".join(part for field in fields for part in (_pick(_TEXTS, rng), field)) + _pick(_TEXTS, rng)
        text = "psf_{band}.fits" if fuzz.harmless else text
        what.append(repr(text))
        fuzz.say(what)
        known = {"band": "r", "visit": 7, "detector": "12", "instrument": "cam"}
        if rng.random() < 0.2 and not fuzz.harmless:
            known[_pick(tuple(known), rng)] = None  # type: ignore[assignment]
        found, values = _FILLED[name](text, known)
        try:
            expected = text.format(**values)
        except (ValueError, LookupError, AttributeError, TypeError):
            expected = None
        if expected is None:
            raise SilentError(f"{text!r} was filled in as {found!r}; Python refuses it")
        if not str(found).endswith(os.path.normpath(expected).lstrip("./~")) and "//" not in expected:
            raise SilentError(f"{text!r} was filled in as {found!r}; Python has {expected!r}")


def _psf_name(text: str, known: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from pydantic import ValidationError

    from skygraft.config.inputs import CalibrationConfig
    from skygraft.errors import ConfigError

    values = {"stem": "image-1", "name": "image-1.fits.fz", **known, "expnum": known["visit"], "ccd": known["detector"]}
    try:
        given = CalibrationConfig(psf=text)
    except ValidationError as error:
        raise ConfigError(str(error)) from error
    found = os.path.normpath(given.psf_of(Path("/data/image-1.fits.fz"), None, known))
    return found, _by_form(text, values)


def _by_form(text: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values, those that are names as `_Name`."""
    return {k: _Name(v) if isinstance(v, str) and f"{{{k}:" in text else v for k, v in values.items()}


class _Name(str):
    """A name in a place with the form of a number: if it is one, in that form, and else as it is."""

    def __format__(self, form: str) -> str:
        return format(int(self), form) if self.isdecimal() else str(self)


def _psf_by_band(text: str, known: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from pydantic import ValidationError

    from skygraft.config.inputs import CalibrationConfig
    from skygraft.errors import ConfigError

    values = {"stem": "image-1", "name": "image-1.fits.fz", **known, "expnum": known["visit"], "ccd": known["detector"]}
    try:
        given = CalibrationConfig(psf={"band": {"r": {"kind": "image", "path": text}, "g": "g.fits"}})
    except ValidationError as error:
        raise ConfigError(str(error)) from error
    found = given.psf_of(Path("/data/image-1.fits.fz"), None, known | {"band": "r"})
    return os.path.normpath(found["path"]), _by_form(text, values | {"band": "r"})


def _catalogue_name(text: str, known: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from pydantic import ValidationError

    from skygraft.config.recovery_catalogs import RecoveryCatalogs
    from skygraft.errors import ConfigError
    from skygraft.recovery.matching_catalogs import catalog_path

    try:
        given = RecoveryCatalogs(injected=text)
    except ValidationError as error:
        raise ConfigError(str(error)) from error
    image: Any = SimpleNamespace(
        image_id="cam/5", stem="cam-5", output="night/exp_5.fits.fz", tract=1, patch=41, **known
    )
    values = {**vars(image), "file": "exp_5", "folder": "night"}
    return os.path.normpath(catalog_path(given.injected, image)), values


_FILLED: dict[str, Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "psf": _psf_name, "psf_bands": _psf_by_band, "catalogue": _catalogue_name,
}  # fmt: skip
