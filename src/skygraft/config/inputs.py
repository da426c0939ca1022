"""What a campaign works on: its images with their calibration, and its catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from skygraft.config.psf_templates import check_template, psf_of_image, psf_templates
from skygraft.config.yaml_schema import Name, PositiveFloat, ResolvedPath, ResolvedPlace, Section, Size, base_dir
from skygraft.photometry.radius import parse_radius
from skygraft.place_names import is_url

if TYPE_CHECKING:
    from skygraft.places import Storage

__all__ = [
    "ButlerConfig",
    "CalibrationConfig",
    "CatalogConfig",
    "Radius",
    "ScratchConfig",
    "StorageConfig",
    "SurveyConfig",
]


def _radius(value: Any) -> Any:
    if value is not None:
        parse_radius(value)
    return value


def _format(value: str, info: ValidationInfo) -> str:
    if value == "auto":
        return value
    # Formats take long to import; `skygraft status` does not need them.
    from skygraft.formats import resolve_format

    return resolve_format(value, base_dir(info))


def _column_map(value: dict[str, str]) -> dict[str, str]:
    if value:
        from skygraft.catalog.column_maps import check_map

        check_map(value)
    return value


def _expression(value: str) -> str:
    if value.strip():
        from skygraft.catalog.row_choice import check_expression

        check_expression(value)
    return value


def _endpoint(value: str | None) -> str | None:
    if value is not None:
        from skygraft.places import checked_url

        checked_url(value)
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is not the address of a server; give it like https://minio.example.org")
    return value


# Any, not a union: pydantic reports one problem for each member of a union.
Radius = Annotated[Any, AfterValidator(_radius)]
FormatName = Annotated[str, AfterValidator(_format)]


class CalibrationConfig(Section):
    """Calibration that the images do not record, or record wrongly."""

    aperture: Radius = None
    """What calibrated fluxes are the flux of: an aperture's radius (``12 pix``, ``2 arcsec``) or diameter
    (``{diameter: 4 arcsec}``), ``psf_model`` or ``total``."""
    zeropoint: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """AB magnitude of a source with a flux of one image unit."""
    unit: str | None = None
    """Unit of the image's pixels; only together with `zeropoint`."""
    gain: PositiveFloat | None = None
    """Electrons per image unit."""
    psf: Any = None
    """File with the PSF of each image, relative to the image or to `root`, such as ``{stem}.psf``, where ``{stem}`` and
    ``{name}`` are those of the image file, and ``{band}``, ``{visit}``, ``{detector}`` and ``{instrument}`` what is
    known of the image; or a model, such as ``{kind: moffat, fwhm: 0.9 arcsec}`` or ``{kind: image, path:
    "psf_{band}.fits"}``; or one of these for each band: ``{band: {g: ..., r: ...}}``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.unit is not None and self.zeropoint is None:
            raise ValueError("unit is given without zeropoint; give both or neither")
        if isinstance(self.psf, Mapping):
            from skygraft.formats.given import check_psf_settings

            check_psf_settings(self.psf)
        elif self.psf is not None and not isinstance(self.psf, str):
            raise ValueError(f"psf is {self.psf!r}; the name of a file or a mapping with a kind is needed")
        for text in psf_templates(self.psf):
            check_template(text)
        return self

    def psf_of(self, image: Path, root: Path | None = None, known: Mapping[str, Any] | None = None) -> Any:
        """Return the PSF of an image.

        Parameters
        ----------
        image : Path
            Path of the image file.
        root : Path, optional
            Folder that names of PSF files are relative to if there is no such file beside the image.
        known : mapping, optional
            What is known of the image: ``band``, ``visit``, ``detector``, ``instrument``.

        Returns
        -------
        Path, dict or None
            Path of the PSF's file, or the model; None if the image's own PSF is used.
        """
        return psf_of_image(self.psf, image, root, known or {})

    def photo_calib(self) -> dict[str, Any] | None:
        """Return the calibration that replaces the image's own, as `read_exposure` takes it; None if there is none."""
        if self.zeropoint is None:
            return None
        return {"zeropoint": self.zeropoint} | ({} if self.unit is None else {"unit": self.unit})


