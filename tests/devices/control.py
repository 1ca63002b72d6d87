"""How a test steers a server that it started: one JSON command a line on stdin, one JSON answer a line on stdout.

The first line that a server prints is ``{"ready": true}``. Options come as one JSON argument: ``port``; ``nodes``,
names of Double variables ``ns=1;s=<name>``; ``users``, name to password, none means anonymous; ``certificate`` and
``key``, paths, and ``uri``, the application URI: with them it offers every policy that it knows, in both modes, else
None alone; ``user_certificates``, paths of those who may log in with theirs; ``trusted``, paths of the clients'
certificates and of authorities that it accepts, none means every one; ``revocation_lists`` of these, paths, open62541
alone; ``items_a_call``; ``field``, `FIELD_OPTION` for its folders;
``limits``, node-opcua alone: its OperationLimits. Commands: ``{"op":
"write", "node", "type", "value", "status", "source_us"}`` (value null: none; source_us null: no source timestamp) and
``{"op": "add", "node", "type"}``, with ``"range": [low, high]`` for a variable that has an EURange. node-opcua also
answers ``{"op": "items"}``: what its monitored items are, by node.
"""

import json
import sys
from typing import Any

FIELD: list[dict[str, Any]] = [
    {"name": "Pressure", "type": "Double", "value": 12.5, "unit": "psi", "range": [0.0, 500.0]},
    {"name": "Running", "type": "Boolean", "value": True},
    {"name": "Count", "type": "UInt32", "value": 7},
    {"name": "Model", "type": "String", "value": "PX-1"},
    {"name": "Profile", "type": "Double", "value": [1.0, 2.0]},
    {"name": "Command", "type": "Double", "value": 0.0, "access": 2},
]
"""What each of the wells ``ns=1;s=Well-1`` and ``Well-2`` has, ``ns=1;s=Well-1.Pressure`` and so on, in this order.

Both are below ``Field`` (``ns=1;s=Field``), and each well has Field as a component: a loop.
"""
WELLS = ("Well-1", "Well-2")
FIELD_OPTION = {"wells": WELLS, "tags": FIELD}


def options() -> dict[str, Any]:
    """The options of this server."""
    given: dict[str, Any] = {"nodes": [], "users": {}, "certificate": None, "key": None, "items_a_call": None}
    given |= {"field": None, "uri": None, "user_certificates": [], "trusted": [], "revocation_lists": []}
    given.update(json.loads(sys.argv[1]))
    return given


def answer(**fields: object) -> None:
    """Print one answer."""
    print(json.dumps(fields), flush=True)
