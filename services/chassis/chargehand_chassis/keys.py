"""Keys of this process: made, kept in a file of its owner's, used to sign and to unseal. PyNaCl does the cryptography.

Owns key files and the five operations on keys. Whose key is trusted for what is the keyring's (schemas).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from pathlib import Path

from chargehand_schemas.keyring import Writer
from chargehand_schemas.reasons import Role
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from .errors import FatalFailure

TOKEN_PREFIX = "cge_"  # noqa: S105 (a prefix, no password)


class OwnKeys:
    """A signing key (Ed25519) and a sealing key (Curve25519). `kid` is the start of the digest of the signing key."""

    def __init__(self, signing_seed: bytes, sealing_seed: bytes) -> None:
        self._signing = SigningKey(signing_seed)
        self._sealing = PrivateKey(sealing_seed)
        self.signing_public = bytes(self._signing.verify_key)
        self.sealing_public = bytes(self._sealing.public_key)
        self.kid = key_id(self.signing_public)

    def __repr__(self) -> str:
        return f"OwnKeys(kid={self.kid!r})"

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature (64 bytes)."""
        return bytes(self._signing.sign(data).signature)

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed to this key. ValueError if it was not, or was changed."""
        try:
            return bytes(SealedBox(self._sealing).decrypt(sealed))
        except (CryptoError, ValueError, TypeError) as error:
            raise ValueError("not sealed to this key, or changed on its way") from error


def key_id(signing_public: bytes) -> str:
    """The name of a key: 16 hex digits of the SHA-256 of its public half."""
    return hashlib.sha256(signing_public).hexdigest()[:16]


def generate_keys(path: Path) -> OwnKeys:
    """Make keys and write them to a new file of mode 0600. FileExistsError if it is there."""
    seeds = {"signing_seed": secrets.token_hex(32), "sealing_seed": secrets.token_hex(32)}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(seeds, file)
        file.flush()
        os.fsync(file.fileno())
    return OwnKeys(bytes.fromhex(seeds["signing_seed"]), bytes.fromhex(seeds["sealing_seed"]))


def load_keys(path: Path) -> OwnKeys:
    """Keys from a file. FatalFailure if others may read it, or it is no key file."""
    try:
        mode = path.stat().st_mode & 0o077
        if mode:
            raise FatalFailure(f"{path}: others may read this key file; chmod 600 it, or make new keys")
        document = json.loads(path.read_text(encoding="utf-8"))
        return OwnKeys(bytes.fromhex(document["signing_seed"]), bytes.fromhex(document["sealing_seed"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FatalFailure(f"{path}: no readable key file ({error})") from error


def public_document(keys: OwnKeys, role: Role, subject: str, agent_id: str = "") -> dict[str, str]:
    """The public half as it stands in trusted_keys.json and planner.pub.json (hex)."""
    return {
        "kid": keys.kid,
        "role": role.value,
        "subject": subject,
        "agent_id": agent_id,
        "signing_key": keys.signing_public.hex(),
        "sealing_key": keys.sealing_public.hex(),
    }


def writer_of(document: dict[str, str]) -> Writer:
    """A Writer from a public document. KeyError or ValueError if it is none; its kid must be that of its key."""
    signing_key = bytes.fromhex(document["signing_key"])
    if document["kid"] != key_id(signing_key):
        raise ValueError(f"key {document['kid']!r} is not named after its digest {key_id(signing_key)!r}")
    return Writer(
        kid=document["kid"],
        role=Role(document["role"]),
        subject=document["subject"],
        signing_key=signing_key,
        sealing_key=bytes.fromhex(document.get("sealing_key", "")),
        agent_id=document.get("agent_id", ""),
    )


def load_pinned_planner(path: Path) -> Writer:
    """The planner's public keys that the settings pin. FatalFailure if the file is none."""
    try:
        writer = writer_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FatalFailure(f"{path}: not the planner's public key file ({error})") from error
    if writer.role is not Role.PLANNER:
        raise FatalFailure(f"{path}: key {writer.kid} is of role {writer.role.value}, not planner")
    return writer


def verify(public: bytes, data: bytes, proof: bytes) -> bool:
    """Whether `proof` is the signature of `data` under this public key."""
    try:
        VerifyKey(public).verify(data, proof)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def seal(public: bytes, secret: bytes) -> bytes:
    """`secret`, readable only by the owner of this sealing key."""
    return bytes(SealedBox(PublicKey(public)).encrypt(secret))


def new_enrolment_token() -> str:
    """A one-time token: an Ed25519 seed in URL-safe base64. Only its public half is ever published."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def enrolment_keys(token: str) -> OwnKeys:
    """The key pair of a one-time token. ValueError if it is none."""
    body = token.strip().removeprefix(TOKEN_PREFIX)
    try:
        seed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        seed = b""
    if len(seed) != 32:
        raise ValueError("not an enrolment token: it begins with cge_ and has 43 characters after that")
    return OwnKeys(seed, hashlib.sha256(b"sealing" + seed).digest())
