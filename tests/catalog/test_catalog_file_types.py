"""Columns of every type in FITS, VOTable, CSV and ECSV files: exactly what the file has, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skygraft.catalog import as_table, normalize_catalog, read_catalog
from skygraft.errors import CatalogError

BIG = 2**53 + 1  # the first whole number that double precision cannot hold
NOTHING = -1  # what a missing visit means
BASE = {
    "ra": [150.1, 150.1, 150.101],
    "dec": [2.2, 2.201, 2.2],
    "source_type": ["Sersic"] * 3,
    "mag_r": [20.0, 21.0, 22.0],
    "n": [1.0, 1.0, 1.0],
    "half_light_radius": [0.5, 0.5, 0.5],
}


def column(table, name):
    return np.asarray(table[name]).tolist()


def write_fits(path, form, array, *, name="visit", **cards):
    """A FITS table, with cards for the last column set after its numbers were stored."""
    forms = {"source_type": "8A"}
    columns = [fits.Column(key, forms.get(key, "D"), array=np.array(values)) for key, values in BASE.items()]
    columns.append(fits.Column("last", form, array=array))
    hdu = fits.BinTableHDU.from_columns(columns)
    for key, value in cards.items():
        hdu.header[f"X{key[1:]}{len(columns)}"] = value
    hdu.writeto(path, overwrite=True)
    # In the bytes: astropy would change the stored numbers with the cards.
    content = path.read_bytes().replace(f"TTYPE{len(columns)}  = 'last    '".encode(), _card("TTYPE", columns, name))
    for key in cards:
        content = content.replace(f"X{key[1:]}{len(columns)}".encode(), f"{key}{len(columns)}".encode())
    path.write_bytes(content)
    return path


def _card(key, columns, text):
    return f"{key}{len(columns)}  = '{text:8}'".encode()


def ragged(*rows):
    out = np.empty(len(rows), dtype=object)
    out[:] = [np.array(row, dtype=np.int32) for row in rows]
    return out


@pytest.mark.parametrize(
    ("form", "array", "cards", "meant"),
    [
        ("K", [BIG, 1, 2], {}, [BIG, 1, 2]),
        ("K", [BIG, 1, 2], {"TNULL": 1}, [BIG, NOTHING, 2]),
        ("B", [200, 1, 2], {}, [200, 1, 2]),
        ("B", [129, 127, 255], {"TZERO": -128}, [1, NOTHING, 127]),
        ("I", [-1, 1, 2], {"TZERO": 32768}, [32767, 32769, 32770]),
        ("J", [-5, 1, 2], {"TZERO": 2**31}, [2**31 - 5, 2**31 + 1, 2**31 + 2]),
        ("K", [BIG - 2**63, 1 - 2**63, 2 - 2**63], {"TZERO": 2**63, "TNULL": 1 - 2**63}, [BIG, NOTHING, 2]),
        ("K", [BIG, 1, 2], {"TZERO": 5, "TNULL": 1}, [BIG + 5, NOTHING, 7]),
        ("J", [1, 2, 3], {"TSCAL": 2.0, "TZERO": 1.0, "TNULL": 2}, [3, NOTHING, 7]),
        ("20A", [str(BIG), "", " 7"], {}, [BIG, NOTHING, 7]),
        ("D", [7.0, np.nan, 2.0], {}, [7, NOTHING, 2]),
        ("E", [7.0, np.nan, 2.0], {}, [7, NOTHING, 2]),
        ("PJ()", ragged([7], [], [2]), {}, [7, NOTHING, 2]),
        ("1J", [7, 1, 2], {"TDIM": "(1)"}, [7, 1, 2]),
    ],
)
def test_fits_whole_numbers(tmp_path, form, array, cards, meant):
    path = write_fits(tmp_path / "a.fits", form, array, **cards)
    assert column(read_catalog(path), "visit") == meant
    # The HDU's own data, as a user would hand it on, are exact too, or refused by name.
    scaled = "TNULL" in cards and {"TSCAL", "TZERO"} & cards.keys() and cards["TZERO"] != 2**63
    data = fits.getdata(path, 1)
    if scaled:
        with pytest.raises(CatalogError, match=r"column 'visit' .*read_catalog"):
            normalize_catalog(data)
    else:
        assert column(normalize_catalog(data), "visit") == meant


def test_fits_scaled_numbers_and_their_undefined_value(tmp_path):
    # TNULL is compared with what is stored (FITS standard 4.0, 7.3.2): 2 here, not 0.2.
    path = write_fits(tmp_path / "a.fits", "I", [1, 2, 3], name="q", TSCAL=0.1, TNULL=2)
    assert column(read_catalog(path), "q") == [0.1, 1.0, 3 * 0.1]
    with pytest.raises(CatalogError, match=r"column 'q' .*read_catalog"):
        normalize_catalog(fits.getdata(path, 1))
    path = write_fits(tmp_path / "a.fits", "I", [1, 2, 3], name="q", TSCAL=0.1)
    assert column(normalize_catalog(fits.getdata(path, 1)), "q") == [0.1, 2 * 0.1, 3 * 0.1]


@pytest.mark.parametrize(
    ("form", "array", "cards", "reason"),
    [
        ("K", [0, 1, 2], {"TZERO": 2**63}, f"visit = {2**63} is beyond"),
        ("K", [2**62, 1, 2], {"TZERO": 2**62}, f"visit = {2**63} is beyond"),
        ("J", [1, 2, 3], {"TZERO": 0.5}, r"visit = 1\.5 is not a whole number"),
        ("E", [2.0**24, 2, 3], {}, r"float.*16777216|f4.*16777216"),
        ("L", [True, False, True], {}, "column 'visit' is of type bool"),
        ("C", [1, 2, 3], {}, "column 'visit' is of type .*c8"),
        ("M", [1, 2, 3], {}, "column 'visit' is of type .*c16"),
        ("8X", np.zeros((3, 8), dtype=bool), {}, r"arrays of shape \(8,\)"),
        ("2J", np.ones((3, 2)), {}, r"arrays of shape \(2,\)"),
        ("PJ()", ragged([7, 8], [1], [2]), {}, "visit = .* is 2 values"),
        ("20A", ["1,000", "2", "3"], {}, "visit = '1,000' is not a whole number"),
        ("D", [1.0, 2.0, 3.0], {"TUNIT": "s"}, "column 'visit' is in s"),
    ],
)
def test_fits_columns_that_are_refused(tmp_path, form, array, cards, reason):
    path = write_fits(tmp_path / "a.fits", form, array, **cards)
    with pytest.raises(CatalogError, match=reason):
        read_catalog(path)
    with pytest.raises(CatalogError):
        normalize_catalog(fits.getdata(path, 1))
    # Nobody asks for it under another name.
    assert len(read_catalog(write_fits(tmp_path / "b.fits", form, array, name="other", **cards))) == 3


def test_fits_names_twice_and_units(tmp_path):
    with pytest.raises(CatalogError, match=r"a\.fits, key ra: column 'ra' is there 2 times"):
        read_catalog(write_fits(tmp_path / "a.fits", "D", [9.0] * 3, name="ra"))
    with pytest.raises(CatalogError, match="columns 'ra' and 'RA', with different values"):
        read_catalog(write_fits(tmp_path / "a.fits", "D", [9.0] * 3, name="RA"))
    for unit, meant in (("radians", np.degrees(1.0)), ("DEG", 1.0), ("degrees", 1.0), ("arcmin", 1 / 60)):
        path = write_fits(tmp_path / "a.fits", "D", [1.0] * 3, name="pa", TUNIT=unit)
        np.testing.assert_allclose(column(read_catalog(path), "pa"), meant, rtol=1e-14)


def test_fits_ascii_tables(tmp_path):
    forms = {"source_type": "A8", "visit": "I20"}
    columns = [
        fits.Column(name, forms.get(name, "D25.17"), array=np.array(values))
        for name, values in (BASE | {"visit": [BIG, 1, 2]}).items()
    ]
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    assert column(read_catalog(tmp_path / "a.fits"), "visit") == [BIG, 1, 2]


KINDS = {"source_type": 'datatype="char" arraysize="*"'}


def write_votable(path, spec, values, *, name="visit"):
    fields = [f'<FIELD name="{n}" {KINDS.get(n, chr(34).join(["datatype=", "double", ""]))}/>' for n in BASE]
    fields.append(f'<FIELD name="{name}" {spec if "<" in spec else spec + "/>"}')
    rows = ("".join(f"<TD>{v}</TD>" for v in (*row, last)) for *row, last in zip(*BASE.values(), values, strict=True))
    path.write_text(
        '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
        + "".join(fields)
        + "<DATA><TABLEDATA>"
        + "".join(f"<TR>{row}</TR>" for row in rows)
        + "</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    return path


@pytest.mark.parametrize(
    ("spec", "values", "meant"),
    [
        ('datatype="long"', [BIG, "", 2], [BIG, NOTHING, 2]),
        ('datatype="int"><VALUES null="-99"/></FIELD>', [7, -99, 2], [7, NOTHING, 2]),
        ('datatype="short"', [7, "", 2], [7, NOTHING, 2]),
        ('datatype="unsignedByte"', [200, "", 2], [200, NOTHING, 2]),
        ('datatype="char" arraysize="*"', [BIG, "", 2], [BIG, NOTHING, 2]),
        ('datatype="unicodeChar" arraysize="20"', [BIG, "", 2], [BIG, NOTHING, 2]),
        ('datatype="float"', [7, "", 2], [7, NOTHING, 2]),
        ('datatype="int" arraysize="1"', [7, 1, 2], [7, 1, 2]),
        ('datatype="int" arraysize="*"', [7, "", 2], [7, NOTHING, 2]),
        ('ID="col_7" datatype="int"', [7, 1, 2], [7, 1, 2]),
    ],
)
def test_votable_whole_numbers(tmp_path, spec, values, meant):
    assert column(read_catalog(write_votable(tmp_path / "a.vot", spec, values)), "visit") == meant


@pytest.mark.parametrize(
    ("spec", "values", "reason"),
    [
        ('datatype="boolean"', ["T", "F", "?"], "of type bool"),
        ('datatype="bit"', [1, 0, 1], "of type bool"),
        ('datatype="floatComplex"', ["1 0"] * 3, "of type complex64"),
        ('datatype="int" arraysize="2"', ["1 2"] * 3, r"arrays of shape \(2,\)"),
        ('datatype="int" arraysize="*"', ["1 2", "1", "2"], "is 2 values"),
        ('datatype="char" arraysize="*"', ["1e99", "1", "2"], "beyond"),
    ],
)
def test_votable_columns_that_are_refused(tmp_path, spec, values, reason):
    with pytest.raises(CatalogError, match=f"visit.*{reason}"):
        read_catalog(write_votable(tmp_path / "a.vot", spec, values))


def test_votable_names_twice(tmp_path):
    with pytest.raises(CatalogError, match="column 'ra' is there 2 times"):
        read_catalog(write_votable(tmp_path / "a.vot", 'datatype="double"', [9.0] * 3, name="ra"))


def write_text(path, values, *, name="visit"):
    rows = zip(*BASE.values(), values, strict=True)
    path.write_text("\n".join([",".join([*BASE, name]), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ([BIG, 1, 2], [BIG, 1, 2]),
        ([BIG, "", 2], [BIG, NOTHING, 2]),
        ([BIG, "nan", ""], [BIG, NOTHING, NOTHING]),
        ([BIG, "None", 2], [BIG, NOTHING, 2]),
        ([f'"{BIG}"', '"1"', 2], [BIG, 1, 2]),
        (["7.0", 1, 2], [7, 1, 2]),
        (["1e3", 1, 2], [1000, 1, 2]),
        (["007", " 1", 2], [7, 1, 2]),
        (["", "", ""], [NOTHING] * 3),
    ],
)
def test_csv_whole_numbers(tmp_path, values, meant):
    assert column(read_catalog(write_text(tmp_path / "a.csv", values)), "visit") == meant


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (['"1,000"', 1, 2], "'1,000' is not a whole number"),
        ([2**63, 1, 2], f"'{2**63}' is beyond"),
        ([2**64, "", 2], f"'{2**64}' is beyond"),
        ([f"{BIG}.0", 1, 2], "float64"),
        (["1.5", 1, 2], r"1\.5 is not a whole number"),
        (["1_0", 1, 2], "'1_0' is not a whole number"),
        (["x", 1, 2], "'x' is not a whole number"),
        (["True", "False", "True"], "'True' is not a whole number"),
    ],
)
def test_csv_columns_that_are_refused(tmp_path, values, reason):
    for name in ("visit", "injection_id"):
        with pytest.raises(CatalogError, match=f"{name} = .*{reason}") as caught:
            read_catalog(write_text(tmp_path / "a.csv", values, name=name))
        assert caught.value.row == 0


def test_large_fluxes_stay_numbers(tmp_path):
    table = read_catalog(write_text(tmp_path / "a.csv", ["1e20", "nan", "5"], name="flux"))
    assert column(table, "flux")[::2] == [1e20, 5.0] and np.isnan(table["flux"][1])


def test_csv_and_ecsv_names_twice(tmp_path):
    with pytest.raises(CatalogError, match="column 'ra' is there 2 times"):
        read_catalog(write_text(tmp_path / "a.csv", [9.0] * 3, name="ra"))
    Table(BASE | {"rb": [9.0] * 3}).write(tmp_path / "a.ecsv")
    text = (tmp_path / "a.ecsv").read_text().replace("name: rb", "name: ra").replace(" rb", " ra")
    (tmp_path / "a.ecsv").write_text(text)
    with pytest.raises(CatalogError, match="column 'ra' is there 2 times"):
        read_catalog(tmp_path / "a.ecsv")


def test_ecsv_types(tmp_path):
    def write(kind, *values):
        head = "".join(f"# - {{name: {n}, datatype: {'string' if n == 'source_type' else 'float64'}}}\n" for n in BASE)
        rows = "\n".join(" ".join(map(str, row)) for row in zip(*BASE.values(), values, strict=True))
        (tmp_path / "a.ecsv").write_text(
            f"# %ECSV 1.0\n# ---\n# datatype:\n{head}# - {{name: visit, {kind}}}\n# schema: astropy-2.0\n"
            f"{' '.join(BASE)} visit\n{rows}\n"
        )
        return read_catalog(tmp_path / "a.ecsv")

    assert column(write("datatype: int64", BIG, '""', 2), "visit") == [BIG, NOTHING, 2]
    assert column(write("datatype: string", BIG, '""', 2), "visit") == [BIG, NOTHING, 2]
    assert column(write("datatype: uint64", BIG, 1, 2), "visit") == [BIG, 1, 2]
    assert column(write("datatype: string, subtype: 'int64[null]'", "[7]", "[1]", "[2]"), "visit") == [7, 1, 2]
    assert column(write("datatype: string, subtype: json", BIG, "null", '"2"'), "visit") == [BIG, NOTHING, 2]
    for kind, values, reason in (
        ("datatype: uint64", (2**64 - 1, 1, 2), f"visit = {2**64 - 1} is beyond"),
        ("datatype: bool", ("True", "False", "True"), "of type bool"),
        ("datatype: string, subtype: json", ('{"a":1}', 1, 2), "of type dict"),
        ("datatype: string, subtype: 'int64[null]'", ("[7,8]", "[1]", "[2]"), "is 2 values"),
        ("datatype: string, subtype: 'int64[2]'", ("[7,8]", "[1,2]", "[2,3]"), r"arrays of shape \(2,\)"),
    ):
        with pytest.raises(CatalogError, match=reason):
            write(kind, *values)


def test_a_table_is_handed_on_as_it_is():
    table = Table(BASE)
    assert as_table(table) is table
