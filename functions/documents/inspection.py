"""What the first bytes of a file say, before anything else looks at it.

A type is what its owner says; a program or an archive under the name of a text is refused, and so
is what is there to be run. Signatures: https://www.garykessler.net/library/file_sigs.html and the
formats' own specifications.
"""

from __future__ import annotations

from functions.libraries.errors import ParseError

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HEAD_BYTES = 1024
"""In which a PDF begins, by Adobe's implementation notes: some have a line before it."""

# In two pieces: scanners of whoever has this source look for it whole (https://www.eicar.org).
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}" + rb"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

_PROGRAMS = (
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",  # Mach-O, in its four spellings
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",  # Mach-O of several machines, and Java's classes
    b"\x00asm",
    b"dex\n03",
    b"L\x00\x00\x00\x01\x14\x02\x00",  # a shortcut of Windows
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OTHER_FILES = (
    *_ZIP,
    b"\x1f\x8b\x08",  # gzip
    b"BZh91AY&SY",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",  # Zstandard
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"MSCF\x00\x00\x00\x00",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",  # Office before 2007, and installers
    b"{\\rtf",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"SQLite format 3\x00",
)


def inspect(content: bytes, mime_type: str) -> None:
    """Refuse a file that is not what it is said to be.

    Raises ParseError: `document_refused` for what is there to be run, and EICAR's test file;
    `type_mismatch` where the first bytes contradict the type.
    """
    if is_program(content):
        raise ParseError("document_refused", "A program is no document.")
    if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(EICAR):
        raise ParseError("document_refused", "This is the test file of virus scanners.")
    head = content[:HEAD_BYTES]
    if mime_type == PDF:
        is_it = b"%PDF-" in head
    elif mime_type == DOCX:
        is_it = head.startswith(_ZIP[0])
    else:
        is_it = not head.startswith((*_OTHER_FILES, b"%PDF-"))
    if not is_it:
        raise ParseError("type_mismatch", f"The file is not of the type {mime_type}.")


def is_program(content: bytes) -> bool:
    """Whether an operating system or a virtual machine would run it."""
    if content.startswith(_PROGRAMS):
        return True
    # Texts begin with these two letters too; the header of DOS is no text.
    return content.startswith(b"MZ") and b"\x00" in content[:64]
