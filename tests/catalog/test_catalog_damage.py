"""Damaged catalogue files: each is refused with its name and place, or read as what it says."""

from __future__ import annotations

import base64
import gzip
import io
import re
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import from_table, tablewriter, writeto
from astropy.table import QTable, Table

from skygraft.catalog import read_catalog, write_catalog
from skygraft.catalog.io import iter_catalog
from skygraft.errors import CatalogError, CorruptFileError, SkygraftError, SkygraftWarning

CSV = """injection_id,ra,dec,source_type,mag_r,n,half_light_radius
1,150.1,2.2,Star,20.5,,
2,150.2,2.3,Sersic,21.25,1.5,0.75
3,150.3,2.4,Star,22.5,,
"""


def table():
    out = Table.read(CSV.splitlines(), format="ascii.csv")
    out = Table({name: np.ma.filled(out[name], np.nan) for name in out.colnames})
    out["ra"].unit = out["dec"].unit = "deg"
    out["half_light_radius"].unit = "arcsec"
    return out


def changed(content, old, new):
    old, new = (x.encode() if isinstance(x, str) else x for x in (old, new))
    content = content.encode() if isinstance(content, str) else content
    assert old in content
    return content.replace(old, new, 1)


def refused(path, content, *words):
    """Assert that a file is refused by its name; gives the error."""
    path.write_bytes(content)
    with pytest.raises((CatalogError, CorruptFileError)) as caught:
        read_catalog(path, band="r")
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("20.5", "0x10", ("row 0, key mag_r", "'0x10' is not a number")),
        ("20.5", "1 2", ("row 0, key mag_r", "'1 2'")),
        ("20.5", "2_0.5", ("row 0, key mag_r", "'2_0.5'")),
        ("20.5", "٢٠.5", ("row 0, key mag_r",)),
        ("21.25", "1e400", ("row 1", "mag_r = inf")),
        ("0.75", "3e240", ("row 1", "half_light_radius = 3e+240")),
        ("\n2,", "\n99999999999999999999,", ("row 1, key injection_id", "beyond the largest")),
        ("2.3", "91", ("row 1", "dec = 91")),
        ("150.2", "", ("row 1", "ra = nan")),
        ("20.5,,", "20.5", ("row 0", "5 cells", "7 columns")),
        ("20.5,,", "20.5,,,", ("row 0", "8 cells")),
        ("21.25", "21\0.25", ("a NUL byte in line 3",)),
        ("Sersic", b"S\xe9rsic", ("0xe9, which is not UTF-8 in line 3",)),
        ("0.75", '"0.75', ("quotation mark",)),
        ("injection_id", "#injection_id", ("begins with '#'",)),
        ("n,half", "mag_r,half", ("column 'mag_r' is there 2 times",)),
        ("half_light_radius", "RA", ("'ra' and 'RA'",)),
    ],
)
def test_a_damaged_csv_is_refused_by_its_place(tmp_path, old, new, words):
    refused(tmp_path / "a.csv", changed(CSV, old, new), *words)


def test_a_cell_that_swallows_a_line_of_a_csv(tmp_path):
    text = "injection_id,ra,dec,source_type,mag_r,note\n1,1,1,Star,20,x\n2,1,1,Star,20,y\n3,1,1,Star,20,z\n"
    broken = text.replace(",x\n", ',"x\n').replace(",y\n", ',y"\n')
    assert refused(tmp_path / "a.csv", broken.encode(), "a cell goes on in the next line").row == 0


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\r").encode(),
        CSV.replace("20.5", "+20.5").replace("Star,", " Star ,").encode() + b"\n  \n",
    ],
)
def test_usual_csv_files_are_read(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    got = read_catalog(tmp_path / "a.csv")
    assert got["injection_id"].tolist() == [1, 2, 3]
    assert got["mag_r"].value.tolist() == [20.5, 21.25, 22.5]
    assert got["half_light_radius"].value[1] == 0.75


def test_a_csv_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("skygraft.catalog.text_tables._SMALL", 1 << 16)
    refused(tmp_path / "a.csv.gz", gzip.compress(CSV.encode() + b"\n" * (1 << 22)), "it unpacks to more than")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("unit: arcsec", "unit: arcse", ("key half_light_radius", "arcse")),
        ("unit: arcsec", "unt: arcsec", ("'unt'", "Did you mean 'unit'?")),
        ("unit: arcsec", "unit: [1]", ("key half_light_radius", "which is not text")),
        ("unit: arcsec", "unit: !!int x", ("ecsv table",)),
        ("datatype: float64", "datatype: flot64", ("ecsv table", "flot64")),
        ("name: ra, unit: deg, datatype: float64", "name: ra, unit: deg", ("a name and a datatype",)),
        ("# datatype:", "# datatyp:", ("datatype",)),
        ("# ---\n", "# ---\n# " + "[" * 5000 + "\n", ("nested more than",)),
        ("150.2", "15_0.2", ("row 1, key ra", "not float64")),
        ("150.2", "abc", ("ecsv table", "abc")),
        ("150.2", '"', ("ecsv table",)),
    ],
)
def test_a_damaged_ecsv_is_refused(tmp_path, old, new, words):
    text = io.StringIO()
    table().write(text, format="ascii.ecsv")
    refused(tmp_path / "a.ecsv", changed(text.getvalue(), old, new), *words)