def _repository(text: str, info: ValidationInfo) -> str:
    # Imported here: a configuration without a repository does not need it.
    from skygraft.survey.butler import repository

    return repository(text, base_dir(info))


def _collections(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class ButlerConfig(Section):
    """Images in a Butler repository, and where the outputs are registered in it."""

    repo: Annotated[Name, AfterValidator(_repository)]
    """Repository: its folder, the URI of its ``butler.yaml``, or a name in ``DAF_BUTLER_REPOSITORIES``."""
    collections: Annotated[tuple[Name, ...], BeforeValidator(_collections), Field(min_length=1)]
    """Collections to search, in order, as a list or as text separated by commas."""
    dataset_type: Name
    """Dataset type of the images."""
    where: str = ""
    """Expression of the Butler that selects data ids."""
    schema_type: Name | None = None
    """Dataset type of the source catalogues' schema, which records the calibration aperture of calexps."""
    output_run: Name | None = None
    """Run collection to register the outputs in, as datasets; by default they are not registered."""
    output_repo: Annotated[Name, AfterValidator(_repository)] | None = None
    """Repository of `output_run`, by default `repo`; dimension records that it lacks are copied to it."""
    output_type: Name | None = None
    """Dataset type of the outputs; by default ``injected_`` followed by `dataset_type`."""
    transfer: Literal["direct", "copy", "link", "hardlink", "symlink", "relsymlink"] = "direct"
    """How the repository stores the files: in place (``direct``), or as copies or links in its own folder."""

    @property
    def repo_written(self) -> str:
        """Repository that the outputs are registered in."""
        return self.output_repo or self.repo

    @property
    def type_written(self) -> str:
        """Dataset type of the outputs."""
        return self.output_type or f"injected_{self.dataset_type}"

    @model_validator(mode="after")
    def _outputs_apart(self) -> Self:
        same = self.repo_written == self.repo and self.type_written == self.dataset_type
        if same and self.output_run in self.collections:
            raise ValueError("output_run is one of the collections and output_type that of the images; change either")
        if self.output_run is None and (self.output_repo or self.output_type or self.transfer != "direct"):
            raise ValueError(
                "output_repo, output_type and transfer apply to outputs that are registered: give output_run too"
            )
        return self

    def query(self) -> dict[str, Any]:
        """Return the mapping that `skygraft.survey.butler.ButlerQuery.from_spec` takes."""
        return self.model_dump(mode="json", include={"repo", "collections", "dataset_type", "where", "schema_type"})


class SurveyConfig(Section):
    """Which images to inject into: exactly one of `images`, `ccds`, `butler` and `index`."""

    root: ResolvedPlace = Path()
    """Folder, or URL, that `images` and the layout of the outputs are relative to; by default that of the file."""
    images: str | tuple[str, ...] | None = None
    """Glob pattern of the image files (``**`` allowed), or a list of them; URLs too."""
    ccds: str | None = None
    """Table of CCDs in the layout of the Legacy Surveys."""
    butler: ButlerConfig | None = None
    """Images in a Butler repository."""
    index: str | None = None
    """Parquet file written by ``skygraft index -o``, relative to `root`; the headers are then not read again."""
    format: FormatName = "auto"
    """Name of the image format; ``auto`` recognises it. A format of your own is named by its class, as
    ``my_module:MyFormat`` (a module that is installed, or in this file's folder) or ``path/my_module.py:MyFormat``."""
    calibration: CalibrationConfig = CalibrationConfig()
    """Calibration that the images do not record, or record wrongly."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the format for reading images."""
    role: Literal["auto", "science", "template"] = "auto"
    """What the images are in a search for transients: a source may be meant for ``science`` images or for templates
    alone (`inject_into`). ``auto`` takes coadds for templates."""

    @model_validator(mode="before")
    @classmethod
    def _root_of_urls(cls, content: Any) -> Any:
        """Of images given as URLs, make what they have in common the root, which their names are relative to."""
        if not isinstance(content, Mapping):
            return content
        images = content.get("images")
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list | tuple) or not any(map(is_url, images)):
            return content
        from skygraft.places.urls import common_folder

        root, names = common_folder([str(image) for image in images], content.get("root"))
        return {**content, "root": root, "images": names[0] if isinstance(content["images"], str) else names}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(way is not None for way in (self.images, self.ccds, self.butler, self.index)) != 1:
            raise ValueError(
                "give exactly one of images (a glob pattern), ccds (a table), butler (a repository) and index (a file "
                "of skygraft index)"
            )
        if self.index is not None and (self.format != "auto" or self.options):
            raise ValueError("format and options cannot be combined with index, which has them for every image")
        return self

    def spec(self) -> dict[str, Any]:
        """Return the mapping that `skygraft.survey.index_images` takes."""
        images = list(self.images) if isinstance(self.images, tuple) else self.images
        butler = None if self.butler is None else self.butler.query()
        ways = {"images": images, "ccds": self.ccds, "butler": butler, "index": self.index}
        given = {name: way for name, way in ways.items() if way is not None}
        return {"format": self.format, "options": dict(self.options), **given}


