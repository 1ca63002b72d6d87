"""The form of what users and clients write: ids, endpoint URLs, security settings, node ids.

Shared by the API, the commands and the registry, so that one text is right or wrong everywhere. Pure functions:
each takes the name of the field that it names in `InvalidField`, and returns the value in the form that is stored.
No message repeats what might be a secret, nor more than a few words of what was given.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from scada_trio.desired import SecurityMode
from scada_trio.errors import InvalidField

MAX_URL_BYTES: Final = 2_048
# A node id is part of the unique index on readings, and a B-tree row of PostgreSQL holds at most 2,704 bytes.
MAX_NODE_ID_BYTES: Final = 2_048
MAX_DATA_TYPE_BYTES: Final = 64
MAX_LOGIN_BYTES: Final = 1_024

POLICY_URI: Final = "http://opcfoundation.org/UA/SecurityPolicy#"
POLICIES: Final = (
    "None",
    "Basic128Rsa15",
    "Basic256",
    "Basic256Sha256",
    "Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss",
)

_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.IGNORECASE)
_NODE_ID = re.compile(r"(?:ns=(?P<namespace>\d{1,5});)?(?P<kind>[isgb])=(?P<identifier>.+)", re.DOTALL)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_text(field: str, text: str, max_bytes: int) -> str:
    """``text`` itself, if PostgreSQL can store it: valid Unicode without NUL, at most ``max_bytes`` in UTF-8."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidField(field, "is not valid Unicode text") from None
    if "\0" in text:
        raise InvalidField(field, "has a NUL character in it")
    if size > max_bytes:
        raise InvalidField(field, f"is longer than {max_bytes:,} bytes")
    return text


def parse_uuid(field: str, text: str) -> UUID:
    """An id in either case, with hyphens or without."""
    if not text:
        raise InvalidField(field, "is missing; a UUID is expected")
    if _UUID.fullmatch(text) is None:
        raise InvalidField(field, f"{_shown(text)} is not a UUID")
    return UUID(text)


def parse_endpoint(field: str, url: str) -> str:
    """An endpoint URL of the binary TCP mapping, ``opc.tcp://host[:port][/path]`` (OPC UA Part 6, 7.1)."""
    parse_text(field, url, MAX_URL_BYTES)
    if not url:
        raise InvalidField(field, "is missing; opc.tcp://host:port is expected")
    if _CONTROL.search(url) or " " in url:
        raise InvalidField(field, "has a space or control character in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidField(field, "has no valid host and port; opc.tcp://host:port is expected") from None
    if parts.scheme != "opc.tcp":
        raise InvalidField(field, "must start with opc.tcp://, the only transport that is spoken")
    if "@" in parts.netloc:
        raise InvalidField(field, "must hold no login; give it as username and password")
    if not parts.hostname:
        raise InvalidField(field, "names no host; opc.tcp://host:port is expected")
    if port == 0:
        raise InvalidField(field, "has port 0; 1 to 65535 is expected")
    return url


def parse_security(mode: str, policy: str) -> tuple[SecurityMode, str]:
    """Message security mode and the short name of the policy (OPC UA Part 4, 7.20; Part 7, 6.6).

    Empty means ``None``; case does not matter; a policy may be given as its URI. Names ``security_mode`` or
    ``security_policy`` in `InvalidField`, also where only one of the two is ``None``.
    """
    modes = {member.value.lower(): member for member in SecurityMode}
    found_mode = modes.get(mode.lower() or "none")
    if found_mode is None:
        raise InvalidField("security_mode", f"{_shown(mode)} is none of {', '.join(SecurityMode)}")
    policies = {name.lower(): name for name in POLICIES}
    found_policy = policies.get(_without_uri(policy).lower() or "none")
    if found_policy is None:
        raise InvalidField("security_policy", f"{_shown(policy)} is none of {', '.join(POLICIES)}")
    if found_mode is SecurityMode.NONE and found_policy != "None":
        raise InvalidField("security_mode", f"must be Sign or SignAndEncrypt with security_policy {found_policy}")
    if found_mode is not SecurityMode.NONE and found_policy == "None":
        raise InvalidField("security_policy", f"must name a policy with security_mode {found_mode}")
    return found_mode, found_policy


def parse_node_id(field: str, text: str) -> str:
    """A node id in text form, ``[ns=<index>;]<i|s|g|b>=<identifier>`` (OPC UA Part 6, 5.3.1.10), as it was given."""
    parse_text(field, text, MAX_NODE_ID_BYTES)
    match = _NODE_ID.fullmatch(text)
    if match is None:
        shown = f"{_shown(text)} is not a node id" if text else "is missing"
        raise InvalidField(field, f"{shown}; ns=2;s=Name or ns=2;i=1234 is expected")
    if int(match["namespace"] or 0) > 0xFFFF:
        raise InvalidField(field, "has a namespace index over 65535")
    identifier = match["identifier"]
    match match["kind"]:
        case "i" if not (identifier.isascii() and identifier.isdigit() and int(identifier[:11]) <= 0xFFFFFFFF):
            raise InvalidField(field, "has a numeric identifier that is not between 0 and 4294967295")
        case "g" if _UUID.fullmatch(identifier) is None:
            raise InvalidField(field, "has a GUID identifier that is not a UUID")
        case "b" if _BASE64.fullmatch(identifier) is None:
            raise InvalidField(field, "has an opaque identifier that is not base64")
    return text


def parse_data_type(field: str, text: str) -> str:
    """Free text that tells people what a tag holds; what arrives is decoded by its own type."""
    return parse_text(field, text, MAX_DATA_TYPE_BYTES)


def _without_uri(policy: str) -> str:
    return policy[len(POLICY_URI) :] if policy.lower().startswith(POLICY_URI.lower()) else policy


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
