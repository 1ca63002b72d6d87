"""The answers of every service that is called, and what is made of them before anybody looks at a number twice.

An input is a byte that names the service and the answers to the requests of one call, each behind its length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Any, cast
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding
from opcua import ua
from opcua.common.utils import Buffer

from scada_trio.config import PkiSettings
from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import DeviceUnreachable
from scada_trio.nodes import BrowseQuery
from scada_trio.opcua import discovery, item_services, services
from scada_trio.opcua.browse import Walk, status_text, value_text
from scada_trio.opcua.browse_services import NodeReader
from scada_trio.opcua.faults import translated
from scada_trio.opcua.kept import Item
from scada_trio.opcua.parameters import ItemParameters
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.policies import NONE_URI
from scada_trio.opcua.security import LinkSecurity, _find, activation, offer_of
from scada_trio.opcua.trial import _offered_endpoint
from scada_trio.opcua.types import DataTypes
from scada_trio.readings import Tag
from scada_trio.status import SubscriptionTerms
from tests.fix_devices import FAST, ROOT
from tests.fuzzing import bodies
from tests.fuzzing.fakes import URL, AnsweringLink, open_client
from tests.fuzzing.feed import Feed, pack
from tests.fuzzing.oracle import Wrong
from tests.fuzzing.targets.certificates import DEVICE

Answers = list[bytes]
Look = Callable[[], object]
SPEC = ConnectionSpec(UUID(int=1), UUID(int=2), "fuzzed", URL, security_mode=SecurityMode.NONE)


def run(data: bytes) -> None:
    feed = Feed(data)
    call = list(CALLS.values())[feed.byte() % len(CALLS)]
    answers = feed.pieces()
    with translated("a service"):
        look = call(answers)
    look()


@cache
def _pki() -> Pki:
    return Pki(PkiSettings(ROOT / "no-such-pki"))


def _client(answers: Answers) -> Any:
    link = AnsweringLink(answers)
    link.open()
    return open_client(link)


def _positive(number: float, what: str) -> None:
    if not (math.isfinite(number) and number > 0):
        raise Wrong(f"{what} is {number}")


def _fit_to_show(thing: object) -> None:
    """What reaches a status document is JSON, which knows neither infinity nor NaN."""
    json.dumps(thing, allow_nan=False).encode()


# ---- the calls: each asks within what translates errors, and returns what looks at the result


def open_channel(answers: Answers) -> Look:
    client = open_client(AnsweringLink(answers))
    client.open_secure_channel()
    return lambda: _positive(client.channel_lifetime_s, "the channel's lifetime")


def create_session(answers: Answers) -> Look:
    client = _client(answers)
    created = client.create_session()
    security = LinkSecurity(ua.SecurityPolicy())
    offer = offer_of(created, security)
    client.uaclient.activate_session(activation(client, SPEC, offer, security, _pki()))
    return lambda: _positive(client.session_timeout_s, "the session's timeout")


def create_subscription(answers: Answers) -> Look:
    _, terms = services.create_subscription(_client(answers), FAST, 1000.0)
    return lambda: _good_terms(terms)


def modify_subscription(answers: Answers) -> Look:
    terms = services.modify_subscription(_client(answers), 1, FAST, 1000.0)
    return lambda: None if terms is None else _good_terms(terms)


def _good_terms(terms: SubscriptionTerms) -> None:
    _positive(terms.keep_alive_s, "the keep-alive period")
    _positive(terms.revised_publishing_ms, "the publishing interval")


def transfer(answers: Answers) -> Look:
    result = services.transfer_subscription(_client(answers), 1)
    return lambda: None if not result.StatusCode.is_good() else _numbers(result.AvailableSequenceNumbers or ())


def _numbers(numbers: Iterable[int]) -> None:
    if not all(0 <= number < 1 << 32 for number in numbers):
        raise Wrong(f"numbers {numbers}")


def delete_subscription(answers: Answers) -> Look:
    services.delete_subscription(_client(answers), 1)
    return lambda: None


def _items() -> list[tuple[Item, ItemParameters]]:
    wanted = []
    for number, deadband in ((1, None), (2, 0.5), (3, None)):
        tag = Tag(UUID(int=number), UUID(int=9), f"ns=1;s=tag{number}")
        item = Item(tag, number, item_id=number)
        wanted.append((item, ItemParameters(100.0, 10, True, deadband)))
    return wanted


def create_items(answers: Answers) -> Look:
    wanted = _items()
    item_services.create_items(_client(answers), 1, wanted)
    return lambda: _fit_to_show([[str(item.revised), item.refused, item.item_id] for item, _ in wanted])


def modify_items(answers: Answers) -> Look:
    wanted = _items()
    item_services.modify_items(_client(answers), 1, wanted)
    return lambda: _fit_to_show([[str(item.revised), item.refused, item.item_id] for item, _ in wanted])


def delete_items(answers: Answers) -> Look:
    item_services.delete_items(_client(answers), 1, [1, 2, 3])
    return lambda: None


def read_server(answers: Answers) -> Look:
    limit, started_us = services.read_server(_client(answers))

    def look() -> None:
        if not 1 <= limit <= services.ITEMS_A_CALL or started_us < 0:
            raise Wrong(f"{limit} items a call, started at {started_us}")

    return look


def read_values(answers: Answers) -> Look:
    reader = NodeReader(_client(answers))
    found = reader.read([(ua.NodeId(2258), ua.AttributeIds.Value)] * 3)
    return lambda: _fit_to_show([[value_text(answer), status_text(answer)] for answer in found])


def browse(answers: Answers) -> Look:
    reader = NodeReader(_client([_LIMITS, *answers]))
    branches = reader.children([ua.NodeId(85), ua.NodeId(86)])
    return lambda: _fit_to_show([list(branch.references) for branch in branches])


def data_type(answers: Answers) -> Look:
    reader = NodeReader(_client([_LIMITS, *answers]))
    found = DataTypes(reader).of(ua.NodeId(3001, 2))
    return lambda: _fit_to_show(found)


class _Session:
    """As much of one as a walk asks for."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, context: str, function: Callable[[], Any]) -> Any:
        with translated(context):
            return function()


