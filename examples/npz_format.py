"""A format of one's own: images in NumPy's ``.npz`` files, with a JSON text of cards for WCS and calibration."""

import json
import zipfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from skygraft import DataId, Exposure, PhotoCalib, VisitInfo, make_planes
from skygraft.disk import atomic_path
from skygraft.errors import CorruptFileError
from skygraft.formats import Format, ImageFootprint
from skygraft.formats.base import FILES, identify_files, refuse_overwrite
from skygraft.photometry import ReferenceCandidate
from skygraft.psf import FixedKernelPSF
from skygraft.wcs import read_fits_wcs


class NpzFormat(Format):
    """The arrays ``image``, ``variance``, ``mask`` and ``psf``, and ``cards``, a text."""

    name = "npz"
    looked_for = "an .npz file with an array called cards"

    def matches(self, path):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            return "cards.npy" in file.namelist()

    def footprint(self, path, **options):
        self.Options.parse(options, self.name, path)  # refuses options that it does not have
        cards = load(path, "cards")["cards"]  # no pixels
        shape = cards["NAXIS2"], cards["NAXIS1"]
        about = {"data_id": data_id(cards), "visit_info": VisitInfo(cards["MJD"], cards["EXPTIME"])}
        return ImageFootprint.of(Path(path), self.name, wcs(cards, path), shape, files=[path], **about)

    def read(self, path, **options):
        self.Options.parse(options, self.name, path)
        files = identify_files([path])  # before it is read, so that a later change is noticed
        data = load(path)
        cards = data["cards"]
        # What the zeropoint is the flux of: say all that the file says, and choose nothing.
        aperture = ReferenceCandidate("aperture", cards["APERTURE"], origin="APERTURE", level="header")
        return Exposure(
            make_planes(data["image"], data["variance"], data["mask"], mask_planes=cards["MASK"]),
            wcs(cards, path),
            psf=FixedKernelPSF(data["psf"]),
            photo_calib=PhotoCalib.from_zeropoint(cards["ZEROPOINT"], candidates=(aperture,)),
            data_id=data_id(cards),
            visit_info=VisitInfo(cards["MJD"], cards["EXPTIME"]),
            gain=cards["GAIN"],
            gain_origin="GAIN",
            path=Path(path),
            format=self.name,
            extra={FILES: files},
        )

    def write(self, exposure, path, *, like, overwrite=False):
        refuse_overwrite(path, [like], overwrite=overwrite)
        data = load(like)  # whatever else it has is carried over
        data |= {name: exposure.planes[name].values for name in ("image", "variance", "mask")}
        bits = {name: value.bit_length() - 1 for name, value in exposure.mask_planes.items()}
        data["cards"] = json.dumps(data["cards"] | {"MASK": bits})
        with atomic_path(path, make_folder=False) as temporary, temporary.open("wb") as file:
            np.savez(file, **data)
        return (Path(path),)


def load(path, *names):
    identify_files([path])  # a missing or empty file is refused by its name
    try:
        with Path(path).open("rb") as stream, np.load(stream) as file:
            data = {name: file[name] for name in names or file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"this is no image of ours ({error})", path=path, fix="Fetch it again") from error
    return data | {"cards": json.loads(str(data["cards"]))}


def wcs(cards, path):
    # The file's own WCS, without distortion: FITS cards, 1-based pixels.
    own = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"}
    return read_fits_wcs(fits.Header(own | cards["WCS"]), path=path)


def data_id(cards):
    return DataId("ourcam", visit=cards["VISIT"], detector=0, band=cards["BAND"])
