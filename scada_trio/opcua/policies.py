"""The security policies (OPC UA Part 7, 6.6): their algorithms, and a channel's keys as python-opcua asks for them.

Owns which policies there are, what each demands of a certificate, and the encryption of a user's password. Knows no
socket, no file and no trust; starts nothing. python-opcua has three of the five, asks nothing of a certificate, and
compares signatures in a time that depends on them, so all five are made here, out of one table.
"""

from __future__ import annotations

import hmac
import struct
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from opcua import ua
from opcua.crypto.security_policies import Cryptography
from opcua.crypto.uacrypto import InvalidSignature

_PREFIX: Final = "http://opcfoundation.org/UA/SecurityPolicy#"
NONE_URI: Final = f"{_PREFIX}None"
_BLOCK_BYTES: Final = 16  # AES
_PKCS1: Final = rsa_padding.PKCS1v15()
_SHA1: Final = hashes.SHA1()  # noqa: S303 -- of deprecated policies, and in OAEP, which does not rest on collisions
_SHA256: Final = hashes.SHA256()


def _oaep(algorithm: hashes.HashAlgorithm) -> rsa_padding.OAEP:
    return rsa_padding.OAEP(mgf=rsa_padding.MGF1(algorithm), algorithm=algorithm, label=None)


_OAEP: Final = _oaep(_SHA1)


class Suite(NamedTuple):
    """One policy; sizes in bytes, those of RSA keys in bits. ``digest`` is the hash of symmetric signatures and keys.

    ``encryption_overhead`` is what a block of RSA loses to padding. A ``deprecated`` one is used where the settings
    allow it only: SHA-1 signs it, and RSA 1.5 padding has been broken in practice.
    """

    name: str
    digest: str = "sha256"
    signature_key_bytes: int = 32
    cipher_key_bytes: int = 32
    nonce_bytes: int = 32
    signature_padding: AsymmetricPadding = _PKCS1
    signature_hash: hashes.HashAlgorithm = _SHA256
    signature_uri: str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
    encryption_padding: AsymmetricPadding = _OAEP
    encryption_overhead: int = 42
    encryption_uri: str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep"
    min_key_bits: int = 2048
    max_key_bits: int = 4096
    deprecated: bool = False

    @property
    def uri(self) -> str:
        """The policy's URI."""
        return _PREFIX + self.name

    @property
    def digest_bytes(self) -> int:
        """Size of a symmetric signature."""
        return 20 if self.digest == "sha1" else 32


_BASIC256_SHA256: Final = Suite("Basic256Sha256")
_BASIC256: Final = Suite(
    "Basic256",
    digest="sha1",
    signature_key_bytes=24,
    signature_hash=_SHA1,
    signature_uri="http://www.w3.org/2000/09/xmldsig#rsa-sha1",
    min_key_bits=1024,
    max_key_bits=2048,
    deprecated=True,
)

SUITES: Final = (
    Suite(
        "Aes256_Sha256_RsaPss",
        signature_padding=rsa_padding.PSS(mgf=rsa_padding.MGF1(_SHA256), salt_length=32),
        signature_uri="http://opcfoundation.org/UA/security/rsa-pss-sha2-256",
        encryption_padding=_oaep(_SHA256),
        encryption_overhead=66,
        encryption_uri="http://opcfoundation.org/UA/security/rsa-oaep-sha2-256",
    ),
    _BASIC256_SHA256._replace(name="Aes128_Sha256_RsaOaep", cipher_key_bytes=16),
    _BASIC256_SHA256,
    _BASIC256,
    _BASIC256._replace(
        name="Basic128Rsa15",
        signature_key_bytes=16,
        cipher_key_bytes=16,
        nonce_bytes=16,
        encryption_padding=_PKCS1,
        encryption_overhead=11,
        encryption_uri="http://www.w3.org/2001/04/xmlenc#rsa-1_5",
    ),
)
"""Every policy that is spoken, best first."""

_BY_URI: Final = {suite.uri: suite for suite in SUITES}
_BY_NAME: Final = {suite.name: suite for suite in SUITES}


