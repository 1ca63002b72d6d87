"""Load: ``simulate``, ``loadtest``."""

from __future__ import annotations

import importlib.util
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scada_trio.cli.run import load_settings
from scada_trio.errors import ConfigError, InvalidField
from scada_trio.terminal import out

if TYPE_CHECKING:
    from scada_trio.simulator.field import FaultRates


class LoadMode(StrEnum):
    """The loads that the service is promised for."""

    NORMAL = "normal"
    PEAK = "peak"
    STRESS = "stress"


class PictureFormat(StrEnum):
    """How a load test is drawn."""

    SVG = "svg"
    PNG = "png"


ModeOption = Annotated[LoadMode, typer.Option(help="50, 200 or 1,000 wells of 10 tags at 1 Hz.")]
WellsOption = Annotated[
    int | None, typer.Option("--wells", "--connections", min=1, max=5_000, help="Endpoints, instead of the mode's.")
]
TagsOption = Annotated[int | None, typer.Option(min=1, max=10_000, help="Tags of each, instead of 10.")]
RateOption = Annotated[
    float | None, typer.Option(min=0.001, max=100, help="Values of a tag in a second, instead of 1.")
]
BadOption = Annotated[float, typer.Option(min=0, max=0.9, help="Part of the values that are Bad, in episodes.")]
UncertainOption = Annotated[float, typer.Option(min=0, max=0.9, help="Part of the values that are Uncertain.")]
OutagesOption = Annotated[float, typer.Option(min=0, help="How often each well loses its power, for ten seconds.")]


def simulate(
    mode: ModeOption = LoadMode.NORMAL,
    wells: WellsOption = None,
    tags: TagsOption = None,
    rate: RateOption = None,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds; until Ctrl-C if left out.")] = None,
    bad: BadOption = 0.0005,
    uncertain: UncertainOption = 0.002,
    outages_per_hour: OutagesOption = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same wells.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    base_port: Annotated[
        int, typer.Option(min=0, max=32_767, help="Port of the first well, the others follow; 0 takes free ones.")
    ] = 0,
    advertise: Annotated[
        str | None, typer.Option(help="Host name in the endpoints' addresses; that of --host if left out.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Store the wells as connections of this tenant, which is made where there is none."),
    ] = None,
    record: Annotated[Path | None, typer.Option(help="File for what was sent, by well and time.")] = None,
) -> None:
    """Wells as OPC UA servers, an endpoint each, in a process of their own.

    normal, peak and stress are 50, 200 and 1,000 wells of 10 tags at 1 Hz. Pressures, temperatures, flows, a level, a
    motor current and a vibration switch move as those of real wells do, with sensors that fail. Piped, standard output
    has a line of JSON for each well, with its endpoint and node ids.
    """
    import trio

    from scada_trio.commands.simulate import Place, Reader
    from scada_trio.commands.simulate import simulate as command
    from scada_trio.listening import reached_at
    from scada_trio.loadtest.load import Mode, load_of

    if base_port and base_port + (wells or 1_000) > 32_768:
        raise InvalidField("--base-port", "ports from 32768 on are the system's own: take a lower one")
    rates = _fault_rates(bad, uncertain, outages_per_hour)
    load = load_of(Mode(mode), wells=wells, tags=tags, rate_hz=rate, rates=rates, seed=seed)
    if advertise is None and reached_at(host) != host:
        if tenant is not None:
            raise InvalidField("--advertise", f"is needed: a service does not find wells at {host}")
        advertise = reached_at(host)
    reader = None if tenant is None else Reader(tenant, load_settings())
    place = Place(host, base_port, advertise)
    trio.run(partial(command, out, load, place, record=record, duration_s=duration, reader=reader))


def loadtest(
    mode: ModeOption = LoadMode.NORMAL,
    wells: WellsOption = None,
    tags: TagsOption = None,
    rate: RateOption = None,
    duration: Annotated[float, typer.Option(min=1, help="Seconds that are measured.")] = 60.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds before that, all wells connected.")] = 10.0,
    tenants: Annotated[int, typer.Option(min=1, max=1_000, help="Databases that the wells are divided among.")] = 1,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="LOADTEST_DATABASE_URL",
            help="postgresql:// URL of a server whose login may create databases; the test makes its own there and "
            "drops them. An embedded PostgreSQL if left out.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Directory for the report and the picture.")] = Path("loadtest-results"),
    picture: Annotated[PictureFormat, typer.Option(help="Format of the picture.")] = PictureFormat.SVG,
    work_dir: Annotated[
        Path | None, typer.Option(help="Directory for journals, logs and the embedded database; stays afterwards.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave databases and files behind.")] = False,
    late: Annotated[float, typer.Option(min=0.1, help="Seconds after which a reading counts as late.")] = 15.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 where our own aims are missed, too.")] = False,
    bad: BadOption = 0.0005,
    uncertain: UncertainOption = 0.002,
    outages_per_hour: OutagesOption = 0.0,
) -> None:
    """Simulated wells, a database and the service as a process of its own; figures, and whether they are as promised.

    normal, peak and stress are 50, 200 and 1,000 wells of 10 tags at 1 Hz: 500, 2,000 and 10,000 tags/s. For how much
    it takes at most, few connections with many tags: --connections 10 --tags 1000 --rate 10 offers 100,000 tags/s.

    Every value that a well sends is looked for in the database afterwards, with its time, so the count of what was
    lost, duplicated, changed or late is exact. The environment configures the service as always, but for databases and
    ports.

    Exit status 0: everything promised holds; 1: it does not, or the test could not be carried out.
    """
    import trio
    from pydantic import SecretStr

    from scada_trio.loadtest.load import Mode, load_of
    from scada_trio.logs import configure_logging

    if not all(importlib.util.find_spec(name) for name in ("psutil", "matplotlib")):
        raise ConfigError("loadtest", "needs extra packages: pip install 'scada-trio[loadtest]'")
    from scada_trio.commands.loadtest import Wanted
    from scada_trio.commands.loadtest import loadtest as command

    load = load_of(
        Mode(mode),
        wells=wells,
        tags=tags,
        rate_hz=rate,
        duration_s=duration,
        warmup_s=warmup,
        tenants=tenants,
        rates=_fault_rates(bad, uncertain, outages_per_hour),
    )
    url = None if database_url is None else SecretStr(database_url)
    wanted = Wanted(output, picture.value, url, work_dir, keep, late, strict)
    configure_logging("WARNING", "console", sys.stderr)
    if not trio.run(partial(command, out, load, wanted)):
        raise typer.Exit(1)


def _fault_rates(bad: float, uncertain: float, outages_per_hour: float) -> FaultRates:
    from scada_trio.simulator.field import FaultRates

    return FaultRates(uncertain=uncertain, bad=bad, outages_per_hour=outages_per_hour)
