"""What is a well-formed id, endpoint, security setting or node id, and what is not."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scada_trio.desired import SecurityMode
from scada_trio.errors import InvalidField
from scada_trio.validation import (
    POLICIES,
    POLICY_URI,
    parse_data_type,
    parse_endpoint,
    parse_node_id,
    parse_security,
    parse_uuid,
)


@settings(deadline=None)
@given(st.uuids())
def test_ids_are_read_in_their_usual_spellings(value: UUID) -> None:
    for text in (str(value), str(value).upper(), value.hex):
        assert parse_uuid("id", text) == value


@pytest.mark.parametrize("text", ["", "7", "{%s}", "%s ", "%s\n", "urn:uuid:%s", "%s0", "\0"])
def test_what_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^tenant_id: ") as raised:
        parse_uuid("tenant_id", text.replace("%s", "11111111-1111-4111-8111-111111111111"))
    assert raised.value.field == "tenant_id"


def test_a_hyphen_in_the_wrong_place_is_refused() -> None:
    with pytest.raises(InvalidField):
        parse_uuid("id", "1111-11111111-4111-8111-111111111111")


@pytest.mark.parametrize(
    "url",
    ["opc.tcp://device", "opc.tcp://device:4840", "OPC.TCP://10.0.0.7:4840/UA/Wells", "opc.tcp://[fe80::1]:4840/a?b"],
)
def test_endpoints_are_kept_as_they_are(url: str) -> None:
    assert parse_endpoint("endpoint_url", url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "device:4840",
        "opc.tcp:",
        "opc.tcp://",
        "opc.tcp://:4840",
        "opc.tcp:///path",
        "opc.tcp://device:0",
        "opc.tcp://device:65536",
        "opc.tcp://device:http",
        "opc.tcp://[::1",
        "opc.tcp://user:hunter2@device:4840",
        "opc.tcp://device:4840/a b",
        "opc.tcp://device:4840/\n",
        "opc.https://device:443",
        "opc.tcp://device/" + "x" * 2048,
    ],
)
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(InvalidField) as raised:
        parse_endpoint("endpoint_url", url)
    assert "hunter2" not in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_policies_are_known_by_name_and_by_uri(policy: str) -> None:
    for text in (policy, policy.upper(), POLICY_URI + policy):
        assert parse_security("sign", text) == (SecurityMode.SIGN, policy)


@pytest.mark.parametrize(("mode", "policy"), [("", ""), ("none", "None"), ("None", POLICY_URI + "None")])
def test_no_security_has_several_spellings(mode: str, policy: str) -> None:
    assert parse_security(mode, policy) == (SecurityMode.NONE, "None")


@pytest.mark.parametrize(
    ("mode", "policy", "field"),
    [
        ("Secure", "Basic256", "security_mode"),
        ("Sign", "Basic257", "security_policy"),
        ("Sign", POLICY_URI, "security_policy"),
        ("Sign", "", "security_policy"),
        ("SignAndEncrypt", "None", "security_policy"),
        ("None", "Basic256Sha256", "security_mode"),
        ("", "Basic256Sha256", "security_mode"),
    ],
)
def test_security_that_does_not_hold_together_is_refused(mode: str, policy: str, field: str) -> None:
    with pytest.raises(InvalidField) as raised:
        parse_security(mode, policy)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "text",
    [
        "i=85",
        "ns=0;i=4294967295",
        "ns=2;s=Well 7;pressure=bar",
        "ns=65535;s=µ",
        "ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a",
        "ns=1;b=M/RbKBsRVkePCePcx24oRA==",
        "s=" + "x" * 2046,
    ],
)
def test_node_ids_are_kept_as_they_are(text: str) -> None:
    assert parse_node_id("node_id", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Pressure",
        "ns=2",
        "ns=2;",
        "ns=2;s=",
        "ns=2;x=1",
        "ns=-1;i=1",
        "ns=65536;i=1",
        "ns=2;i=",
        "ns=2;i=-1",
        "ns=2;i=4294967296",
        "ns=2;i=1e3",
        "ns=2;i=٣",
        "ns=2;i=" + "9" * 2000,
        "ns=2;g=7",
        "ns=2;b=***",
        "ns=2;b=abc",
        " ns=2;i=1",
        "ns=2;s=a\0b",
        "ns=2;s=\udcff",
        "s=" + "x" * 2047,
        "nsu=http://x;s=1",
    ],
)
def test_what_is_no_node_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^tags\[3\]\.node_id: ") as raised:
        parse_node_id("tags[3].node_id", text)
    assert len(str(raised.value)) < 200


def test_data_types_are_free_text_within_reason() -> None:
    assert parse_data_type("data_type", "Gleitkommazahl µ") == "Gleitkommazahl µ"
    assert parse_data_type("data_type", "") == ""
    for text in ("x" * 65, "a\0"):
        with pytest.raises(InvalidField):
            parse_data_type("data_type", text)