def test_an_ecsv_whose_type_holds_fewer_digits_than_its_cells(tmp_path):
    text = io.StringIO()
    whole = table()
    whole["ra"][1] = 150.123456789
    whole.write(text, format="ascii.ecsv")
    damaged = re.sub(r"(name: ra, .*datatype: float)64", r"\g<1>32", text.getvalue())
    assert damaged != text.getvalue()
    refused(tmp_path / "a.ecsv", damaged.encode(), "row 1, key ra", "more digits than float32, the type in the header")
    # What was written from single precision is not suspected.
    whole["ra"] = whole["ra"].astype(np.float32)
    whole.write(tmp_path / "b.ecsv", format="ascii.ecsv")
    assert read_catalog(tmp_path / "b.ecsv")["ra"].value[1] == np.float32(150.123456789)


@pytest.mark.parametrize("ending", ["csv", "ecsv"])
def test_a_last_line_without_an_end_is_warned_of(tmp_path, ending):
    text = io.StringIO()
    columns = {"injection_id": [1], "ra": [1.0], "dec": [1.0], "source_type": ["Star"], "mag_r": [20.123]}
    Table(columns).write(text, format="ascii.ecsv" if ending == "ecsv" else "ascii.csv")
    path = tmp_path / f"a.{ending}"
    for content, magnitude in ((text.getvalue().rstrip("\r\n"), 20.123), (text.getvalue().rstrip("\r\n")[:-2], 20.1)):
        path.write_text(content)
        with pytest.warns(SkygraftWarning, match=r"a\.e?csv: line \d+, the last one, does not end.*echo"):
            assert read_catalog(path)["mag_r"].value[0] == magnitude


