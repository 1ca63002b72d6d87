"""``import``: tags of a connection out of its device's address space or out of a file, as a difference first.

What is stored goes the way of UpdateConnectionTags, and of AddConnection for a connection that is new; a running
service hears of it by NOTIFY.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid5

from rich.console import Console

from scada_trio.commands.browse import open_progress, say_what_is_missing
from scada_trio.commands.rows import print_rows
from scada_trio.commands.serve import open_checked_master
from scada_trio.commands.targets import Target, find_connection, open_target_walk, run_interruptible
from scada_trio.commands.tenants import find_tenant
from scada_trio.config import Settings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused, InvalidField, ScadaError
from scada_trio.instance import Instance, open_instance
from scada_trio.nodes import BrowseQuery, FoundNode
from scada_trio.readings import Tag
from scada_trio.registry import Registry
from scada_trio.storage.master import MasterDatabase
from scada_trio.tag_diff import COLUMNS, TagDiff, compare, lines, new_tag_id, rows
from scada_trio.tagfile import read_tags
from scada_trio.validation import MAX_NODE_ID_BYTES
from scada_trio.wells import WellRule


async def import_tags(
    settings: Settings,
    console: Console,
    target: Target,
    query: BrowseQuery,
    rule: WellRule | None,
    *,
    tag_file: Path | None,
    prune: bool,
    apply: bool,
    as_json: bool = False,
) -> None:
    """Show what changes, and with ``apply`` store it; the device is not asked where there is a ``tag_file``.

    ``as_json``: changes alone are on standard output, what else there is to say is on standard error.

    Raises `InvalidField`, `ConfigurationRefused`, `DeviceError`, `DatabaseError`; nothing is stored then.
    """

    words = Console(stderr=True, soft_wrap=True) if as_json else console

    async def run() -> None:
        async with _open_master(settings) as (instance, master):
            spec, is_new = await _connection(Registry(master, instance.secrets), target)
        if tag_file is not None:
            wanted = read_tags(tag_file, spec.connection_id)
        else:
            assert rule is not None
            wanted = await _browse(settings, spec, query, rule, prune=prune)
        diff = compare(spec.connection_id, spec.tags, wanted, prune=prune, from_device=tag_file is None)
        if as_json:
            print_rows(console, "json", COLUMNS, rows(diff))
        for line in lines(diff) if not as_json else ():
            console.print(line, highlight=False, markup=False)
        words.print(_summary(diff, prune=prune), highlight=False)
        if diff.is_empty:
            return
        if not apply:
            words.print("nothing is stored yet; to store it, repeat the command with --apply")
            return
        async with _open_master(settings) as (instance, master):
            await _store(master, instance, spec, diff, is_new=is_new)
        words.print(f"stored: connection {spec.connection_id}", highlight=False)

    await run_interruptible(run)


@asynccontextmanager
async def _open_master(settings: Settings) -> AsyncIterator[tuple[Instance, MasterDatabase]]:
    async with open_instance(settings) as instance, open_checked_master(settings, instance) as master:
        yield instance, master


async def _connection(registry: Registry, target: Target) -> tuple[ConnectionSpec, bool]:
    """The stored connection, or that to be stored, and whether it is new.

    That of an endpoint is found by its URL; a new one has an id of tenant, URL and name, so that there is only one.
    """
    if not target.is_endpoint:
        return await find_connection(registry, target.where, target.tenant), False
    if target.tenant is None:
        raise InvalidField("--tenant", "is missing: whose connection is it?")
    tenant_id = await find_tenant(registry, target.tenant)
    new = target.spec(tenant_id=tenant_id)
    for spec in (await registry.load())[tenant_id].connections.values():
        if spec.endpoint_url == new.endpoint_url and target.name in ("", spec.name):
            if spec.problem:
                raise ConfigurationRefused(f"connection {spec.connection_id}: {spec.problem}")
            return spec, False
    return replace(new, connection_id=uuid5(tenant_id, f"connection {new.endpoint_url} {new.name}")), True


async def _browse(
    settings: Settings, spec: ConnectionSpec, query: BrowseQuery, rule: WellRule, *, prune: bool
) -> list[Tag]:
    """The tags that the device's nodes make; says what was left out, and why."""
    tags: dict[str, Tag] = {}
    left_out: Counter[str] = Counter()
    with open_progress() as progress:
        task = progress.add_task("", total=None)
        async with open_target_walk(settings, spec, query) as walk:
            while nodes := await walk.take():
                for node in nodes:
                    found = _tag(spec, node, rule)
                    if isinstance(found, Tag):
                        tags[found.node_id] = found
                    else:
                        left_out[found] += 1
                progress.update(task, description=f"{walk.visited:,} nodes looked at, {len(tags):,} can be tags")
    for reason, count in left_out.most_common():
        sys.stderr.write(f"left out: {count:,} ({reason})\n")
    say_what_is_missing(walk)
    rule.check()
    if prune and walk.unread:
        raise ScadaError("not all of the device could be looked at, so nothing is pruned; try without --prune")
    if not tags:
        raise ConfigurationRefused("no node was found that can be a tag")
    return list(tags.values())


def _tag(spec: ConnectionSpec, node: FoundNode, rule: WellRule) -> Tag | str:
    """The tag of a node, or why there is none."""
    if node.problem is not None:
        return f"not storable: {node.problem}"
    if len(node.node_id.encode()) > MAX_NODE_ID_BYTES or "\0" in node.node_id:
        return "node id too long or with NUL"
    place = rule.place(spec.tenant_id, node.path)
    if place is None:
        return "no well"
    tag_id = new_tag_id(spec.connection_id, place.well_id, node.node_id)
    return Tag(
        tag_id,
        place.well_id,
        node.node_id,
        data_type=_storable_text(node.data_type)[:64],
        name=_storable_text(place.tag_name),
        unit=_storable_text(node.unit or "") or None,
    )


def _storable_text(text: str) -> str:
    """Without what PostgreSQL takes in no text."""
    return text.replace("\0", "").encode(errors="replace").decode()


async def _store(
    master: MasterDatabase, instance: Instance, spec: ConnectionSpec, diff: TagDiff, *, is_new: bool
) -> None:
    if is_new:
        password = None if spec.password is None else instance.secrets.encrypt(spec.password)
        await master.store_connection(replace(spec, tags=tuple(diff.added)), password)
    else:
        await master.change_tags(spec.tenant_id, spec.connection_id, diff.change)


def _summary(diff: TagDiff, *, prune: bool) -> str:
    text = f"{len(diff.added):,} added, {len(diff.changed):,} changed, "
    return f"{text}{len(diff.removed):,} removed, {diff.unchanged:,} as they are" + ("" if prune else " (no --prune)")
