"""The requests and answers of docs/api.md are those of the contract, and each request is answered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from google.protobuf import json_format

from scada_trio.api._generated import scada_pb2
from tests.fake_backend import ABSENT, CONNECTION, TAG
from tests.fix_api import MESSAGES, ServedApi, connection_fields, grpcio_call, grpcio_stream

TEXT = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
EXAMPLE = re.compile(
    r"grpcurl -plaintext -d '(.*?)'[\\\s]*localhost:50051 scada\.ScadaService/(\w+)\n(.*?)\n\n(?!    )", re.S
)
EXAMPLES = [(method, request, answer.strip()) for request, method, answer in EXAMPLE.findall(TEXT)]
METHODS = [method.name for method in scada_pb2.DESCRIPTOR.services_by_name["ScadaService"].methods]


def test_every_method_has_an_example() -> None:
    """Those that stream, too."""
    assert {method for method, _, _ in EXAMPLES} == set(METHODS)


@pytest.mark.parametrize(("method", "request_text", "answer_text"), [e for e in EXAMPLES if e[0] in MESSAGES])
async def test_an_example_is_as_it_says(api: ServedApi, method: str, request_text: str, answer_text: str) -> None:
    """Names and types of request and answer are the contract's; the request is sent as it stands."""
    request_type, response_type = MESSAGES[method]
    request = json_format.Parse(request_text, request_type())
    answer: dict[str, Any] = json.loads(re.sub(r", \.\.\.", "", answer_text)) if answer_text else {}
    json_format.ParseDict(answer, response_type())

    def blocking() -> None:
        with grpc.insecure_channel(api.address) as channel:
            tag = connection_fields()["tags"][0] | {"tag_id": str(ABSENT), "node_id": "i=85"}
            fields = connection_fields(tags=[*connection_fields()["tags"], tag])
            grpcio_call(channel, "AddConnection", **fields)
            fields = {field.name: value for field, value in request.ListFields()}
            if method == "StreamReadings":
                list(grpcio_stream(channel, **fields))
            elif method == "SubscribeReadings":  # it does not end by itself: its first message says that it stands
                call = grpcio_stream(channel, method, **fields)
                assert next(call) == response_type()
                call.cancel()
            else:
                grpcio_call(channel, method, **fields)

    assert str(CONNECTION) in TEXT
    assert str(TAG) in TEXT
    await trio.to_thread.run_sync(blocking)
