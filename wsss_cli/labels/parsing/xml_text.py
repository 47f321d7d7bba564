"""XML that is not trusted: no document type, hence no entities that grow or fetch files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NoReturn

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import read_bytes
from wsss_cli.text import show

_HEAD = 65_536


class _Builder(ET.TreeBuilder):
    """Builds the tree, and stops where a document type begins: before the first entity is declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:  # noqa: ARG002
        raise RejectedInputError("a document type")


def read_xml(path: Path) -> ET.Element:
    """The root of an XML file; a broken one, or one with a DOCTYPE, is a RejectedInputError."""
    parser = ET.XMLParser(target=_Builder())
    try:
        parser.feed(read_bytes(path))
        return parser.close()
    except ET.ParseError as error:
        raise RejectedInputError(f"{show(path)} is no XML: {show(str(error))}. Export it again.") from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not know
        raise RejectedInputError(
            f"{show(path)} cannot be decoded: {show(str(error))}. Save it as UTF-8."
        ) from None
    except RejectedInputError:
        raise RejectedInputError(
            f"{show(path)} has a DOCTYPE, which labels do not need and which can blow up. Remove it."
        ) from None


def root_tag(path: Path) -> str:
    """The name of the first element of a file; "" if it is no XML. Never raises."""
    try:
        with path.open("rb") as file:
            ET.XMLParser(target=_First()).feed(file.read(_HEAD))
    except _FoundError as found:
        return str(found)
    except Exception:  # expat and codecs raise several kinds on what is not XML
        return ""
    return ""


class _FoundError(Exception):
    """The first element's name."""


class _First:
    """Ends the parsing at the first element, or at a document type."""

    def start(self, tag: str, attributes: dict[str, str]) -> NoReturn:  # noqa: ARG002
        raise _FoundError(tag)

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:  # noqa: ARG002
        raise _FoundError(name)  # which a document type repeats

    def close(self) -> None:
        """Nothing was built."""
