"""An asyncua server, steered as control.py says: ``python -m tests.devices.asyncua_device '{"port": 4840}'``."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.user_managers import UserManager

from tests.devices.control import FIELD, WELLS, answer, options

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Users(UserManager):  # type: ignore[misc]
    """Names, passwords and certificates out of the options."""

    def __init__(self, users: dict[str, str], certificates: list[str]) -> None:
        self.users = users
        self.certificates = [Path(path).read_bytes() for path in certificates]

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        if username in self.users and self.users[username] == password:
            return User(role=UserRole.User)
        if username is None and certificate in self.certificates:
            return User(role=UserRole.User)
        return None


def node_id(text: str) -> Any:
    return ua.NodeId.from_string(text)


def data_value(command: dict[str, Any]) -> Any:
    kind = ua.VariantType[command["type"]]
    value = command["value"]
    variant = ua.Variant(None, ua.VariantType.Null) if value is None else ua.Variant(value, kind)
    source_us = command.get("source_us")
    source = None if source_us is None else (EPOCH + timedelta(microseconds=source_us)).replace(tzinfo=None)
    return ua.DataValue(
        variant,
        StatusCode=ua.StatusCode(command.get("status", 0)),
        SourceTimestamp=source,
        ServerTimestamp=datetime.now(UTC).replace(tzinfo=None),
    )


async def add(server: Any, node: str, kind: str, limits: list[float] | None = None) -> None:
    value = {"Boolean": False, "String": ""}.get(kind, 0)
    if kind in ("Float", "Double"):
        value = 0.0
    variable = await server.nodes.objects.add_variable(
        node_id(node), f"1:{node}", ua.Variant(value, ua.VariantType[kind]), datatype=ua.NodeId(24)
    )
    if limits is not None:
        await variable.add_property(node_id(f"{node}.EURange"), "0:EURange", ua.Range(*limits))


async def add_field(server: Any) -> None:
    """The folders of `FIELD`."""
    field = await server.nodes.objects.add_folder(node_id("ns=1;s=Field"), "1:Field")
    for well in WELLS:
        folder = await field.add_folder(node_id(f"ns=1;s={well}"), f"1:{well}")
        await folder.add_reference(field, ua.NodeId(ua.ObjectIds.HasComponent), bidirectional=False)
        for tag in FIELD:
            name = f"ns=1;s={well}.{tag['name']}"
            kind = ua.VariantType[tag["type"]]
            variable = await folder.add_variable(
                node_id(name), f"1:{tag['name']}", ua.Variant(tag["value"], kind), datatype=ua.NodeId(kind.value)
            )
            for attribute in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel):
                level = ua.DataValue(ua.Variant(tag.get("access", 1), ua.VariantType.Byte))
                await variable.write_attribute(attribute, level)
            if "unit" in tag:
                unit = ua.EUInformation(DisplayName=ua.LocalizedText(tag["unit"]))
                await variable.add_property(node_id(f"{name}.EngineeringUnits"), "0:EngineeringUnits", unit)
                await variable.add_property(node_id(f"{name}.EURange"), "0:EURange", ua.Range(*tag["range"]))


async def main() -> None:
    wanted = options()
    known = bool(wanted["users"] or wanted["user_certificates"])
    server = Server(user_manager=Users(wanted["users"], wanted["user_certificates"]) if known else None)
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{wanted['port']}")
    policies = [ua.SecurityPolicyType.NoSecurity]
    if wanted["certificate"]:
        await server.load_certificate(wanted["certificate"])
        await server.load_private_key(wanted["key"])
        policies += sorted(ua.SecurityPolicyType, reverse=True)[:-1]  # the best first: passwords go by it
    if wanted["uri"]:
        await server.set_application_uri(wanted["uri"])
    server.set_security_policy(policies, permission_ruleset=SimpleRoleRuleset() if known else None)
    if known:
        server.set_identity_tokens([ua.UserNameIdentityToken, ua.X509IdentityToken])
    for name in wanted["nodes"]:
        await add(server, f"ns=1;s={name}", "Double")
    if wanted["field"]:
        await add_field(server)
    async with server:
        answer(ready=True)
        await obey(server)


async def obey(server: Any) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        if command["op"] == "add":
            await add(server, command["node"], command["type"], command.get("range"))
        else:
            await server.write_attribute_value(node_id(command["node"]), data_value(command))
        answer(ok=True)


logging.disable(logging.CRITICAL)
asyncio.run(main())
