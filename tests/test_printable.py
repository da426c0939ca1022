"""What a file's name or header holds does not reach a terminal as control characters."""

from __future__ import annotations

import io
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from skygraft.cli.common import echo, emit_json
from skygraft.errors import CorruptFileError
from skygraft.printable import console, json_text, printable

EVIL = "a\x1b]0;title\x07b\x9b31m\u202egpj.stif\x7f\r\x08"


def obeyed(text: str) -> list[str]:
    """Characters that a terminal would act on, by Unicode's own categories."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\u202e\u2066"]


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert obeyed(printable(text)) == []
    assert set(obeyed(printable(text, lines=True))) <= {"\n", "\t"}
    printable(text).encode()  # also where the name of a file is no text
    assert printable(printable(text)) == printable(text)
    assert json.loads(json_text(json.dumps(text, ensure_ascii=False))) == text


def test_what_is_harmless_is_as_it_was() -> None:
    for text in ("/data/müller/M 31 – (r).fits", "数据/图像.fits", "1\u202f234", ""):
        assert printable(text) == text
    assert printable("a\nb\tc", lines=True) == "a\nb\tc"
    assert printable("a\nb") == "a\\x0ab"
    assert printable(b"caf\xe9.fits".decode("utf-8", "surrogateescape")) == "caf\\xe9.fits"


def test_an_error_names_its_file_in_one_line() -> None:
    text = str(CorruptFileError("it is\ncut short\x1b[2J", path=f"/d/{EVIL}\nerror: done", key="K\x1b"))
    assert text.count("\n") == 1
    assert obeyed(text) == ["\n"]
    assert "/d/a\\x1b]0;title\\x07b\\x9b31m\\u202egpj.stif\\x7f\\x0d\\x08\\x0aerror: done, key K\\x1b" in text


def test_tables_and_lines_on_a_terminal() -> None:
    out = io.StringIO()
    shown = console(file=out, force_terminal=True, color_system=None, width=200)
    table = Table("file", "what")
    table.add_row(EVIL, "fine")
    shown.print(EVIL, markup=False)
    shown.print(table)
    assert set(obeyed(out.getvalue())) <= {"\n"}
    assert out.getvalue().count("\\x1b]0;title") == 2
    styled = io.StringIO()
    console(file=styled, force_terminal=True, color_system="standard").print("[red]x[/]")
    assert "\x1b[31m" in styled.getvalue()  # its own colours are its own


def test_what_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    echo(EVIL)
    emit_json({"path": EVIL, "name": "müller"})
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert obeyed(first) == []
    assert set(obeyed(rest)) == {"\n"}
    content: dict[str, Any] = json.loads(rest)
    assert content == {"path": EVIL, "name": "müller"}
    assert "müller" in rest
