"""The rewriter changes what it was asked to change, and nothing else; astropy, which wrote the inputs, reads back."""

from __future__ import annotations

import errno
import gzip
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import CorruptFileError, FormatError, OutputError, OutputExistsError
from skygraft.fitsfile.open import is_fits, map_fits, open_fits
from skygraft.fitsfile.rewrite import atomic_output, rewrite_fits
from skygraft.formats.fits_fingerprints import Fingerprint

SHAPE = (40, 56)
RNG = np.random.default_rng(3)
FLOATS = RNG.normal(100, 5, SHAPE).astype(np.float32)
INTS = RNG.integers(0, 1 << 12, SHAPE, dtype=np.int32)
CHANGED = (slice(9, 13), slice(20, 30))


def spans(path: Path) -> list[bytes]:
    with map_fits(path) as raw:
        return [bytes(raw.buffer[s.start : s.end]) for s in raw.spans]


def tile_bytes(path: Path, hdu: int) -> list[bytes]:
    """The compressed tiles of an image, by astropy."""
    with fits.open(path, disable_image_compression=True) as hdus:
        return [bytes(np.asarray(row)) for row in hdus[hdu].data["COMPRESSED_DATA"]]


def changed_pixels() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[CHANGED] = True
    return mask


def write(path: Path, *hdus: fits.hdu.base.ExtensionHDU, checksum: bool = False) -> Path:
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("a", "3D", array=np.arange(12.0).reshape(4, 3)),
            fits.Column("b", "PE()", array=[[1.0], [2, 3]] * 2),
        ]
    )
    fits.HDUList([fits.PrimaryHDU(), *hdus, table]).writeto(path, checksum=checksum)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    header = fits.Header()
    header["NOTE"] = ("odd   spacing", "and a comment")
    header["HIERARCH A LONG KEY"] = 3
    return write(tmp_path / "in.fits", fits.ImageHDU(FLOATS, header), fits.ImageHDU(INTS))