class StorageConfig(Section):
    """Options of the stores that URLs are in. Credentials are taken from the environment, and never from here."""

    endpoint_url: Annotated[str | None, AfterValidator(_endpoint)] = None
    """Address of the server, if it is not that of the provider, such as ``https://minio.example.org``."""
    region: Name | None = None
    """Region of the buckets."""
    anon: Annotated[bool, Field(strict=True)] = False
    """Read public buckets without credentials."""
    requester_pays: Annotated[bool, Field(strict=True)] = False
    """Read buckets whose requests are paid by the reader."""

    def storage(self) -> Storage:
        """Return the options as `skygraft.places` takes them."""
        from skygraft.places import Storage

        given: dict[str, Any] = {key: "" if value is None else value for key, value in self}
        return Storage(**given)


class ScratchConfig(Section):
    """Where copies of files from stores are kept while they are used."""

    folder: ResolvedPath | None = None
    """Folder on a disk of each machine, by default ``$SKYGRAFT_SCRATCH`` or ``skygraft-UID`` in its temporary one."""
    max_bytes: Size | None = None
    """Size of the copies, such as ``100 GB``; by default 50 GiB, at most half of what is free."""


class CatalogConfig(Section):
    """Which sources to inject."""

    path: ResolvedPlace
    """File or folder of the catalogue, or its URL."""
    dialect: str = "auto"
    """Name of the catalogue's dialect, its convention for columns; ``auto`` recognises it."""
    band: Name | None = None
    """Band of the magnitudes in a catalogue with a single ``mag`` column."""
    on_bad: Literal["raise", "flag"] = "raise"
    """Rows that cannot be drawn are an error (``raise``), or are flagged and not drawn (``flag``)."""
    columns: Annotated[dict[str, str], AfterValidator(_column_map)] = Field(default_factory=dict)
    """Names of the catalogue's columns by those of the native schema, such as ``{ra: RAJ2000}``; a value that begins
    with ``=`` is one value for all rows, such as ``{source_type: =Star}``."""
    select: Annotated[str, AfterValidator(_expression)] = ""
    """Which rows an image gets, as an expression of columns, of the image's ``visit``, ``band``, ``detector`` and
    ``mjd``, and of ``mag`` in the image's band, such as ``mag_r < 24 and mjd > 60000``."""
    light_curves: ResolvedPlace | None = None
    """Table of light curves: id, mjd, band, and mag or flux."""
    ephemerides: ResolvedPlace | None = None
    """Table of ephemerides: id, mjd, ra, dec, and optionally mag."""