def votable(kind="tabledata"):
    out = io.BytesIO()
    writeto(from_table(Table(table(), copy=True)), out, tabledata_format=kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tabledata", "binary", "binary2"])
def test_votables_of_every_storage_are_read(tmp_path, kind):
    (tmp_path / "a.vot").write_bytes(votable(kind))
    got = read_catalog(tmp_path / "a.vot")
    assert got["injection_id"].tolist() == [1, 2, 3]
    assert got["source_type"].tolist() == ["Star", "Sersic", "Star"]
    assert got["ra"].value.tolist() == [150.1, 150.2, 150.3]
    assert np.isnan(got["n"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<TD>20.5</TD>", "<TD>abc</TD>", ("row 0, key mag_r", "'abc' is not double")),
        ("<TD>20.5</TD>", "<TD>0x10</TD>", ("row 0, key mag_r",)),
        ("<TD>20.5</TD>", "<T>20.5</T>", ("element 'T' in a TR",)),
        ("<TD>20.5</TD>", "", ("6 cells", "7 fields")),
        ("<TD>20.5</TD>", "20.5", ("text outside of a TD",)),
        ("<TD>2</TD>", f"<TD>{2**63}</TD>", ("row 1, key injection_id",)),
        ("<TD>Sersic</TD>", "<TD>Sersics</TD>", ("row 1, key source_type", "longer than the field's 6")),
        ('datatype="double"', 'datatype="char"', ("key ra", "longer than")),
        ('datatype="double"', 'datatype="doubl"', ("'doubl', none of",)),
        ('datatype="long"', 'datatype="unsignedByte" nam="x"', ("'nam'", "Did you mean 'name'?")),
        ('unit="deg"', 'uni="deg"', ("'uni'", "Did you mean 'unit'?")),
        ("<TABLE>", '<TABLE nrows="4">', ("has 3 rows, and says that it has 4",)),
        ("<TABLE>", '<TABLE nrows="999999999999">', ("says that it has",)),
        ("<TABLEDATA>", "<BINARY><STREAM href='file:///dev/zero'/></BINARY><TABLEDATA>", ("elsewhere", "/dev/zero")),
        ('encoding="utf-8"', 'encoding="utf-9"', ("votable",)),
        ("<RESOURCE", "<RESOURCE>" * 200 + "<RESOURCE", ("nested more than",)),
        ("<VOTABLE", "<!DOCTYPE x [<!ENTITY a 'b'>]><VOTABLE", ("declares an entity 'a'",)),
        ("</VOTABLE>", "", ("votable",)),
    ],
)
def test_a_damaged_votable_is_refused(tmp_path, old, new, words):
    refused(tmp_path / "a.vot", changed(votable(), old, new), *words)


def with_stream(kind, change):
    whole = votable(kind)
    stream = re.search(rb"<STREAM[^>]*>(.*?)</STREAM>", whole, re.DOTALL)
    return whole[: stream.start(1)] + change(stream[1]) + whole[stream.end(1) :]


@pytest.mark.parametrize("kind", ["binary", "binary2"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw[:-5], "the middle"),
        (lambda raw: raw + b"\0", "the middle"),
        (lambda raw: raw[:4], "the middle"),
    ],
)
def test_a_stream_of_a_votable_holds_whole_rows(tmp_path, kind, change, words):
    def damaged(text):
        return base64.b64encode(change(base64.b64decode(text)))

    refused(tmp_path / "a.vot", with_stream(kind, damaged), words)
    refused(tmp_path / "b.vot", with_stream(kind, lambda text: b"!!" + text), "base64")


def test_texts_of_any_length_in_a_stream(tmp_path):
    path = tmp_path / "a.vot"
    text = Table(table(), copy=True)
    text["source_type"] = text["source_type"].astype(object)
    from_table(text).to_xml(str(path), tabledata_format="binary2")
    assert read_catalog(path)["source_type"].tolist() == ["Star", "Sersic", "Star"]
    content = path.read_bytes()
    stream = re.search(rb"<STREAM[^>]*>(.*?)</STREAM>", content, re.DOTALL)
    raw = base64.b64decode(stream[1])
    word = "Sersic".encode("utf-16-be") if "Sersic".encode("utf-16-be") in raw else b"Sersic"
    place = raw.index(word) - 4
    raw = raw[:place] + struct.pack(">I", 2**31 - 1) + raw[place + 4 :]
    refused(path, content[: stream.start(1)] + base64.b64encode(raw) + content[stream.end(1) :], "the middle")


def test_votables_are_not_written_by_astropys_writer_of_text(tmp_path, monkeypatch):
    # It puts a NUL behind its buffer where a row just fills it, as with texts of 475 characters.
    def broken(*_):
        raise AssertionError("astropy's writer of TABLEDATA")

    monkeypatch.setattr(tablewriter, "write_tabledata", broken)
    catalog = QTable(table())
    catalog["note"] = ["x" * n for n in (474, 475, 476)]
    write_catalog(catalog, tmp_path / "a.vot")
    back = read_catalog(tmp_path / "a.vot")
    assert back["note"].tolist() == catalog["note"].tolist()
    assert back["ra"].value.tolist() == [150.1, 150.2, 150.3]


def parquet(metadata=None, **options):
    content = pa.table({name: table()[name].tolist() for name in table().colnames}).replace_schema_metadata(metadata)
    out = io.BytesIO()
    pq.write_table(content, out, **options)
    return out.getvalue()


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"x: [",
        b"x: 1",
        b"datatype: 5",
        b"datatype:\n- {unit: deg}",
        b"[" * 5000,
        (BOMB + "datatype:\n- {name: ra, unit: *i}").encode(),
    ],
)
def test_damaged_units_of_a_parquet_file(tmp_path, text):
    refused(tmp_path / "a.parquet", parquet({b"table_meta_yaml": text}), "table_meta_yaml")


RANGE = b'{"index_columns": [{"kind": "range", "name": "x", "start": 0, "stop": 3%s}]}'