def walk(answers: Answers) -> Look:
    session = _Session(_client([_LIMITS, *answers]))
    walking = Walk(cast("Any", session), BrowseQuery(values=True))
    run_at_once(walking.begin())
    found = []
    while walking._pending and not walking.is_cut:
        found += walking._look()
    return lambda: _fit_to_show([[node.path, node.name, node.unit, node.value, node.problem] for node in found])


class _Exchange(discovery._Exchange):
    """Discovery without a socket."""

    def __init__(self, answers: Answers) -> None:
        self._answers, self._requests = answers, 0
        self._channel = AnsweringLink([])._connection

    async def _send(self, request: Any, message_type: bytes) -> None:
        """The answer is there already."""

    async def _receive(self) -> Any:
        if not self._answers:
            raise DeviceUnreachable("no more answers")
        return Buffer(self._answers.pop(0))


def endpoints(answers: Answers) -> Look:
    offered = list(run_at_once(_Exchange(answers).run(URL)))

    def look() -> None:
        shown = [_offered_endpoint(found) for found in offered]
        _fit_to_show([[one.security_mode, one.security_policy, one.tokens] for one in shown])
        _find(offered, ua.MessageSecurityMode.None_, NONE_URI)

    return look


def run_at_once(awaitable: Any) -> Any:
    """Run what waits for nothing."""
    try:
        awaitable.send(None)
    except StopIteration as done:
        return done.value
    raise Wrong("it waits")


CALLS: dict[str, Callable[[Answers], Look]] = {
    function.__name__: function
    for function in (
        *(open_channel, create_session, create_subscription, modify_subscription, transfer, delete_subscription),
        *(create_items, modify_items, delete_items, read_server, read_values, browse, data_type, walk, endpoints),
    )
}
_LIMITS = bodies.values(*(ua.Variant(100, ua.VariantType.UInt32) for _ in range(3)))


def an_input(call: Callable[[Answers], Look], *answers: bytes) -> bytes:
    return bytes((list(CALLS).index(call.__name__),)) + pack(answers)


