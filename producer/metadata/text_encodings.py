"""Text as spreadsheets, switches and shells write it: told apart by what it makes sense as."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass

#: Longest first: UTF-32's mark begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WINDOWS = "Windows-1252"
#: What to do where that is wrong.
ENCODING_HINT = "if it is another, say --encoding, such as gb18030 or cp1251"
_UTF_8 = "UTF-8"

#: What bytes 80 to 9F are in Windows-1252; five are nothing, and stay what Latin-1 calls them.
_WINDOWS = {
    byte: ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)) for byte in range(0x80, 0xA0)
}
_LATIN = {char: byte for byte, char in _WINDOWS.items()}
#: How a byte that is no UTF-8 is carried in a text, and the character that it may be.
_STRAY_CHARACTERS = {0xDC00 + byte: _WINDOWS.get(byte, byte) for byte in range(0x80, 0x100)}


@dataclass(frozen=True, slots=True)
class DecodedText:
    """A file's text and what it is encoded in.

    A UTF-8 file may hold stray bytes, such as names of files of another encoding. They are carried
    as surrogates: :meth:`without_stray_bytes` guesses them, :meth:`file_bytes` restores them.
    """

    text: str
    encoding: str
    has_stray_bytes: bool = False
    #: Whether somebody said that it is encoded so.
    is_explicit: bool = False

    def without_stray_bytes(self, part: str) -> str:
        """Return a part of the text without stray bytes: as characters of Windows-1252."""
        return part.translate(_STRAY_CHARACTERS) if self.has_stray_bytes else part

    def file_bytes(self, part: str) -> bytes:
        """Return a part of the text as bytes of a file's name: those that were in the file."""
        if self.encoding == WINDOWS or self.is_explicit:
            try:
                if self.is_explicit:
                    return part.encode(self.encoding)
                return part.translate(_LATIN).encode("latin-1")
            except UnicodeEncodeError:  # an escape of JSON spelled it
                return part.encode("utf-8", "surrogateescape")
        return part.encode("utf-8", "surrogateescape" if self.has_stray_bytes else "surrogatepass")


def check_encoding(name: str) -> str:
    """Return the name of an encoding of text as Python has it.

    Raises:
        LookupError: it has none of that name.
    """
    "a".encode(name)  # which fails for what turns no text into bytes
    return codecs.lookup(name).name


def decode_text(
    data: bytes, makes_sense: Callable[[str], bool], encoding: str | None = None
) -> DecodedText:
    """Return a file's text.

    A mark at its beginning is believed. Without one it is UTF-16 where it ``makes_sense`` as that,
    else UTF-8, else the ``encoding`` that is given, or Windows-1252.
    """
    for mark, encoding_name in _MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding_name, "replace")
            return DecodedText(text, encoding_name.upper())
    data = data.removeprefix(codecs.BOM_UTF8)
    if encoding is not None and not _is_utf_8(data):
        return DecodedText(data.decode(encoding, "replace"), encoding, is_explicit=True)
    if b"\0" in data:
        for utf_16 in ("utf-16-le", "utf-16-be"):
            text = data.decode(utf_16, "replace")
            if makes_sense(text):
                return DecodedText(text, utf_16.upper())
    return _decode_bytes(data)


def _decode_bytes(data: bytes) -> DecodedText:
    text = data.decode("utf-8", "surrogateescape")
    stray_count = sum(0xDC80 <= ord(char) <= 0xDCFF for char in text) if not _is_utf_8(data) else 0
    if not stray_count:
        return DecodedText(text, _UTF_8)
    # Mostly UTF-8, with the odd name of another encoding? Windows-1252 makes UTF-8 by chance alone.
    other_count = sum(char > "\x7f" for char in text) - stray_count
    if other_count > stray_count:
        return DecodedText(text, _UTF_8, has_stray_bytes=True)
    return DecodedText(data.decode("latin-1").translate(_WINDOWS), WINDOWS)


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