class TestPlain:
    def test_same_pixels_same_bytes(self, plain: Path, tmp_path: Path) -> None:
        out = rewrite_fits(plain, tmp_path / "out.fits", {1: FLOATS, 2: INTS})
        assert out.read_bytes() == plain.read_bytes()

    def test_changed_pixels_and_cards(self, plain: Path, tmp_path: Path) -> None:
        new = FLOATS.copy()
        new[CHANGED] += 7
        cards = {"NOTE": ("new", ""), "MP_INJECTED_CORE": (13, "a bit"), "A LONG KEY": None}
        out = rewrite_fits(
            plain, tmp_path / "out.fits", {1: new}, {1: cards, 0: {"HAS-SIMULATED-CONTENT": (True, "x")}}
        )
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
            assert hdus[1].header["NOTE"] == "new"
            assert hdus[1].header.comments["NOTE"] == "and a comment"
            assert hdus[1].header["MP_INJECTED_CORE"] == 13
            assert "A LONG KEY" not in hdus[1].header
            assert hdus[0].header["HAS-SIMULATED-CONTENT"] is True
            hdus.verify("exception")
        before, after = spans(plain), spans(out)
        assert after[2:] == before[2:]
        assert len(after) == len(before)
        # Cards that were not named are the same bytes.
        kept = {before[1][i : i + 80] for i in range(0, 2880, 80)} - {after[1][i : i + 80] for i in range(0, 2880, 80)}
        assert len(kept) == 2

    def test_header_alone(self, plain: Path, tmp_path: Path) -> None:
        out = rewrite_fits(plain, tmp_path / "out.fits", {}, {2: {"COMMENT": ("hello", ""), "X": (1.5, "")}})
        with open_fits(out) as hdus:
            assert str(hdus[2].header["COMMENT"]) == "hello"
            assert hdus[2].header["X"] == 1.5
        assert spans(out)[1] == spans(plain)[1]

    def test_cards_that_are_not_standard_are_copied(self, plain: Path, tmp_path: Path) -> None:
        odd = b"A_ORDER N                    3".ljust(80)
        raw = plain.read_bytes()
        at = raw.index(b"NOTE    =")
        plain.write_bytes(raw[:at] + odd + raw[at + 80 :])
        out = rewrite_fits(plain, tmp_path / "out.fits", {1: FLOATS + 1}, {1: {"X": (1, "")}})
        assert odd in spans(out)[1]

    def test_nan(self, tmp_path: Path) -> None:
        old = FLOATS.copy()
        old[3, 4:9] = np.nan
        path = write(tmp_path / "in.fits", fits.ImageHDU(old))
        assert rewrite_fits(path, tmp_path / "o.fits", {1: old}).read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("dtype", ["i2", "i4", "u1"])
    def test_scaled_integers_keep_their_numbers(self, tmp_path: Path, dtype: str) -> None:
        stored = RNG.integers(0, 200, SHAPE).astype(dtype)
        hdu = fits.ImageHDU(stored)
        hdu.header["BLANK"] = 7
        path = write(tmp_path / "in.fits", hdu)
        rescaled = rewrite_fits(path, tmp_path / "s.fits", {}, {1: {"BSCALE": (0.25, ""), "BZERO": (-3.0, "")}})
        with open_fits(rescaled) as hdus:
            values = hdus[1].data.astype(np.float32)
        assert np.isnan(values).any()
        new = values.copy()
        new[CHANGED] = 11.3
        out = rewrite_fits(rescaled, tmp_path / "out.fits", {1: new})
        with fits.open(out, do_not_scale_image_data=True) as hdus:
            back = hdus[1].data
        untouched = ~changed_pixels()
        np.testing.assert_array_equal(back[untouched], stored[untouched])
        # 57.2 lies between two numbers that can be stored: the nearer is taken more often.
        assert set(back[~untouched].tolist()) == {57, 58}
        assert np.count_nonzero(back[~untouched] == 57) > np.count_nonzero(back[~untouched] == 58)

    def test_doubles_keep_their_digits_under_a_float_image(self, tmp_path: Path) -> None:
        doubles = RNG.normal(size=SHAPE)
        path = write(tmp_path / "in.fits", fits.ImageHDU(doubles))
        new = doubles.astype(np.float32)
        new[CHANGED] += 1
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            back = hdus[1].data
            assert back.dtype == ">f8"
        np.testing.assert_array_equal(back[~changed_pixels()], doubles[~changed_pixels()])
        np.testing.assert_array_equal(back[CHANGED], new[CHANGED].astype(float))

    def test_mask_that_outgrows_its_bits_is_widened(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.ImageHDU(INTS.astype(np.uint16)))
        new = INTS.copy()
        new[CHANGED] |= 1 << 20
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            assert hdus[1].header["BITPIX"] == 32
            np.testing.assert_array_equal(hdus[1].data, new)
        assert spans(out)[2] == spans(path)[2]

    def test_new_values_that_do_not_fit(self, tmp_path: Path) -> None:
        hdu = fits.ImageHDU(INTS.astype(np.int16))
        path = write(tmp_path / "in.fits", hdu)
        new = INTS.astype(np.float32)
        new[CHANGED] = 1e6
        with pytest.raises(OutputError, match="do not fit into BITPIX = 16"):
            rewrite_fits(path, tmp_path / "out.fits", {1: new})
        new[CHANGED] = np.nan
        with pytest.raises(OutputError, match="NaN"):
            rewrite_fits(path, tmp_path / "out.fits", {1: new})
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.fits"]

    def test_checksums_of_changed_hdus_hold(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.ImageHDU(FLOATS), fits.ImageHDU(INTS), checksum=True)
        new = FLOATS + np.float32(1)
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new}, {0: {"X": (1, "")}})
        with fits.open(out, checksum=True) as hdus:  # warns, which is an error, where a checksum does not hold
            for hdu in hdus:
                assert hdu.verify_checksum() == 1
                assert hdu.verify_datasum() == 1
        assert spans(out)[2:] == spans(path)[2:]

    def test_gzipped_whole(self, plain: Path, tmp_path: Path) -> None:
        zipped = tmp_path / "in.fits.gz"
        zipped.write_bytes(gzip.compress(plain.read_bytes()))
        new = FLOATS + 1
        direct = rewrite_fits(plain, tmp_path / "out.fits", {1: new})
        out = rewrite_fits(zipped, tmp_path / "out.fits.gz", {1: new})
        assert gzip.decompress(out.read_bytes()) == direct.read_bytes()
        unzipped = rewrite_fits(zipped, tmp_path / "out2.fits", {1: new})
        assert unzipped.read_bytes() == direct.read_bytes()
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)


ALGORITHMS = ["GZIP_1", "GZIP_2", "RICE_1", "NOCOMPRESS", "HCOMPRESS_1"]
TILES = [(1, 56), (16, 16), (40, 56)]


