"""ML-KEM-768 (FIPS 203), by `cryptography` or by the system's libcrypto.

`cryptography` has ML-KEM since version 48. Debian 13 ships version 43, which has none, next to OpenSSL 3.5, which
has it. There libcrypto is called by `ctypes`. Each size is asked of the library and compared with that of FIPS 203
before a buffer is passed. A library that is older, or answers another size, is not used.

Tried with OpenSSL 3.5.5: both ways give the same public keys and shared secrets, and X-Wing's vectors pass. OpenSSL
3.0 has no ML-KEM. Where neither way works, `provider` returns None: then there is no X-Wing, only X25519, and the
channel is not post-quantum.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm

SEED_SIZE = 64
PUBLIC_SIZE = 1184
CIPHERTEXT_SIZE = 1088
SECRET_SIZE = 32
SYSTEM_LIBRARY = "libcrypto.so.3"
# PKCS #8 with the seed alone, as OpenSSL 3.5 and RFC 9935 write it; the seed follows.
_PKCS8 = bytes.fromhex("3054020100300b060960864801650304040204428040")
_NAME = b"ML-KEM-768"
_KEYS = 32  # decoded public keys that are kept: two of each of as many guests as a request can be for


class Private(Protocol):
    """A private key."""

    def public(self) -> bytes:
        """The encoded public key."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret. A ciphertext of another key gives a random one; ``ValueError`` for a wrong size."""


class Provider(Protocol):
    """One implementation."""

    name: str

    def private(self, seed: bytes) -> Private:
        """The key pair of a seed of 64 bytes (d, then z)."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """A fresh shared secret and its ciphertext; ``ValueError`` if ``public`` is not a valid key."""


def _sized(what: str, data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{_NAME.decode()} {what}: {len(data)} bytes, expected {size}")
    return data


class _ByCryptography:
    """ML-KEM-768 of `cryptography`."""

    name = "cryptography"

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import mlkem

        self._module = mlkem
        self._public = lru_cache(maxsize=_KEYS)(self._decoded)
        mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes(SEED_SIZE))  # some wheels have the names only

    def _decoded(self, public: bytes) -> Any:
        return self._module.MLKEM768PublicKey.from_public_bytes(_sized("public key", public, PUBLIC_SIZE))

    def private(self, seed: bytes) -> Private:
        return _CryptographyKey(self._module.MLKEM768PrivateKey.from_seed_bytes(_sized("seed", seed, SEED_SIZE)))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = self._public(public).encapsulate()
        return _sized("secret", secret, SECRET_SIZE), _sized("ciphertext", ciphertext, CIPHERTEXT_SIZE)


class _LibraryKey(Protocol):
    def public_key(self) -> _LibraryPublic: ...
    def decapsulate(self, ciphertext: bytes, /) -> bytes: ...


class _LibraryPublic(Protocol):
    def public_bytes_raw(self) -> bytes: ...


class _CryptographyKey:
    def __init__(self, key: _LibraryKey) -> None:
        self._key = key

    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._key.decapsulate(_sized("ciphertext", ciphertext, CIPHERTEXT_SIZE))


class Libcrypto:
    """ML-KEM-768 of an OpenSSL shared library, 3.5 or later; ``OSError`` if this library does not have it.

    ``functions`` is the loaded library, its functions declared.
    """

    def __init__(self, path: str = SYSTEM_LIBRARY) -> None:
        self.name = path
        self.functions = library = ctypes.CDLL(path)
        pointer, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
        declared = {
            "d2i_AutoPrivateKey": (pointer, [pointer, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long]),
            "EVP_PKEY_new_raw_public_key_ex": (
                pointer,
                [pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
            ),
            "EVP_PKEY_get_raw_public_key": (ctypes.c_int, [pointer, ctypes.c_char_p, size]),
            "EVP_PKEY_is_a": (ctypes.c_int, [pointer, ctypes.c_char_p]),
            "EVP_PKEY_free": (None, [pointer]),
            "EVP_PKEY_CTX_new_from_pkey": (pointer, [pointer, pointer, ctypes.c_char_p]),
            "EVP_PKEY_CTX_free": (None, [pointer]),
            "EVP_PKEY_encapsulate_init": (ctypes.c_int, [pointer, pointer]),
            "EVP_PKEY_encapsulate": (ctypes.c_int, [pointer, ctypes.c_char_p, size, ctypes.c_char_p, size]),
            "EVP_PKEY_decapsulate_init": (ctypes.c_int, [pointer, pointer]),
            "EVP_PKEY_decapsulate": (
                ctypes.c_int,
                [pointer, ctypes.c_char_p, size, ctypes.c_char_p, ctypes.c_size_t],
            ),
            "ERR_clear_error": (None, []),
        }
        for name, (result, arguments) in declared.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise OSError(f"{path}: no function {name}, expected OpenSSL 3.5 or later") from error
            function.restype, function.argtypes = result, arguments
        try:
            self.private(bytes(SEED_SIZE))
        except ValueError as error:
            raise OSError(f"{path}: no {_NAME.decode()}, expected OpenSSL 3.5 or later") from error

    def private(self, seed: bytes) -> Private:
        return _LibcryptoKey(self, _sized("seed", seed, SEED_SIZE))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        library = self.functions
        key = library.EVP_PKEY_new_raw_public_key_ex(
            None, _NAME, None, _sized("public key", public, PUBLIC_SIZE), PUBLIC_SIZE
        )
        self.demand(key is not None)
        try:
            with self.context(key) as context:
                self.demand(library.EVP_PKEY_encapsulate_init(context, None))
                one, other = ctypes.c_size_t(), ctypes.c_size_t()
                sizes = ctypes.byref(one), ctypes.byref(other)
                self.demand(library.EVP_PKEY_encapsulate(context, None, sizes[0], None, sizes[1]))
                self.demand((one.value, other.value) == (CIPHERTEXT_SIZE, SECRET_SIZE))
                ciphertext = ctypes.create_string_buffer(CIPHERTEXT_SIZE)
                secret = ctypes.create_string_buffer(SECRET_SIZE)
                self.demand(library.EVP_PKEY_encapsulate(context, ciphertext, sizes[0], secret, sizes[1]))
                return secret.raw, ciphertext.raw
        finally:
            library.EVP_PKEY_free(key)

    @contextlib.contextmanager
    def context(self, key: int) -> Iterator[int]:
        """A context for one operation with ``key``, freed at the end of the block."""
        found = self.functions.EVP_PKEY_CTX_new_from_pkey(None, key, None)
        self.demand(found is not None)
        try:
            yield found
        finally:
            self.functions.EVP_PKEY_CTX_free(found)

    def demand(self, answer: object) -> None:
        """``ValueError`` unless libcrypto's ``answer`` is 1, or a check true; empties its queue of errors."""
        if answer != 1:
            self.functions.ERR_clear_error()
            raise ValueError(f"{_NAME.decode()}: {self.name} refused")


