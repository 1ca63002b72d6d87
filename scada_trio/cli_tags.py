"""The commands that look at devices and choose tags, ``browse``, ``import`` and ``connection test``; their options.

Registered by `cli`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import typer

from scada_trio.cli_run import read_password, run_command
from scada_trio.errors import InvalidField
from scada_trio.nodes import BrowseOrder, BrowseQuery, NodeClass, parse_query
from scada_trio.terminal import out


class NodeClassName(StrEnum):
    """Classes of nodes as they are typed."""

    OBJECT = "object"
    VARIABLE = "variable"
    METHOD = "method"
    VIEW = "view"


PathOption = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="GLOB",
        help="'Field/*/Pressure', '**/Pump*/**'; without a slash of the name alone. May be repeated.",
    ),
]
StartOption = Annotated[str, typer.Option("--start", metavar="NODE", help="Node whose children come first; Objects.")]
DepthOption = Annotated[int, typer.Option("--depth", min=0, help="Levels below the start; 0 is all.")]
TypeOption = Annotated[
    list[str] | None, typer.Option("--type", metavar="NAME", help="Data type, Double say. May be repeated.")
]
NamespaceOption = Annotated[
    list[int] | None, typer.Option("--namespace", min=0, max=0xFFFF, help="Index of a namespace. May be repeated.")
]
ServerOption = Annotated[bool, typer.Option("--server", help="Also what is below the Server object.")]
PropertiesOption = Annotated[bool, typer.Option("--properties", help="Also properties of nodes.")]
MaxNodesOption = Annotated[int, typer.Option(min=1, help="Look at so many nodes at most.")]
SecurityModeOption = Annotated[str, typer.Option(help="None, Sign or SignAndEncrypt; of an endpoint.")]
SecurityPolicyOption = Annotated[str, typer.Option(help="None, Basic256Sha256, ...; of an endpoint.")]
UsernameOption = Annotated[str | None, typer.Option(help="User of an endpoint; anonymous if left out.")]
PasswordOption = Annotated[
    Path | None, typer.Option(help="File with the password; left out, it is asked for or read from stdin.")
]
TenantOption = Annotated[str | None, typer.Option(help="Name or id of the tenant, where a name alone is not enough.")]
WellOption = Annotated[UUID | None, typer.Option("--well", help="Id of the well that all tags belong to.")]
WellFromOption = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Where the well's name is in a path: 'Field/(?P<well>[^/]+)/'. Other nodes are left out.",
    ),
]
WellMapOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns name and well_id, for the names that --well-from finds.")
]
NewWellsOption = Annotated[
    bool, typer.Option("--new-wells", help="Make an id of tenant and name where --well-map has none; always the same.")
]


def browse(
    target: Annotated[str, typer.Argument(metavar="ENDPOINT|CONNECTION", help="opc.tcp://..., or name or id.")],
    path: PathOption = None,
    start: StartOption = "",
    depth: DepthOption = 0,
    node_class: Annotated[
        list[NodeClassName] | None, typer.Option("--class", help="Class of node. May be repeated.")
    ] = None,
    data_type: TypeOption = None,
    namespace: NamespaceOption = None,
    storable: Annotated[bool, typer.Option("--storable", help="Only what can be a tag.")] = False,
    values: Annotated[bool, typer.Option("--values", help="Read current values and their status.")] = False,
    breadth: Annotated[bool, typer.Option("--breadth", help="Level by level, instead of branch by branch.")] = False,
    server: ServerOption = False,
    properties: PropertiesOption = False,
    max_nodes: MaxNodesOption = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    as_tags: Annotated[bool, typer.Option("--tags", help="A tag file, of what can be a tag.")] = False,
    well: WellOption = None,
    well_from: WellFromOption = None,
    well_map: WellMapOption = None,
    new_wells: NewWellsOption = False,
    tenant: TenantOption = None,
    security_mode: SecurityModeOption = "None",
    security_policy: SecurityPolicyOption = "None",
    username: UsernameOption = None,
    password_file: PasswordOption = None,
) -> None:
    """List what a device has: a tree, or rows as --json, --csv or --tags."""
    from scada_trio.commands.browse import browse as command
    from scada_trio.commands.targets import Target
    from scada_trio.wells import WellRule

    query = _query(
        path,
        start,
        depth,
        [NodeClass(name.capitalize()) for name in node_class or ()],
        data_type,
        namespace,
        storable=storable or as_tags,
        server=server,
        properties=properties,
        values=values,
        order=BrowseOrder.BREADTH if breadth else BrowseOrder.DEPTH,
        max_nodes=max_nodes,
    )
    if new_wells and "://" in target:
        raise InvalidField("--new-wells", "needs a stored connection, since the ids are those of a tenant's wells")
    password = read_password(password_file) if username else None
    run_command(
        command,
        Target(target, tenant, security_mode, security_policy, username, password),
        query,
        _form(as_json=as_json, as_csv=as_csv, as_tags=as_tags),
        WellRule.parse(well, well_from, well_map, new_wells=new_wells),
    )


def import_tags(
    connection: Annotated[
        str,
        typer.Argument(
            metavar="CONNECTION|ENDPOINT",
            help="Name or id of a connection; or opc.tcp://... of one that is stored if it is not yet.",
        ),
    ],
    tags: Annotated[
        Path | None, typer.Option(help="Take the tags of this file, see connection add; else the device is browsed.")
    ] = None,
    path: PathOption = None,
    start: StartOption = "",
    depth: DepthOption = 0,
    data_type: TypeOption = None,
    namespace: NamespaceOption = None,
    server: ServerOption = False,
    properties: PropertiesOption = False,
    max_nodes: MaxNodesOption = 1_000_000,
    well: WellOption = None,
    well_from: WellFromOption = None,
    well_map: WellMapOption = None,
    new_wells: NewWellsOption = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the connection's tags that were not found.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Store the changes; without it they are only shown.")] = False,
    tenant: TenantOption = None,
    name: Annotated[str, typer.Option(help="A name for people, of a connection that is new.")] = "",
    security_mode: SecurityModeOption = "None",
    security_policy: SecurityPolicyOption = "None",
    username: UsernameOption = None,
    password_file: PasswordOption = None,
) -> None:
    """Make tags of a connection out of what its device has, or out of a file; a running service follows at once."""
    from scada_trio.commands.imports import import_tags as command
    from scada_trio.commands.targets import Target
    from scada_trio.wells import WellRule

    query = _query(
        path,
        start,
        depth,
        [NodeClass.VARIABLE],
        data_type,
        namespace,
        storable=False,
        server=server,
        properties=properties,
        max_nodes=max_nodes,
    )
    rule = WellRule.parse(well, well_from, well_map, new_wells=new_wells)
    if tags is None and rule is None:
        raise InvalidField("--well", "give the well of the tags, or --well-from")
    if tags is not None and rule is not None:
        raise InvalidField("--well", "a tag file says itself which wells its tags belong to")
    password = read_password(password_file) if username else None
    target = Target(connection, tenant, security_mode, security_policy, username, password, name)
    run_command(command, out, target, query, rule, tag_file=tags, prune=prune, apply=apply)


def try_connection(
    target: Annotated[str, typer.Argument(metavar="CONNECTION|ENDPOINT", help="Name or id, or opc.tcp://...")],
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Node to read; without, some of the connection's tags.")
    ] = None,
    tenant: TenantOption = None,
    security_mode: SecurityModeOption = "None",
    security_policy: SecurityPolicyOption = "None",
    username: UsernameOption = None,
    password_file: PasswordOption = None,
) -> None:
    """Try a device step by step: reached, endpoints, certificate, login, read; exit status 1 where one fails."""
    from scada_trio.commands.targets import Target
    from scada_trio.commands.trial import try_connection as command

    password = read_password(password_file) if username else None
    run_command(
        command, out, Target(target, tenant, security_mode, security_policy, username, password), tuple(node or ())
    )


def _form(*, as_json: bool, as_csv: bool, as_tags: bool) -> Literal["tree", "json", "csv", "tags"]:
    if as_json + as_csv + as_tags > 1:
        raise InvalidField("--json", "give one of --json, --csv and --tags")
    return "json" if as_json else "csv" if as_csv else "tags" if as_tags else "tree"


def _query(
    paths: list[str] | None,
    start: str,
    depth: int,
    node_classes: list[NodeClass],
    data_types: list[str] | None,
    namespaces: list[int] | None,
    *,
    storable: bool,
    server: bool,
    properties: bool,
    max_nodes: int,
    values: bool = False,
    order: BrowseOrder = BrowseOrder.DEPTH,
) -> BrowseQuery:
    return parse_query(
        start=start,
        order=order,
        max_depth=depth,
        paths=paths or (),
        node_classes=node_classes,
        data_types=data_types or (),
        namespaces=namespaces or (),
        storable_only=storable,
        include_server=server or start == "i=2253",
        include_properties=properties,
        values=values,
        max_nodes=max_nodes,
        prefix="--",
    )
