"""Our own certificate with those of its issuers: what a device that trusts an authority only is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from opcua import ua
from structlog.testing import capture_logs

from scada_trio.errors import ConfigError
from scada_trio.opcua.certificates import split_chain, thumbprint
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.policies import ChannelSecurity, sign, suite_of_name
from scada_trio.status import ConnectionState
from tests.fix_devices import open_rig
from tests.fix_pki import Made, TestPki, make, make_list
from tests.test_opcua_security import BEST, A, device_with

ROOT_CA = make("root", ca=True)
PLANT_CA = make("plant", ca=True, issuer=ROOT_CA)
OWN = make("client", uri="urn:given", issuer=PLANT_CA, purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))
STRANGER_CA = make("stranger", ca=True)


def given(pki: TestPki, folder: Path, *made: Made, der: bool = False) -> TestPki:
    """Of the same store, with ``OPC_CERTIFICATE_FILE`` that holds these; the first one's key."""
    files = made[0].files(folder / "own", "own")
    certificate = Path(files["certificate"]).with_suffix(".der" if der else ".crt")
    encoding = Encoding.DER if der else Encoding.PEM
    certificate.write_bytes(b"".join(one.certificate.public_bytes(encoding) for one in made))
    return pki.changed(certificate_file=certificate, private_key_file=Path(files["key"]))


@pytest.mark.parametrize("der", [False, True])
def test_all_of_a_file_is_sent_in_order(pki: TestPki, tmp_path: Path, der: bool) -> None:
    """Our own first, then whoever issued the one before, however they stand in the file; we are still our own."""
    chained = given(pki, tmp_path, OWN, ROOT_CA, PLANT_CA, der=der)
    chained.prepare()
    identity = chained.own.current()
    assert split_chain(identity.chain) == [OWN.der, PLANT_CA.der, ROOT_CA.der]
    assert (identity.der, identity.application_uri) == (OWN.der, "urn:given")
    assert [thumbprint(entry.certificate) for entry in chained.own.entries()] == [OWN.thumbprint]
    alone = given(pki, tmp_path, OWN, der=der)
    alone.prepare()
    assert alone.own.current().chain == OWN.der


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ((OWN, STRANGER_CA), "CN=stranger .* did not issue it"),
        ((OWN, ROOT_CA), "CN=root .* did not issue it"),
        ((OWN, PLANT_CA, PLANT_CA), "CN=plant .* did not issue it"),
        ((OWN, *[PLANT_CA] * 8), "1 to 8 certificates"),
    ],
)
def test_a_certificate_that_does_not_belong_there_stops_the_start(
    made: tuple[Made, ...], text: str, pki: TestPki, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        given(pki, tmp_path, *made).prepare()
    assert raised.value.variable == "OPC_CERTIFICATE_FILE"


def test_a_chain_is_renewed_like_a_single_one(pki: TestPki, tmp_path: Path) -> None:
    """Replaced files are read anew; while they do not fit, the chain before stays."""
    chained: Pki = given(pki, tmp_path, OWN, PLANT_CA)
    chained.prepare()
    before = chained.own.current()
    with capture_logs() as logs:
        given(pki, tmp_path, OWN, STRANGER_CA)
        assert chained.own.current() == before
    assert [line["log_level"] for line in logs] == ["error"]
    given(pki, tmp_path, OWN, PLANT_CA, ROOT_CA)
    assert split_chain(chained.own.current().chain) == [OWN.der, PLANT_CA.der, ROOT_CA.der]


async def test_a_device_that_trusts_the_root_alone(pki: TestPki, tmp_path: Path) -> None:
    """It lets us in with the certificates between it and us, and not without them."""
    made = make()
    pki.trust_it(made)
    trusted = [ROOT_CA.files(tmp_path, "root")["certificate"]]
    lists = []
    for issuer in (ROOT_CA, PLANT_CA):
        lists.append(str(tmp_path / f"{issuer.thumbprint}.crl"))
        Path(lists[-1]).write_bytes(make_list(issuer).public_bytes(Encoding.DER))
    fields: dict[str, Any] = {"trusted": trusted, "revocation_lists": lists}
    async with device_with("open62541", made, tmp_path, **fields) as device:
        alone, chained = given(pki, tmp_path / "alone", OWN), given(pki, tmp_path / "chained", OWN, PLANT_CA)
        for own in (alone, chained):
            own.prepare()
        async with open_rig(device.url, (A,), pki=alone, **BEST) as rig:
            await rig.state(ConnectionState.REFUSED)
            assert rig.connection.status.last_error_type == "own_certificate_refused"
        async with open_rig(device.url, (A,), pki=chained, **BEST) as rig:
            await rig.state(ConnectionState.CONNECTED)
            await device.write("a", 7.0)
            await rig.until_value(A.node_id, 7.0)


async def test_every_maker_takes_a_chain(maker: str, pki: TestPki, tmp_path: Path) -> None:
    """Where it knows the root; node-opcua reads that in its own directory, the others here take everybody."""
    made = make()
    pki.trust_it(made)
    known = tmp_path / "server-pki"
    for name, content in (
        ("trusted/certs/root.der", ROOT_CA.der),
        ("issuers/certs/root.der", ROOT_CA.der),
        ("issuers/crl/root.crl", make_list(ROOT_CA).public_bytes(Encoding.DER)),
        ("issuers/crl/plant.crl", make_list(PLANT_CA).public_bytes(Encoding.DER)),
    ):
        (known / name).parent.mkdir(parents=True, exist_ok=True)
        (known / name).write_bytes(content)
    chained = given(pki, tmp_path, OWN, PLANT_CA)
    chained.prepare()
    async with device_with(maker, made, tmp_path) as device, open_rig(device.url, (A,), pki=chained, **BEST) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 7.0)
        await rig.until_value(A.node_id, 7.0)


def test_the_server_signs_our_certificate_alone_or_all_of_the_chain() -> None:
    """Both are in use (Part 4, 5.6.2.2); anything else shows that it has not the key."""
    suite = suite_of_name("Basic256Sha256")
    assert suite is not None
    server, nonce = make(), bytes(range(32))
    chain = OWN.der + PLANT_CA.der
    policy = ChannelSecurity(
        suite,
        ua.MessageSecurityMode.Sign,
        own_certificate=OWN.der,
        own_chain=chain,
        own_key=OWN.key,
        certificate=server.der,
        public_key=server.key.public_key(),
    )
    for signed in (OWN.der + nonce, chain + nonce):
        policy.verify_server(nonce, sign(suite, server.key, signed))
    for signature in (sign(suite, server.key, PLANT_CA.der + nonce), sign(suite, OWN.key, OWN.der + nonce)):
        with pytest.raises(InvalidSignature):
            policy.verify_server(nonce, signature)