def suite_of_uri(uri: str | None) -> Suite | None:
    """The policy of this URI; None for None's and for those that are not spoken."""
    return _BY_URI.get(uri or "")


def suite_of_name(name: str) -> Suite | None:
    """The policy of this short name or URI; None where it is not spoken."""
    return _BY_NAME.get(name.removeprefix(_PREFIX))


def short_name(uri: str | None) -> str:
    """A policy for people, whoever named it."""
    return "".join(c if c.isprintable() else " " for c in (uri or "none").rpartition("#")[2][:60])


class ChannelSecurity(ua.SecurityPolicy):  # type: ignore[misc]
    """What python-opcua's `SecureConnection` asks of a policy, for one channel to the owner of ``certificate``.

    ``mode`` is Sign or SignAndEncrypt; an OpenSecureChannel is signed and encrypted in both (Part 6, 6.7.4).
    ``own_chain``, if given, is what is sent of us: ``own_certificate``, and those of its issuers after it.
    """

    def __init__(
        self,
        suite: Suite,
        mode: Any,
        *,
        own_certificate: bytes,
        own_key: RSAPrivateKey,
        certificate: bytes,
        public_key: RSAPublicKey,
        own_chain: bytes = b"",
    ) -> None:
        self.suite = suite
        self.URI = suite.uri
        self.Mode = mode
        self.AsymmetricSignatureURI = suite.signature_uri
        self.AsymmetricEncryptionURI = suite.encryption_uri
        self.symmetric_key_size = suite.nonce_bytes  # python-opcua makes its nonces that long
        self.client_certificate = own_chain or own_certificate  # in OpenSecureChannel and CreateSession
        self._own_certificate = own_certificate
        self.server_certificate = certificate
        self.asymmetric_cryptography = Cryptography(ua.MessageSecurityMode.SignAndEncrypt)
        self.asymmetric_cryptography.Signer = _RsaSigner(suite, own_key)
        self.asymmetric_cryptography.Verifier = _RsaVerifier(suite, public_key)
        self.asymmetric_cryptography.Encryptor = _RsaEncryptor(suite, public_key)
        self.asymmetric_cryptography.Decryptor = _RsaDecryptor(suite, own_key)
        self.symmetric_cryptography = Cryptography(mode)

    def verify_server(self, nonce: bytes, signature: bytes) -> None:
        """That the server of a CreateSession has its key (Part 4, 5.6.2.2); raises `InvalidSignature`.

        It signs our certificate without those of its issuers, and ``nonce``; older ones sign all that was sent.
        """
        try:
            self.asymmetric_cryptography.verify(self._own_certificate + nonce, signature)
        except InvalidSignature:
            self.asymmetric_cryptography.verify(self.client_certificate + nonce, signature)

    def make_local_symmetric_key(self, secret: bytes, seed: bytes) -> None:
        """The keys of what we send (Part 6, 6.7.5)."""
        signing, cipher = self._derive(secret, seed)
        self.symmetric_cryptography.Signer = signing
        self.symmetric_cryptography.Encryptor = cipher

    def make_remote_symmetric_key(self, secret: bytes, seed: bytes) -> None:
        """The keys of what we receive. ValueError where the server's nonce has not the length that makes them safe."""
        if len(seed or b"") != self.suite.nonce_bytes:
            raise ValueError("the server's nonce has a wrong length")
        signing, cipher = self._derive(secret, seed)
        self.symmetric_cryptography.Verifier = signing
        self.symmetric_cryptography.Decryptor = cipher

    def _derive(self, secret: bytes, seed: bytes) -> tuple[_Hmac, _AesCbc]:
        suite = self.suite
        sizes = (suite.signature_key_bytes, suite.cipher_key_bytes, _BLOCK_BYTES)
        stream = _pseudo_random(suite.digest, secret, seed, sum(sizes))
        signing, rest = stream[: sizes[0]], stream[sizes[0] :]
        return _Hmac(signing, suite), _AesCbc(rest[: sizes[1]], rest[sizes[1] :])


