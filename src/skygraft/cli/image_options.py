"""Options of the commands that read one image, and reading it as they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skygraft.cli.common import fail, finite
from skygraft.place_names import is_url

if TYPE_CHECKING:
    from skygraft.exposure import Exposure

__all__ = [
    "AllowPickle",
    "Aperture",
    "Ccds",
    "FormatName",
    "Hdu",
    "Option",
    "Psf",
    "Zeropoint",
    "format_options",
    "psf_of",
    "read_image",
    "wings_of",
]

_OWN_OPTIONS = {
    "path": "IMAGE",
    "format": "--format",
    "aperture": "--aperture",
    "psf": "--psf",
    "photo_calib": "--zeropoint",
    "gain": "--gain",
    "hdu": "--hdu",
}


def _readable(text: str | None) -> str | None:
    """Refuse settings of a PSF that are no YAML before an image is read."""
    psf_of(text)
    return text


Aperture = Annotated[
    str | None,
    typer.Option(
        help="Calibration reference of the image, if it does not record one: '12 pix' or '2 arcsec' (aperture radius), "
        "psf_model, or total.",
        show_default=False,
    ),
]
FormatName = Annotated[
    str, typer.Option("--format", help="Format of the image, or the class of one of your own (my_module:MyFormat).")
]
Psf = Annotated[
    str | None,
    typer.Option(
        help="PSF to use instead of the image's own: its file, 'moffat:0.9 arcsec' or 'gaussian:3.5 pix' (FWHM), or "
        "settings such as '{path: psf.fits, oversampling: 4}'.",
        callback=_readable,
        show_default=False,
    ),
]
Zeropoint = Annotated[
    float | None,
    typer.Option(
        help="AB magnitude of one image unit, instead of the image's own.", callback=finite, show_default=False
    ),
]
Hdu = Annotated[str | None, typer.Option(help="HDU of the image, if the file has several.", show_default=False)]
Ccds = Annotated[
    list[Path] | None,
    typer.Option(
        help="Table of CCDs (survey-ccds) that calibrates an image of the Legacy Surveys; may be repeated.",
        show_default=False,
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="An option of the image's format, NAME=VALUE, such as pixel_area=wcs or weight=false; may be repeated.",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read a PSF that is stored as a Python pickle (PiffPsf). A pickle can run any program on this machine: "
        "use this only for files whose origin you trust.",
    ),
]


def _yaml_options(option: list[str], *, of_reading: bool) -> dict[str, Any]:
    """Parse NAME=VALUE of each; it imports what reads configurations, which few commands need."""
    from skygraft.config.yaml_schema import parse_yaml
    from skygraft.yaml_text import YamlError

    options: dict[str, Any] = {}
    for text in option:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise fail(f"--option {text}: NAME=VALUE is needed, such as pixel_area=wcs", code=2)
        name = name.strip()
        if of_reading and name in _OWN_OPTIONS:
            raise fail(f"--option {text}: use {_OWN_OPTIONS[name]} for {name}", code=2)
        try:
            options[name] = parse_yaml(value)
        except YamlError as error:
            raise fail(f"--option {text}: the value is no YAML ({str(error).lstrip(' :')})", code=2) from None
    return options


def format_options(
    option: list[str] | None, ccds: list[Path] | None, allow_pickle: bool, *, of_reading: bool = True
) -> dict[str, Any]:
    """Parse the options of a format, whose values are YAML; raise for those that have their own command-line option."""
    options = _yaml_options(option, of_reading=of_reading) if option else {}
    if ccds:
        options["ccds"] = [str(path) for path in ccds]
    if allow_pickle:
        options["allow_pickle"] = True
    return options


def psf_of(text: str | None) -> Any:
    """Return what ``--psf`` says: a file, kind and FWHM of an analytic PSF, or settings in YAML."""
    if text is not None and text.lstrip().startswith("{") and not Path(text).exists():
        from skygraft.config.yaml_schema import parse_yaml
        from skygraft.yaml_text import YamlError

        try:
            return parse_yaml(text)
        except YamlError as error:
            raise fail(f"--psf {text}: no YAML ({str(error).lstrip(' :')})", code=2) from None
    if text is not None:
        kind, colon, fwhm = text.partition(":")
        if colon and not is_url(text) and not Path(text).exists():
            return {"kind": kind, "fwhm": fwhm.strip()}
    return text


def wings_of(text: str | None) -> Any:
    """Return the settings of ``--wings``: of a YAML file, or given as YAML; None for none."""
    if text is None:
        return None
    from skygraft.config.yaml_schema import parse_yaml, read_yaml
    from skygraft.injection.wing_settings import WingSettings
    from skygraft.yaml_text import YamlError

    path = Path(text)
    folder = None
    if not text.lstrip().startswith("{") and "\n" not in text:
        content, folder = read_yaml(path, "file of wings"), path.parent
    else:
        try:
            content = parse_yaml(text)
        except YamlError as error:
            raise fail(f"--wings: the text is no YAML ({str(error).lstrip(' :')})", code=2) from None
    # The section itself, or what holds it in a campaign file.
    for key in ("injection", "wings"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return WingSettings.of(content, folder)


def read_image(
    path: Path,
    format: str,
    aperture: str | None,
    psf: str | None,
    zeropoint: float | None,
    hdu: str | None,
    options: dict[str, Any],
    *,
    lazily: bool = False,
) -> Exposure:
    """Return an image, read as the command line says; ``KIND:FWHM`` stands for an analytic PSF."""
    from skygraft.formats import open_exposure, read_exposure

    number = int(hdu) if hdu is not None and hdu.isdecimal() else hdu
    read = open_exposure if lazily else read_exposure
    return read(path, format=format, aperture=aperture, psf=psf_of(psf), photo_calib=zeropoint, hdu=number, **options)
