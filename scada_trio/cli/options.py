"""Options that several commands have, each declared once.

A group of options is an `OptionGroup`: a command that takes one as a parameter, below `with_groups`, has its fields as
options and gets them together. In the command's help they stand together, too, under the group's ``PANEL``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_type_hints
from uuid import UUID

import typer
from rich.markup import escape

from scada_trio.cli.completion import complete_tenant
from scada_trio.cli.run import read_password
from scada_trio.errors import InvalidField

if TYPE_CHECKING:
    from pydantic import SecretStr

    from scada_trio.commands.targets import Target
    from scada_trio.nodes import BrowseQuery
    from scada_trio.wells import WellRule


class OutputFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


TenantOption = Annotated[
    str, typer.Option("--tenant", help="Name or id of the tenant.", autocompletion=complete_tenant)
]
AnyTenantOption = Annotated[
    str | None,
    typer.Option("--tenant", help="Name or id of the tenant; all if left out.", autocompletion=complete_tenant),
]
OwnerOption = Annotated[
    str | None,
    typer.Option(
        "--tenant", help="Name or id of the tenant, where a name alone is not enough.", autocompletion=complete_tenant
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON alone on standard output, an object a line.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many, the newest.")]
FormatOption = Annotated[OutputFormat, typer.Option("--format", help="How to print.")]


def examples(*lines: str) -> str:
    """The end of a command's help: lines that can be typed as they are, each in a line of its own."""
    shown = [escape(line) for line in lines]
    return "\n\n".join(["Example:" if len(lines) == 1 else "Examples:", *shown])


def form_of(output: OutputFormat, as_json: bool) -> Literal["table", "csv", "json"]:
    """How rows are printed. Raises `InvalidField` where both options say something, and not the same."""
    if as_json and output is OutputFormat.CSV:
        raise InvalidField("--json", "give one of --json and --format csv")
    return "json" if as_json else output.value


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionGroup:
    """Options that belong together; each field is one, ``Annotated`` with its ``typer.Option``."""

    PANEL: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions(OptionGroup):
    """How a session with a device is secured, and as whom it is opened."""

    PANEL: ClassVar[str] = "Security and login"

    security_mode: Annotated[str, typer.Option(help="None, Sign or SignAndEncrypt.")] = "None"
    security_policy: Annotated[str, typer.Option(help="None, Basic256Sha256, ...")] = "None"
    username: Annotated[str | None, typer.Option(help="User of the device; anonymous if left out.")] = None
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; left out, it is asked for or read from stdin.")
    ] = None

    def password(self) -> SecretStr | None:
        """The password, where there is a user, out of the file or from whoever is asked. Raises `InvalidField`."""
        return read_password(self.password_file) if self.username else None

    def target(self, where: str, tenant: str | None, name: str = "") -> Target:
        """The device at ``where``: these options, where it is an endpoint, are those of its session."""
        from scada_trio.commands.targets import Target

        password = self.password()
        return Target(where, tenant, self.security_mode, self.security_policy, self.username, password, name)


_NODE_OPTIONS = {
    "paths": "--path",
    "data_types": "--type",
    "max_depth": "--depth",
    "namespaces": "--namespace",
    "node_classes": "--class",
    "max_nodes": "--max-nodes",
}
"""Arguments of a query by the options that they come from, where those are called otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions(OptionGroup):
    """Which nodes of a device are looked for."""

    PANEL: ClassVar[str] = "Which nodes"

    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="GLOB",
            help="'Field/*/Pressure', '**/Pump*/**'; without a slash of the name alone. May be repeated.",
        ),
    ] = None
    start: Annotated[str, typer.Option(metavar="NODE", help="Node whose children come first; Objects.")] = ""
    depth: Annotated[int, typer.Option(min=0, help="Levels below the start; 0 is all.")] = 0
    data_type: Annotated[
        list[str] | None, typer.Option("--type", metavar="NAME", help="Data type, Double say. May be repeated.")
    ] = None
    namespace: Annotated[
        list[int] | None, typer.Option(min=0, max=0xFFFF, help="Index of a namespace. May be repeated.")
    ] = None
    server: Annotated[bool, typer.Option("--server", help="Also what is below the Server object.")] = False
    properties: Annotated[bool, typer.Option("--properties", help="Also properties of nodes.")] = False
    max_nodes: Annotated[int, typer.Option(min=1, help="Look at so many nodes at most.")] = 1_000_000

    def query(self, node_classes: list[str], *, storable: bool, values: bool = False, order: str = "") -> BrowseQuery:
        """What is looked for; classes and order as OPC UA and `BrowseOrder` name them. Raises `InvalidField`."""
        from scada_trio.nodes import parse_query

        try:
            return parse_query(
                start=self.start,
                order=order,
                max_depth=self.depth,
                paths=self.path or (),
                node_classes=node_classes,
                data_types=self.data_type or (),
                namespaces=self.namespace or (),
                storable_only=storable,
                include_server=self.server or self.start == "i=2253",
                include_properties=self.properties,
                values=values,
                max_nodes=self.max_nodes,
            )
        except InvalidField as error:
            raise InvalidField(_NODE_OPTIONS.get(error.field, f"--{error.field}"), error.reason) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class WellOptions(OptionGroup):
    """Which well a node belongs to."""

    PANEL: ClassVar[str] = "Which well"

    well: Annotated[UUID | None, typer.Option(help="Id of the well that all tags belong to.")] = None
    well_from: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Where the well's name is in a path: 'Field/(?P<well>[^/]+)/'. Other nodes are left out.",
        ),
    ] = None
    well_map: Annotated[
        Path | None, typer.Option(help="CSV with the columns name and well_id, for the names that --well-from finds.")
    ] = None
    new_wells: Annotated[
        bool,
        typer.Option("--new-wells", help="Make an id of tenant and name where --well-map has none; always the same."),
    ] = False

    def rule(self) -> WellRule | None:
        """The rule; None where neither a well nor a pattern is given. Raises `InvalidField`."""
        from scada_trio.wells import WellRule

        return WellRule.parse(self.well, self.well_from, self.well_map, new_wells=self.new_wells)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` for typer: in place of each parameter that is a group, the options that the group has."""
    groups: dict[str, type[OptionGroup]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not isinstance(group, type) or not issubclass(group, OptionGroup):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = group
        parameters += _parameters_of(group)

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameters_of(group: type[OptionGroup]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = group.PANEL
        declared: Any = Annotated[kind, option]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=declared)