def _pseudo_random(digest: str, secret: bytes, seed: bytes, size: int) -> bytes:
    """P_HASH of RFC 5246, 5."""
    stream, link = b"", seed
    while len(stream) < size:
        link = hmac.digest(secret, link, digest)
        stream += hmac.digest(secret, link + seed, digest)
    return stream[:size]


def encrypt_password(suite: Suite, public_key: RSAPublicKey, password: str, nonce: bytes | None) -> bytes:
    """``password`` as a UserNameIdentityToken carries it (Part 4, 7.41.2.2), for the owner of ``public_key`` alone."""
    secret = password.encode() + (nonce or b"")
    return _RsaEncryptor(suite, public_key).encrypt(struct.pack("<I", len(secret)) + secret)


def sign(suite: Suite, key: RSAPrivateKey, signed: bytes) -> bytes:
    """The signature of ``suite`` over ``signed``."""
    return _RsaSigner(suite, key).signature(signed)


class _RsaSigner:
    def __init__(self, suite: Suite, key: RSAPrivateKey) -> None:
        self._suite, self._key = suite, key

    def signature_size(self) -> int:
        return self._key.key_size // 8

    def signature(self, data: bytes) -> bytes:
        return self._key.sign(data, self._suite.signature_padding, self._suite.signature_hash)


class _RsaVerifier:
    def __init__(self, suite: Suite, key: RSAPublicKey) -> None:
        self._suite, self._key = suite, key

    def signature_size(self) -> int:
        return self._key.key_size // 8

    def verify(self, data: bytes, signature: bytes) -> None:
        self._key.verify(signature, data, self._suite.signature_padding, self._suite.signature_hash)


class _RsaBlocks:
    """How large the blocks are that a key of ``suite`` encrypts, and what they are then."""

    def __init__(self, suite: Suite, key_bits: int) -> None:
        self._padding = suite.encryption_padding
        self._block_bytes = key_bits // 8
        self._plain_bytes = self._block_bytes - suite.encryption_overhead

    def plain_block_size(self) -> int:
        return self._plain_bytes

    def encrypted_block_size(self) -> int:
        return self._block_bytes


class _RsaEncryptor(_RsaBlocks):
    def __init__(self, suite: Suite, key: RSAPublicKey) -> None:
        super().__init__(suite, key.key_size)
        self._key = key

    def encrypt(self, data: bytes) -> bytes:
        step = self._plain_bytes
        return b"".join(self._key.encrypt(data[at : at + step], self._padding) for at in range(0, len(data), step))


class _RsaDecryptor(_RsaBlocks):
    def __init__(self, suite: Suite, key: RSAPrivateKey) -> None:
        super().__init__(suite, key.key_size)
        self._key = key

    def decrypt(self, data: bytes) -> bytes:
        step = self._block_bytes
        return b"".join(self._key.decrypt(data[at : at + step], self._padding) for at in range(0, len(data), step))


class _Hmac:
    """Signs and verifies messages."""

    def __init__(self, key: bytes, suite: Suite) -> None:
        self._key, self._digest, self._size = key, suite.digest, suite.digest_bytes

    def signature_size(self) -> int:
        return self._size

    def signature(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, self._digest)

    def verify(self, data: bytes, signature: bytes) -> None:
        if not hmac.compare_digest(signature, hmac.digest(self._key, data, self._digest)):
            raise InvalidSignature


class _AesCbc:
    """Encrypts and decrypts messages; every message starts with the derived vector anew (Part 6, 6.7.4)."""

    def __init__(self, key: bytes, vector: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(vector))

    def plain_block_size(self) -> int:
        return _BLOCK_BYTES

    def encrypted_block_size(self) -> int:
        return _BLOCK_BYTES

    def encrypt(self, data: bytes) -> bytes:
        encryptor = self._cipher.encryptor()
        return encryptor.update(data) + encryptor.finalize()

    def decrypt(self, data: bytes) -> bytes:
        decryptor = self._cipher.decryptor()
        return decryptor.update(data) + decryptor.finalize()