@pytest.mark.parametrize(
    "text",
    [b"{", b"5", b'{"index_columns": 5}', b"[" * 100000, RANGE % b"", RANGE % b', "step": 0', RANGE % b', "step": "a"'],
)
def test_an_index_of_pandas_that_makes_no_sense_is_none(tmp_path, text):
    (tmp_path / "a.parquet").write_bytes(parquet({b"pandas": text}))
    assert "x" not in read_catalog(tmp_path / "a.parquet").colnames


def test_page_checksums_are_written_and_compared(tmp_path):
    catalog, path = QTable(table()), tmp_path / "a.parquet"
    write_catalog(catalog, path)
    whole = path.read_bytes()
    places = [i for value in (150.2, 21.25) for i in [whole.find(struct.pack("<d", value))] if i > 0]
    assert places
    for place in places:
        path.write_bytes(whole[: place + 1] + bytes([whole[place + 1] ^ 0x55]) + whole[place + 2 :])
        for read in (read_catalog, lambda p: list(iter_catalog(p))):
            with pytest.raises(CorruptFileError, match="page integrity") as caught:
                read(path)
            assert str(path) in str(caught.value)


def test_rows_that_no_file_of_this_size_holds(tmp_path):
    n = 1_000_000
    content = pa.table({name: np.zeros(n) for name in ("ra", "dec", "mag_r")})
    pq.write_table(content, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes(), "claims 1000000 rows")


def fits_table():
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(table())]).writeto(out)
    return out.getvalue()


def with_card(key, value):
    whole = fits_table()
    place = whole.rindex(f"{key:8s}=".encode())
    return whole[:place] + f"{key:8s}= {value:>20}".ljust(80).encode() + whole[place + 80 :]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("NAXIS2", "2", "behind the last row"),
        ("NAXIS2", "2147483647", "need 115964116938 bytes"),
        ("NAXIS2", "-1", ""),
        ("NAXIS1", "8", ""),
        ("NAXIS1", "2147483647", "the file is truncated"),
        ("TFIELDS", "3", "take 24 bytes of a row"),
        ("TFIELDS", "1000000", "TFIELDS"),
        ("PCOUNT", "2147483647", "the file is truncated"),
        ("PCOUNT", "-99999", ""),
        ("GCOUNT", "2", "GCOUNT is 2; it can be 1"),
        ("BITPIX", "16", "of BITPIX = 16"),
        ("TFORM2", "'E       '", "take 50 bytes of a row, and NAXIS1 is 54"),
        ("TFORM2", "'text    '", "not a column format"),
        ("TTYPE2", "'        '", "field 2 has no name"),
        ("TTYPE6", "'mag_r   '", "'mag_r' is there 2 times"),
        ("TUNIT2", "'de      '", "is in de"),
    ],
)
def test_a_damaged_header_of_a_fits_table(tmp_path, key, value, words):
    refused(tmp_path / "a.fits", with_card(key, value), words)


@pytest.mark.parametrize("card", [("TSCAL2", 0.0), ("TSCAL1", "x"), ("TZERO1", "abc")])
def test_scales_that_are_none(tmp_path, card):
    hdu = fits.BinTableHDU(table())
    hdu.header[card[0]] = card[1]
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(out)
    refused(tmp_path / "a.fits", out.getvalue(), card[0])


def test_a_structural_card_twice_and_a_table_that_is_none(tmp_path):
    whole = fits_table()
    place = whole.rindex(b"TUNIT3  =")
    twice = whole[:place] + b"NAXIS2  =                    2".ljust(80) + whole[place + 80 :]
    refused(tmp_path / "a.fits", twice, "NAXIS2 is there twice")
    (tmp_path / "b.fits").write_bytes(whole)
    with pytest.raises(CatalogError, match=r"HDU 0 is not a table; the file has 1 \(unnamed\)"):
        read_catalog(tmp_path / "b.fits", hdu=0)


def test_what_is_no_file(tmp_path):
    link = tmp_path / "a.csv"
    link.symlink_to("/dev/zero")
    with pytest.raises(CatalogError, match="not a regular file"):
        read_catalog(link)
    for name in ("a\0b.csv", "x" * 5000 + ".csv"):
        with pytest.raises(SkygraftError):
            read_catalog(name)


def test_a_second_number_of_axes_is_refused_before_they_are_counted(tmp_path):
    whole = fits_table()
    place = whole.index(b"EXTEND  =")
    card = b"NAXIS   =           2147483647".ljust(80)
    refused(tmp_path / "a.fits", whole[:place] + card + whole[place + 80 :], "NAXIS")