class TestCompressed:
    @pytest.mark.parametrize(
        ("algorithm", "tile"),
        # HCOMPRESS needs tiles of four rows
        [(a, t) for a in (*ALGORITHMS, "PLIO_1") for t in TILES if a != "HCOMPRESS_1" or t[0] >= 4],
    )
    @pytest.mark.parametrize("given", [False, True])
    def test_integers(self, tmp_path: Path, algorithm: str, tile: tuple[int, int], given: bool) -> None:
        path = write(
            tmp_path / "in.fits",
            fits.CompImageHDU(INTS, compression_type=algorithm, tile_shape=tile, hcomp_scale=0),
            fits.ImageHDU(FLOATS),
        )
        new = INTS.copy()
        new[CHANGED] |= 1 << 15
        tiles = {1: Fingerprint.of(INTS, tile).touched(new)} if given else None
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new}, touched=tiles)
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
            assert hdus[1].compression_type == algorithm
            hdus.verify("exception")
        before, after = tile_bytes(path, 1), tile_bytes(out, 1)
        per_row = -(-SHAPE[1] // tile[1])
        touched = {(y // tile[0]) * per_row + x // tile[1] for y, x in np.argwhere(changed_pixels())}
        assert {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b} == touched
        assert spans(out)[2:] == spans(path)[2:]

    @pytest.mark.parametrize("algorithm", ["GZIP_1", "GZIP_2", "NOCOMPRESS"])
    @pytest.mark.parametrize("dtype", ["f4", "f8"])
    def test_lossless_floats(self, tmp_path: Path, algorithm: str, dtype: str) -> None:
        old = FLOATS.astype(dtype)
        old[3, 4:9] = np.nan
        path = write(
            tmp_path / "in.fits",
            fits.CompImageHDU(old, compression_type=algorithm, quantize_level=0, tile_shape=(1, 56)),
        )
        new = old.copy()
        new[CHANGED] += 0.37
        new[30, 30] = np.nan
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
        before, after = tile_bytes(path, 1), tile_bytes(out, 1)
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert changed == [9, 10, 11, 12, 30]

    @pytest.mark.parametrize("method", [-1, 1, 2])
    @pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
    @pytest.mark.parametrize("tile", TILES[1:])
    def test_quantised_floats(self, tmp_path: Path, method: int, algorithm: str, tile: tuple[int, int]) -> None:
        path = write(
            tmp_path / "in.fits",
            fits.CompImageHDU(
                FLOATS,
                compression_type=algorithm,
                tile_shape=tile,
                quantize_method=method,
                dither_seed=9998,
                hcomp_scale=0,
            ),
        )
        with open_fits(path) as hdus:
            old = hdus[1].data.copy()
        with fits.open(path, disable_image_compression=True) as hdus:
            scale = hdus[1].data["ZSCALE"].max()
        assert np.any(old != FLOATS)
        assert rewrite_fits(path, tmp_path / "same.fits", {1: old}).read_bytes() == path.read_bytes()
        new = old.copy()
        new[CHANGED] += 33.3
        new[20, 20] = 0.0
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        touched = changed_pixels()
        touched[20, 20] = True
        with open_fits(out) as hdus:
            back = hdus[1].data
        np.testing.assert_array_equal(back[~touched], old[~touched])
        assert np.abs(back - new).max() <= 1.01 * scale
        if method == 2:
            assert back[20, 20] == 0

    def test_dither_makes_rounding_unbiased(self, tmp_path: Path) -> None:
        """Quantised with the dither of its own place, a constant comes out right on average."""
        path = write(
            tmp_path / "in.fits", fits.CompImageHDU(FLOATS, tile_shape=(1, 56), quantize_method=1, dither_seed=17)
        )
        new = np.full(SHAPE, 103.21, np.float32)
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            error = hdus[1].data - new
        with fits.open(path, disable_image_compression=True) as hdus:
            scale = float(hdus[1].data["ZSCALE"].mean())
        # Up or down by the fraction f: the variance is f (1 - f), on average 1/6, of a step squared.
        assert error.std() == pytest.approx(scale / np.sqrt(6), rel=0.1)
        assert abs(error.mean()) < 4 * scale / np.sqrt(6 * error.size)

    @pytest.mark.parametrize("method", [-1, 1])
    @pytest.mark.parametrize("part", [0.05, 0.3, 0.6, -0.2])
    def test_light_that_adds_less_than_a_step_is_not_lost(self, tmp_path: Path, method: int, part: float) -> None:
        """Pixels that were quantised before lie on the grid: to the nearest, a fraction of a step would vanish."""
        path = write(
            tmp_path / "in.fits",
            fits.CompImageHDU(FLOATS, tile_shape=(1, 56), quantize_method=method, dither_seed=17, quantize_level=2),
        )
        with open_fits(path) as hdus:
            old = hdus[1].data.astype(np.float64)
        with fits.open(path, disable_image_compression=True) as hdus:
            scale = hdus[1].data["ZSCALE"].astype(np.float64)[:, None]
        out = rewrite_fits(path, tmp_path / "out.fits", {1: (old + part * scale).astype(np.float32)})
        with open_fits(out) as hdus:
            added = (hdus[1].data - old) / scale
        error = np.sqrt(abs(part) * (1 - abs(part)) / old.size)
        assert added.mean() == pytest.approx(part, abs=4 * error)
        # Neighbours are drawn independently.
        noise = added - added.mean()
        for lagged in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
            assert abs(lagged.mean()) < 4 * noise.var() / np.sqrt(lagged.size)
        again = rewrite_fits(path, tmp_path / "again.fits", {1: (old + part * scale).astype(np.float32)})
        assert again.read_bytes() == out.read_bytes()

    def test_a_value_that_happens_to_be_blank_does_not_become_nan(self, tmp_path: Path) -> None:
        hdu = fits.ImageHDU(np.full(SHAPE, -3, np.int16))
        hdu.header["BLANK"] = 0
        new = np.full(SHAPE, -3, np.float32)
        new[CHANGED] = 0.0
        new[0, 0] = np.nan
        with fits.open(rewrite_fits(write(tmp_path / "in.fits", hdu), tmp_path / "out.fits", {1: new})) as hdus:
            back = hdus[1].data
        assert np.argwhere(back == 0).tolist() == [[0, 0]]  # astropy shows whole numbers as they are stored
        np.testing.assert_allclose(back[CHANGED], 0.0, atol=1)

    def test_light_that_adds_less_than_one_is_not_lost_to_integers(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.ImageHDU(INTS.astype(np.int16)))
        new = (INTS + 0.25).astype(np.float32)
        with fits.open(rewrite_fits(path, tmp_path / "out.fits", {1: new})) as hdus:
            added = hdus[1].data - INTS
        assert set(np.unique(added)) == {0, 1}
        assert added.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / INTS.size))

    @pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
    def test_what_does_not_quantise_is_stored_losslessly(self, tmp_path: Path, value: float) -> None:
        path = write(tmp_path / "in.fits", fits.CompImageHDU(FLOATS, tile_shape=(1, 56), quantize_method=1))
        with fits.open(path, disable_image_compression=True) as hdus:
            assert "ZBLANK" not in hdus[1].header
        with open_fits(path) as hdus:
            new = hdus[1].data.copy()
        new[9, 20:25] = value
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
            hdus.verify("exception")
        # And once more, from there: a tile in that column stays in it.
        new[9, 30] = 5
        again = rewrite_fits(out, tmp_path / "again.fits", {1: new})
        with open_fits(again) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
        assert spans(again)[2] == spans(path)[2]

    def test_nan_with_zblank_stays_quantised(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.CompImageHDU(FLOATS, tile_shape=(1, 56), quantize_method=1))
        out = rewrite_fits(path, tmp_path / "z.fits", {}, {1: {"ZBLANK": (-2147483647, "")}})
        with open_fits(out) as hdus:
            new = hdus[1].data.copy()
        new[9, 20:25] = np.nan
        again = rewrite_fits(out, tmp_path / "out.fits", {1: new})
        with open_fits(again) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
        with fits.open(again, disable_image_compression=True) as hdus:
            assert len(hdus[1].data["COMPRESSED_DATA"][9]) > 0

    def test_integers_too_big_for_plio_go_to_the_gzip_column(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.CompImageHDU(INTS, compression_type="PLIO_1", tile_shape=(1, 56)))
        new = INTS.copy()
        new[9, 9] = 1 << 28
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)

    def test_lossy_hcompress_does_not_move_the_others(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "in.fits",
            fits.CompImageHDU(INTS, compression_type="HCOMPRESS_1", tile_shape=(20, 28), hcomp_scale=4),
        )
        with open_fits(path) as hdus:
            new = hdus[1].data.copy()
        new[CHANGED] += 1000
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)

    def test_unsigned_mask_with_bzero(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.CompImageHDU(INTS.astype(np.uint16), compression_type="RICE_1"))
        new = INTS.copy()
        new[CHANGED] |= 1 << 15
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
        new[CHANGED] |= 1 << 16
        with pytest.raises(OutputError, match="do not fit"):
            rewrite_fits(path, tmp_path / "wide.fits", {1: new})

    def test_checksums(self, tmp_path: Path) -> None:
        path = write(tmp_path / "in.fits", fits.CompImageHDU(INTS, tile_shape=(1, 56)), checksum=True)
        out = rewrite_fits(path, tmp_path / "out.fits", {1: INTS + 1})
        with fits.open(out, checksum=True, disable_image_compression=True) as hdus:
            assert all(hdu.verify_checksum() == 1 and hdu.verify_datasum() == 1 for hdu in hdus)
            assert not {"ZHECKSUM", "ZDATASUM"} & set(hdus[1].header)

    @pytest.mark.data
    @pytest.mark.parametrize("name", ["calexp_02_tansip_doublegauss_gzip2", "calexp_05_tansip_psfex_rice"])
    def test_files_of_the_pipelines(self, data_dir: Path, tmp_path: Path, name: str) -> None:
        path = data_dir / "afw_reference" / f"{name}.fits"
        with open_fits(path) as hdus:
            old = {i: hdus[i].data.copy() for i in (1, 2, 3)}
        assert rewrite_fits(path, tmp_path / "same.fits", old).read_bytes() == path.read_bytes()
        new = {i: plane.copy() for i, plane in old.items()}
        for plane in new.values():
            plane[100:104, 50:90] += 16
        out = rewrite_fits(path, tmp_path / "out.fits", new)
        with open_fits(out) as hdus:
            for i, plane in new.items():
                back = hdus[i].data
                same = np.ones(plane.shape, bool)
                same[100:104, 50:90] = False
                np.testing.assert_array_equal(back[same], old[i][same])
                step = hdus[i].header.get("UZSCALE", 0.0)
                assert np.nanmax(np.abs(back.astype(float) - plane)) <= 1.01 * step
        before, after = tile_bytes(path, 1), tile_bytes(out, 1)
        assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [100, 101, 102, 103]
        assert spans(out)[4:] == spans(path)[4:]

    @pytest.mark.data
    def test_a_column_for_lossless_tiles_is_added(self, data_dir: Path, tmp_path: Path) -> None:
        path = data_dir / "afw_reference" / "calexp_05_tansip_psfex_rice.fits"
        with open_fits(path) as hdus:
            new = hdus[1].data.copy()
        new[100, 50] = 1e30
        out = rewrite_fits(path, tmp_path / "out.fits", {1: new})
        with fits.open(out, disable_image_compression=True) as hdus:
            assert hdus[1].columns.names == ["COMPRESSED_DATA", "ZSCALE", "ZZERO", "GZIP_COMPRESSED_DATA"]
        with open_fits(out) as hdus:
            np.testing.assert_array_equal(hdus[1].data, new)
        assert spans(out)[2:] == spans(path)[2:]

    @pytest.mark.data
    def test_community_pipeline_tiles(self, data_dir: Path, tmp_path: Path) -> None:
        """DECam images with dithered Rice tiles, also rows that would not quantise."""
        paths = sorted((data_dir / "decam_stars").rglob("*oo[iwd]*.fits*"))
        assert paths
        seen = 0
        for number, path in enumerate(paths):
            with open_fits(path) as hdus:
                images = [i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.CompImageHDU)]
                old = {i: hdus[i].data.copy() for i in images}
            out = rewrite_fits(path, tmp_path / f"{number}.fits", old)
            assert spans(out) == spans(path)
            seen += len(old)
        assert seen


