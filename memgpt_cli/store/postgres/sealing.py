"""Encryption of what a server keeps: a key for each namespace, held outside the server, so that destroying it forgets.

A deleted row lives on in a server's log and backups, where nobody can reach it to erase it. Sealed with a key that no
longer exists it is noise there too. Keys lie in a folder (`MEMGPT_KEYS`, by default $MEMGPT_HOME/keys), one file each,
sealed in turn by the passphrase the user's environment holds; share the folder among machines that share the store.
"""

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from memgpt_cli.config import home
from memgpt_cli.errors import StoreError
from memgpt_cli.extras import need


def _aes(key: bytes) -> Any:
    return need("cryptography.hazmat.primitives.ciphers.aead", "an encrypted PostgreSQL store").AESGCM(key)


class Seal:
    """AES-256-GCM and keyed hashes under one namespace's key."""

    def __init__(self, key: bytes) -> None:
        self._aes = _aes(hashlib.sha256(b"seal" + key).digest())
        self._hash = hashlib.sha256(b"hash" + key).digest()

    def close(self, data: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + bytes(self._aes.encrypt(nonce, data, None))

    def open(self, data: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._aes.decrypt(data[:12], data[12:], None))
        except InvalidTag as error:
            raise StoreError("an entry cannot be decrypted: it is damaged, or sealed with another key") from error

    def mark(self, data: bytes) -> bytes:
        """16 bytes that are the same for the same data, and tell nothing without the key."""
        return hmac.new(self._hash, data, hashlib.sha256).digest()[:16]


class KeyFolder:
    """Namespaces' keys, each in a file that the passphrase opens.

    Args:
        passphrase: from the user's environment; never written.
        salt: the store's, not secret.
    """

    def __init__(self, passphrase: str, salt: bytes, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get("MEMGPT_KEYS") or home() / "keys")
        # OWASP's parameters for scrypt (2023): N 2^15, r 8, p 3
        master = hashlib.scrypt(passphrase.encode(), salt=salt, n=1 << 15, r=8, p=3, maxmem=1 << 27, dklen=32)
        self._master = Seal(master)

    def name(self, namespace: str) -> str:
        """What the server calls a namespace, whose own name may be somebody's."""
        return base64.b32encode(self._master.mark(b"ns" + namespace.encode())).decode().rstrip("=").lower()

    def proof(self) -> bytes:
        """Tells whether two passphrases are the same one, and nothing else."""
        return self._master.mark(b"proof")

    def create(self, name: str) -> None:
        """Makes a key; there must be none of this name."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = self.folder / f"{name}.part-{secrets.token_hex(4)}"
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(self._master.close(secrets.token_bytes(32)))
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, self.folder / name)  # fails where another process was first
        unfinished.unlink()
        self._sync()

    def read(self, name: str) -> Seal:
        path = self.folder / name
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(
                f"the key of this namespace is not in {self.folder}: it was destroyed, or MEMGPT_KEYS names another folder"
            ) from None
        try:
            return Seal(self._master.open(sealed))
        except StoreError as error:
            raise StoreError("the store's key is another one than this namespace was sealed with") from error

    def destroy(self, name: str) -> None:
        """Overwrites and removes a key."""
        path = self.folder / name
        try:
            with open(path, "r+b") as file:
                file.write(secrets.token_bytes(os.path.getsize(path)))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        except FileNotFoundError:
            return
        self._sync()

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
