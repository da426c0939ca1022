"""A format of one's own: images in NumPy's ``.npz`` files, with a JSON text of cards for WCS and calibration."""

import json
import zipfile

import numpy as np
from astropy.io import fits

from skygraft import DataId, Exposure, PhotoCalib, VisitInfo, make_planes
from skygraft.formats import FileFormat
from skygraft.photometry import ReferenceCandidate
from skygraft.psf import FixedKernelPSF
from skygraft.wcs import read_fits_wcs


class NpzFormat(FileFormat):
    """The arrays ``image``, ``variance``, ``mask`` and ``psf``, and ``cards``, a text."""

    name = "npz"
    looked_for = "an .npz file with an array called cards"

    def matches(self, path):
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            return "cards.npy" in file.namelist()

    def load(self, path, options):
        data, cards = arrays(path)
        # The file's own WCS, without distortion: FITS cards, 1-based pixels.
        projection = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"}
        # What the zeropoint is the flux of: say all that the file says, and choose nothing.
        aperture = ReferenceCandidate("aperture", cards["APERTURE"], origin="APERTURE", level="header")
        return Exposure(
            make_planes(data["image"], data["variance"], data["mask"], mask_planes=cards["MASK"]),
            read_fits_wcs(fits.Header(projection | cards["WCS"]), path=path),
            psf=FixedKernelPSF(data["psf"]),
            photo_calib=PhotoCalib.from_zeropoint(cards["ZEROPOINT"], candidates=(aperture,)),
            data_id=DataId("ourcam", visit=cards["VISIT"], detector=0, band=cards["BAND"]),
            visit_info=VisitInfo(cards["MJD"], cards["EXPTIME"]),
            gain=cards["GAIN"],
            gain_origin="GAIN",
        )

    def save(self, exposure, path, like):
        data, cards = arrays(like)  # whatever else it has is carried over
        data |= {name: exposure.planes[name].values for name in ("image", "variance", "mask")}
        bits = {name: value.bit_length() - 1 for name, value in exposure.mask_planes.items()}
        with path.open("wb") as file:
            np.savez(file, **data | {"cards": json.dumps(cards | {"MASK": bits})})


def arrays(path):
    with path.open("rb") as stream, np.load(stream) as file:
        data = {name: file[name] for name in file.files}
    return data, json.loads(str(data["cards"]))
