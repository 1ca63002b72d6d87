"""Looking at devices and choosing tags: ``browse``, ``import``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from scada_trio.cli.completion import complete_connection
from scada_trio.cli.options import JsonOption, LoginOptions, NodeOptions, OwnerOption, WellOptions, with_groups
from scada_trio.cli.run import run_command
from scada_trio.errors import InvalidField
from scada_trio.terminal import out


class NodeClassName(StrEnum):
    """Classes of nodes as they are typed."""

    OBJECT = "object"
    VARIABLE = "variable"
    METHOD = "method"
    VIEW = "view"


@with_groups
def browse(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT|CONNECTION", help="opc.tcp://..., or name or id.", autocompletion=complete_connection
        ),
    ],
    nodes: NodeOptions,
    wells: WellOptions,
    login: LoginOptions,
    node_class: Annotated[
        list[NodeClassName] | None, typer.Option("--class", help="Class of node. May be repeated.")
    ] = None,
    storable: Annotated[bool, typer.Option("--storable", help="Only what can be a tag.")] = False,
    values: Annotated[bool, typer.Option("--values", help="Read current values and their status.")] = False,
    breadth: Annotated[bool, typer.Option("--breadth", help="Level by level, instead of branch by branch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    as_tags: Annotated[bool, typer.Option("--tags", help="A tag file, of what can be a tag.")] = False,
    tenant: OwnerOption = None,
) -> None:
    """List what a device has: a tree, or rows as --json, --csv or --tags.

    The options of security and login are those of an endpoint; a stored connection has its own.
    """
    from scada_trio.commands.browse import browse as command

    query = nodes.query(
        [name.capitalize() for name in node_class or ()],
        storable=storable or as_tags,
        values=values,
        order="breadth" if breadth else "depth",
    )
    if wells.new_wells and "://" in target:
        raise InvalidField("--new-wells", "needs a stored connection, since the ids are those of a tenant's wells")
    form = _form(as_json=as_json, as_csv=as_csv, as_tags=as_tags)
    run_command(command, login.target(target, tenant), query, form, wells.rule())


@with_groups
def import_tags(
    connection: Annotated[
        str,
        typer.Argument(
            metavar="CONNECTION|ENDPOINT",
            help="Name or id of a connection; or opc.tcp://... of one that is stored if it is not yet.",
            autocompletion=complete_connection,
        ),
    ],
    nodes: NodeOptions,
    wells: WellOptions,
    login: LoginOptions,
    tags: Annotated[
        Path | None, typer.Option(help="Take the tags of this file, see connection add; else the device is browsed.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the connection's tags that were not found.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Store the changes; without it they are only shown.")] = False,
    tenant: OwnerOption = None,
    name: Annotated[str, typer.Option(help="A name for people, of a connection that is new.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make tags of a connection out of what its device has, or out of a file; a running service follows at once.

    The options of security and login are those of an endpoint; a stored connection has its own.
    """
    from scada_trio.commands.imports import import_tags as command

    query = nodes.query(["Variable"], storable=False)
    rule = wells.rule()
    if tags is None and rule is None:
        raise InvalidField("--well", "give the well of the tags, or --well-from")
    if tags is not None and rule is not None:
        raise InvalidField("--well", "a tag file says itself which wells its tags belong to")
    target = login.target(connection, tenant, name)
    run_command(command, out, target, query, rule, tag_file=tags, prune=prune, apply=apply, as_json=as_json)


def _form(*, as_json: bool, as_csv: bool, as_tags: bool) -> Literal["tree", "json", "csv", "tags"]:
    if as_json + as_csv + as_tags > 1:
        raise InvalidField("--json", "give one of --json, --csv and --tags")
    return "json" if as_json else "csv" if as_csv else "tags" if as_tags else "tree"
