"""An open62541 server (o6), steered as control.py says: ``python -m tests.devices.o6_device '{"port": 4840}'``."""

import json
import logging
import sys
from typing import Any

import o6
from o6.ns.ns0 import datatypes

from tests.devices.control import FIELD, WELLS, answer, options

EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in 100 ns since 1601; a datetime goes through a float here


class Users(o6.AccessControl):  # type: ignore[misc]
    """Name and password out of the options."""

    def __init__(self, users: dict[str, str]) -> None:
        super().__init__(anonymous=False, username=True)
        self.users = users

    def activateSession(self, endpoint: Any, remoteCertificate: bytes, session: Any, userIdentityToken: Any) -> Any:
        if isinstance(userIdentityToken, datatypes.UserNameIdentityToken):
            password = self.users.get(str(userIdentityToken.userName))
            if password is not None and bytes(userIdentityToken.password) == password.encode():
                return str(userIdentityToken.userName)  # subscriptions may move between sessions of the same one
        raise o6.StatusCodeError(o6.StatusCode.BAD_USER_ACCESS_DENIED)


def write(server: Any, command: dict[str, Any]) -> None:
    value = command["value"]
    fields: dict[str, Any] = {
        "value": None if value is None else getattr(o6, command["type"])(value),
        "status": o6.StatusCode(command.get("status", 0)),
    }
    if command.get("source_us") is not None:
        fields["sourceTimestamp"] = o6.DateTime(command["source_us"] * 10 + EPOCH_TICKS)
    result = server.write(command["node"], o6.DataValue(**fields))
    if result != o6.StatusCode.GOOD:
        raise ValueError(f"{command}: {result!r}")


def add(server: Any, node: str, kind: str, limits: list[float] | None = None) -> None:
    server.addVariable(node, server.objectsNode, getattr(o6, kind)(), nodeId=node, dataType="i=24")
    if limits is not None:
        value = datatypes.Range(low=limits[0], high=limits[1])
        property_of = {"parentReference": "i=46", "typeDefinition": "i=68", "dataType": "i=884"}
        server.addVariable("EURange", node, value, nodeId=f"{node}.EURange", ns=0, **property_of)


def add_field(server: Any) -> None:
    """The folders of `FIELD`."""
    folder_type = {"typeDefinition": "i=61"}
    server.addObject("Field", server.objectsNode, nodeId="ns=1;s=Field", **folder_type)
    for well in WELLS:
        folder = f"ns=1;s={well}"
        server.addObject(well, "ns=1;s=Field", nodeId=folder, **folder_type)
        server.addReference(folder, "i=47", "ns=1;s=Field")
        for tag in FIELD:
            node = f"{folder}.{tag['name']}"
            kind = getattr(o6, tag["type"])
            value = tag["value"]
            made = [kind(element) for element in value] if isinstance(value, list) else kind(value)
            server.addVariable(tag["name"], folder, made, nodeId=node)
            server.write(node, o6.Byte(tag.get("access", 1)), attr=o6.AttributeId.ACCESS_LEVEL)
            if "unit" in tag:
                property_of = {"parentReference": "i=46", "typeDefinition": "i=68"}
                unit = datatypes.EUInformation(displayName=o6.LocalizedText(tag["unit"]))
                limits = datatypes.Range(low=tag["range"][0], high=tag["range"][1])
                for name, held, kind_id in (("EngineeringUnits", unit, "i=887"), ("EURange", limits, "i=884")):
                    server.addVariable(name, node, held, nodeId=f"{node}.{name}", ns=0, dataType=kind_id, **property_of)


def main() -> None:
    wanted = options()
    # Without an access control it refuses to transfer subscriptions; this one allows it to the same user.
    access = Users(wanted["users"]) if wanted["users"] else o6.AccessControl()
    server = o6.Server(
        port=wanted["port"],
        accessControl=access,
        certificate=wanted["certificate"],
        privateKey=wanted["key"],
        applicationUri=wanted["uri"],
        trustList=wanted["trusted"] or None,
        revocationList=wanted["revocation_lists"] or None,
        acceptAllCertificates=bool(wanted["certificate"]) and not wanted["trusted"],
        allowNonePolicyPassword=bool(wanted["users"]),
    )
    with server:
        for name in wanted["nodes"]:
            server.addVariable(name, server.objectsNode, o6.Double(0.0), nodeId=f"ns=1;s={name}", dataType="i=24")
        if wanted["field"]:
            add_field(server)
        answer(ready=True)
        for line in sys.stdin:
            command = json.loads(line)
            if command["op"] == "add":
                add(server, command["node"], command["type"], command.get("range"))
            else:
                write(server, command)
            answer(ok=True)


logging.disable(logging.CRITICAL)
main()
