"""How a test steers a server that it started: one JSON command a line on stdin, one JSON answer a line on stdout.

The first line that a server prints is ``{"ready": true}``. Options come as one JSON argument: ``port``; ``nodes``,
names of Double variables ``ns=1;s=<name>``; ``users``, name to password, none means anonymous; ``certificate`` and
``key``, paths, and ``uri``, the application URI: with them it offers every policy that it knows, in both modes, else
None alone; ``user_certificates``, paths of those who may log in with theirs; ``trusted``, paths of the clients'
certificates that it accepts, none means every one; ``items_a_call``. Commands: ``{"op": "write", "node", "type",
"value", "status", "source_us"}`` (value null: none; source_us null: no source timestamp) and ``{"op": "add", "node",
"type"}``, with ``"range": [low, high]`` for a variable that has an EURange. node-opcua also answers
``{"op": "items"}``: what its monitored items are, by node.
"""

import json
import sys
from typing import Any


def options() -> dict[str, Any]:
    """The options of this server."""
    given: dict[str, Any] = {"nodes": [], "users": {}, "certificate": None, "key": None, "items_a_call": None}
    given |= {"uri": None, "user_certificates": [], "trusted": []}
    given.update(json.loads(sys.argv[1]))
    return given


def answer(**fields: object) -> None:
    """Print one answer."""
    print(json.dumps(fields), flush=True)