class TestRefusals:
    def test_output_is_the_input(self, plain: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.fits"
        link.symlink_to(plain)
        hard = tmp_path / "hard.fits"
        os.link(plain, hard)
        before = plain.read_bytes()
        for target in (plain, link, hard):
            with pytest.raises(OutputExistsError, match="the input itself"):
                rewrite_fits(plain, target, {1: FLOATS}, overwrite=True)
        assert plain.read_bytes() == before

    def test_existing_output(self, plain: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.fits"
        out.write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match="exists already"):
            rewrite_fits(plain, out, {1: FLOATS})
        assert out.read_bytes() == b"mine"
        rewrite_fits(plain, out, {1: FLOATS}, overwrite=True)
        assert out.read_bytes() == plain.read_bytes()

    def test_no_directory(self, plain: Path, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"No such file or directory.*Check that"):
            rewrite_fits(plain, tmp_path / "absent" / "out.fits", {1: FLOATS})
        with pytest.raises(OutputError, match="directory"):
            rewrite_fits(plain, tmp_path, {1: FLOATS}, overwrite=True)

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_disk_full(self, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
        out = tmp_path / "out.fits"
        if overwrite:
            out.write_bytes(b"old")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left.*has room") as caught:
            rewrite_fits(plain, out, {1: FLOATS}, overwrite=overwrite)
        assert caught.value.path == str(out)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.fits", *(["out.fits"] if overwrite else [])]
        assert not overwrite or out.read_bytes() == b"old"

    def test_interrupted_write_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_write_that_fails_half_way(self, plain: Path, tmp_path: Path) -> None:
        """A real failure of the operating system: no file may grow beyond 20 kB."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(OutputError, match="File too large") as caught:
                rewrite_fits(plain, tmp_path / "out.fits", {1: FLOATS + 1})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.path == str(tmp_path / "out.fits")
        assert [p.name for p in tmp_path.iterdir()] == ["in.fits"]

    def test_wrong_shape_and_hdu(self, plain: Path, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match=r"have shape \(3, 3\)"):
            rewrite_fits(plain, tmp_path / "o", {1: np.zeros((3, 3), np.float32)})
        with pytest.raises(FormatError, match="no image"):
            rewrite_fits(plain, tmp_path / "o", {3: FLOATS})
        with pytest.raises(FormatError, match="there is no HDU 9"):
            rewrite_fits(plain, tmp_path / "o", {9: FLOATS})
        with pytest.raises(OutputError, match="cannot be a header value"):
            rewrite_fits(plain, tmp_path / "o", {}, {0: {"X": (np.nan, "")}})
        assert not (tmp_path / "o").exists()


class TestOpening:
    def test_missing_empty_other(self, tmp_path: Path) -> None:
        (tmp_path / "empty.fits").touch()
        (tmp_path / "text.fits").write_text("hello, this is no FITS file\n" * 200)
        for name, words in [("absent.fits", "no such file"), ("empty.fits", "empty"), ("text.fits", "not a FITS file")]:
            with pytest.raises(CorruptFileError, match=words) as caught, open_fits(tmp_path / name):
                pass
            assert caught.value.path == str(tmp_path / name)
            assert caught.value.fix
            assert not is_fits(tmp_path / name)
        with pytest.raises(CorruptFileError, match="directory"), open_fits(tmp_path):
            pass

    @pytest.mark.parametrize("cut", [1, 2881, 4000, 8000, 14000, 18000])
    def test_truncated_anywhere(self, plain: Path, tmp_path: Path, cut: int) -> None:
        whole = plain.read_bytes()
        short = tmp_path / "short.fits"
        short.write_bytes(whole[: cut if cut > 1 else 100])
        with pytest.raises(CorruptFileError, match="truncated") as caught, open_fits(short):
            pass
        assert caught.value.hdu is not None

    def test_missing_padding_alone_is_no_loss(self, tmp_path: Path) -> None:
        path = tmp_path / "in.fits"
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(FLOATS)]).writeto(path)
        path.write_bytes(path.read_bytes()[: -(-FLOATS.nbytes % 2880)])
        with open_fits(path) as hdus:
            np.testing.assert_array_equal(hdus[1].data, FLOATS)

    def test_damaged_gzip(self, plain: Path, tmp_path: Path) -> None:
        zipped = tmp_path / "in.fits.gz"
        zipped.write_bytes(gzip.compress(plain.read_bytes())[:-500])
        with pytest.raises(CorruptFileError, match="gzip"), open_fits(zipped):
            pass

    @pytest.mark.parametrize("algorithm", ["GZIP_2", "RICE_1"])
    def test_damaged_tile(self, tmp_path: Path, algorithm: str) -> None:
        hdu = fits.CompImageHDU(INTS, compression_type=algorithm, tile_shape=(1, 56))
        path = write(tmp_path / "in.fits", hdu)
        raw = bytearray(path.read_bytes())
        with map_fits(path) as mapped:
            at = mapped.spans[1].data_start + 8 * SHAPE[0] + 30
        raw[at : at + 200] = bytes(200)
        path.write_bytes(raw)
        with pytest.raises(CorruptFileError, match="tile"):
            rewrite_fits(path, tmp_path / "out.fits", {1: INTS})
        assert not (tmp_path / "out.fits").exists()
        if algorithm == "GZIP_2":
            with pytest.raises(CorruptFileError, match="tile"), open_fits(path) as hdus:
                _ = hdus[1].data