def seeds() -> Iterator[bytes]:
    certificate = DEVICE.certificate.public_bytes(Encoding.DER)
    yield an_input(open_channel, bodies.open_answer(b"s" * 32))
    session = bodies.session_answer(bodies.endpoint(), certificate=certificate)
    yield an_input(create_session, session, bodies.activated_answer())
    for answer in bodies.recorded("CreateSessionResponse"):
        yield an_input(create_session, answer, *bodies.recorded("ActivateSessionResponse")[:1])
    once = bodies.subscription_answer(ua.CreateSubscriptionResponse(), 1)
    often = bodies.subscription_answer(ua.CreateSubscriptionResponse(), 900)
    changed = bodies.subscription_answer(ua.ModifySubscriptionResponse(), 1)
    yield an_input(create_subscription, once)
    yield an_input(create_subscription, often, changed)
    yield an_input(modify_subscription, changed)
    yield an_input(modify_subscription, bodies.fault(0x80280000))
    yield an_input(transfer, bodies.transferred_answer())
    yield an_input(delete_subscription, bodies.results_answer(ua.DeleteSubscriptionsResponse(), ua.StatusCode()))
    good, filtered = bodies.created_item(1), bodies.created_item(0, ua.StatusCodes.BadFilterNotAllowed)
    unknown = bodies.created_item(0, ua.StatusCodes.BadNodeIdUnknown)
    created = bodies.results_answer(ua.CreateMonitoredItemsResponse(), good, filtered, unknown)
    yield an_input(create_items, created, bodies.results_answer(ua.CreateMonitoredItemsResponse(), good))
    refused = bodies.modified_item(ua.StatusCodes.BadMonitoredItemIdInvalid)
    results = (bodies.modified_item(), bodies.modified_item(), refused)
    yield an_input(modify_items, bodies.results_answer(ua.ModifyMonitoredItemsResponse(), *results))
    yield an_input(delete_items, bodies.results_answer(ua.DeleteMonitoredItemsResponse(), *[ua.StatusCode()] * 3))
    limit, started = ua.Variant(500, ua.VariantType.UInt32), ua.Variant(datetime(2026, 1, 2))
    yield an_input(read_server, bodies.values(limit, started))
    yield from _of_nodes()
    yield an_input(endpoints, bodies.open_answer(), bodies.endpoints_answer(certificate))
    for answer in bodies.recorded("GetEndpointsResponse"):
        yield an_input(endpoints, bodies.open_answer(), answer)
    yield from (an_input(call, bodies.fault(0x80250000)) for call in CALLS.values())


def _of_nodes() -> Iterator[bytes]:
    variable, thing = ua.NodeClass.Variable, ua.NodeClass.Object
    range_, unit = ua.Range(), ua.EUInformation()
    range_.High, unit.DisplayName = 100.0, ua.LocalizedText("psi")
    shown = bodies.values(ua.Variant([1.0, 2.0]), ua.Variant("text"), ua.Variant(range_))
    yield an_input(read_values, _LIMITS, shown)
    matrix = ua.Variant([[1, 2], [3, 4]], ua.VariantType.Int32, dimensions=[2, 2])
    yield an_input(read_values, _LIMITS, bodies.values(matrix, ua.Variant(unit), ua.Variant(ua.NodeId("a", 2))))
    first = [bodies.reference(1, "pump", thing), bodies.reference(2, "speed", variable)]
    properties = [bodies.reference(3, "EURange", variable, 46), bodies.reference(4, "EngineeringUnits", variable, 46)]
    answer = bodies.branches(ua.BrowseResponse(), first, [], point=b"more")
    more = bodies.branches(ua.BrowseNextResponse(), [bodies.reference(5, "valve", thing)], [])
    yield an_input(browse, answer, more)
    yield an_input(
        data_type,
        bodies.values(ua.Variant(ua.QualifiedName("Flow", 2))),
        bodies.branches(ua.BrowseResponse(), [bodies.reference(11, "Double", ua.NodeClass.DataType, 45)]),
    )
    start = bodies.values(ua.Variant(1, ua.VariantType.Int32))
    attributes = [ua.Variant(ua.NodeId(11)), ua.Variant(-1), ua.Variant(1), ua.Variant(1), ua.Variant(5.5)]
    yield an_input(
        walk,
        start,
        bodies.branches(ua.BrowseResponse(), first),
        bodies.branches(ua.BrowseResponse(), [], properties),
        bodies.values(*attributes, ua.Variant(range_), ua.Variant(unit)),
    )
    for name in ("BrowseResponse", "ReadResponse"):
        for answer in bodies.recorded(name):
            yield an_input(browse if name == "BrowseResponse" else read_values, _LIMITS, answer)