class _LibcryptoKey:
    """A key pair that libcrypto holds; freed with the object."""

    def __init__(self, owner: Libcrypto, seed: bytes) -> None:
        self._owner, library = owner, owner.functions
        text = _PKCS8 + seed
        at = ctypes.c_char_p(text)
        self._key = library.d2i_AutoPrivateKey(None, ctypes.byref(at), len(text))
        owner.demand(self._key is not None)
        weakref.finalize(self, library.EVP_PKEY_free, self._key)
        owner.demand(library.EVP_PKEY_is_a(self._key, _NAME))
        size = ctypes.c_size_t()
        owner.demand(library.EVP_PKEY_get_raw_public_key(self._key, None, ctypes.byref(size)))
        owner.demand(size.value == PUBLIC_SIZE)
        public = ctypes.create_string_buffer(PUBLIC_SIZE)
        owner.demand(library.EVP_PKEY_get_raw_public_key(self._key, public, ctypes.byref(size)))
        self._public = public.raw

    def public(self) -> bytes:
        return self._public

    def decapsulate(self, ciphertext: bytes) -> bytes:
        owner, library = self._owner, self._owner.functions
        _sized("ciphertext", ciphertext, CIPHERTEXT_SIZE)
        with owner.context(self._key) as context:
            owner.demand(library.EVP_PKEY_decapsulate_init(context, None))
            size = ctypes.c_size_t()
            owner.demand(library.EVP_PKEY_decapsulate(context, None, ctypes.byref(size), ciphertext, CIPHERTEXT_SIZE))
            owner.demand(size.value == SECRET_SIZE)
            secret = ctypes.create_string_buffer(SECRET_SIZE)
            owner.demand(
                library.EVP_PKEY_decapsulate(context, secret, ctypes.byref(size), ciphertext, CIPHERTEXT_SIZE)
            )
            return secret.raw


@cache
def provider() -> Provider | None:
    """The implementation to use on this machine, or None: then the channel is not post-quantum."""
    try:
        return _ByCryptography()
    except (ImportError, UnsupportedAlgorithm):
        pass
    try:
        return Libcrypto()
    except OSError:
        return None
