"""Node ids as text and on the wire (OPC UA Part 6, 5.1.12). Pure; starts nothing.

python-opcua's own parser splits string identifiers at ``;`` and takes numbers that it cannot encode later.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import Final

from opcua import ua

_FORM: Final = re.compile(r"(?:ns=(\d{1,5});)?([isgb])=(.+)", re.DOTALL)
MAX_IDENTIFIER_CHARS: Final = 4096
"""Longest string identifier (Part 3, 8.2.4)."""


def parse_node_id(text: str) -> ua.NodeId:
    """Read ``ns=2;s=Pump.Speed``, ``i=2258``, ``ns=3;g=<uuid>`` or ``ns=3;b=<base64>``; else ValueError."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a node id: {text[:80]!r}")
    namespace, kind, identifier = int(match[1] or 0), match[2], match[3]
    if namespace > 0xFFFF:
        raise ValueError("namespace index above 65535")
    if kind == "i":
        return ua.NodeId(_numeric(identifier), namespace, ua.NodeIdType.Numeric)
    if kind == "g":
        return ua.NodeId(uuid.UUID(identifier), namespace, ua.NodeIdType.Guid)
    if kind == "b":
        return ua.NodeId(_opaque(identifier), namespace, ua.NodeIdType.ByteString)
    if len(identifier) > MAX_IDENTIFIER_CHARS:
        raise ValueError("string identifier too long")
    identifier.encode("utf-8")  # a lone surrogate has no bytes on the wire: UnicodeEncodeError is a ValueError
    return ua.NodeId(identifier, namespace, ua.NodeIdType.String)


def _numeric(identifier: str) -> int:
    if not (identifier.isascii() and identifier.isdigit()) or int(identifier) > 0xFFFFFFFF:
        raise ValueError("numeric identifier is not a UInt32")
    return int(identifier)


def _opaque(identifier: str) -> bytes:
    try:
        return base64.b64decode(identifier, validate=True)
    except binascii.Error as error:
        raise ValueError("opaque identifier is not base64") from error


def format_node_id(node_id: ua.NodeId) -> str:
    """The text that `parse_node_id` reads; namespace 0 is left out."""
    identifier = node_id.Identifier
    match identifier:
        case int():
            text = f"i={identifier}"
        case uuid.UUID():
            text = f"g={identifier}"
        case bytes():
            text = f"b={base64.b64encode(identifier).decode()}"
        case _:
            text = f"s={identifier}"
    return f"ns={node_id.NamespaceIndex};{text}" if node_id.NamespaceIndex else text
