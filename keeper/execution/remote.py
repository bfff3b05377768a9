"""A key in another process: the transaction goes out, and what comes back is believed only after a look at every byte."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Final, Never
from urllib.parse import unquote, urlsplit, urlunsplit

import aiohttp
import msgspec
from coincurve import PublicKey
from eth_hash.auto import keccak

from keeper.chain.mask import Mask
from keeper.domain.units import Address, TxHash
from keeper.execution.envelope import Transaction, signed_bytes, unsigned_bytes
from keeper.execution.signer import PolicyRefused, Signed, SignerFailed, SigningPolicy, enforce

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_METHODS: Final = ("eth_signTransaction", "account_signTransaction")
"""What web3signer and geth call it, and what clef does."""
_METHOD_NOT_FOUND: Final = -32601
_MOST_BYTES: Final = 1 << 20
_LONG, _LIST, _LONG_LIST = 0xB8, 0xC0, 0xF8
_SIGNED_FIELDS: Final = ("parity", "r", "s")
_FIELDS: Final = (
    "chain id",
    "nonce",
    "tip",
    "fee",
    "gas limit",
    "target",
    "value",
    "data",
    "access list",
    *_SIGNED_FIELDS,
)


class _Pair(msgspec.Struct):
    raw: str


class _Error(msgspec.Struct):
    code: int | None = None
    message: str = ""


class _Answer(msgspec.Struct):
    result: str | _Pair | None = None
    error: _Error | None = None


_answer = msgspec.json.Decoder(_Answer)


class SignerDeviated(PolicyRefused):
    """The signer signed something else than was asked: a defect or an attack, and no signer to go on with."""


class RemoteSigner:
    """Asks web3signer, clef or a node's own account over HTTP, once for each signature. Its address is a secret."""

    __slots__ = ("_headers", "_mask", "_method", "_session", "_timeout_s", "_url", "address", "policy")
    is_remote = True

    def __init__(self, url: str, address: Address, policy: SigningPolicy, *, timeout_s: int = 5) -> None:
        """Sign for `address`; a user and password in the URL become a header."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit(parts._replace(netloc=host))
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        self._mask = Mask(url)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._method = 0
        self.address = address
        self.policy = policy

    async def signed(self, transaction: Transaction) -> Signed:
        """Return a transaction's signature, made elsewhere and checked here.

        Raises: PolicyRefused, before anybody is asked; SignerDeviated; SignerFailed.
        """
        enforce(self.policy, self.address, transaction)
        raw = _bytes(await self._asked(_request(self.address, transaction)))
        check(transaction, self.address, raw)
        return Signed(raw, TxHash(keccak(raw)))

    async def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def __repr__(self) -> str:
        return f"RemoteSigner(0x{self.address.hex()})"

    def __reduce__(self) -> Never:
        raise TypeError("a signer cannot be copied or pickled")

    async def _asked(self, request: Mapping[str, str]) -> str:
        """Return the bytes that the signer gives; its other name is tried where it does not know the method."""
        answer = await self._exchange(request)
        if answer.error is not None and answer.error.code == _METHOD_NOT_FOUND and self._method + 1 < len(_METHODS):
            self._method += 1
            answer = await self._exchange(request)
        if answer.error is not None:
            said = self._mask.clean(answer.error.message)[:120]
            raise SignerFailed(f"the signer refused (code {answer.error.code}): {said}")
        return answer.result.raw if isinstance(answer.result, _Pair) else answer.result or ""

    async def _exchange(self, request: Mapping[str, str]) -> _Answer:
        """Ask once.

        Raises: SignerFailed, without the library's own error, which holds the address.
        """
        session = self._session or self._open()
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": _METHODS[self._method], "params": [request]})
        try:
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                if response.status != 200:
                    why = f"it answered HTTP {response.status}"
                else:
                    content = await _read(response)
                    if content is not None:
                        return _answer.decode(content)
                    why = f"its answer is longer than {_MOST_BYTES} bytes"
        except TimeoutError:
            why = f"no answer within {self._timeout_s} s"
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            why = "its answer is no JSON-RPC"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = f"the connection failed ({type(error).__name__})"
        raise SignerFailed(f"the signer gave no signature: {why}")

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            trust_env=False,
        )
        return self._session


def check(transaction: Transaction, owner: Address, raw: bytes) -> None:
    """Let bytes pass that are this transaction and nothing else, signed by its owner.

    Raises: SignerDeviated; SignerFailed where the bytes are no such transaction at all, or the signature none.
    """
    items = _items(raw)
    if len(items) != len(_FIELDS):
        raise SignerFailed("the signer's answer is no EIP-1559 transaction")
    parity, r, s = (_integer(item) for item in items[-len(_SIGNED_FIELDS) :])
    wanted = signed_bytes(transaction, parity=parity, r=r, s=s)
    if raw != wanted:
        pairs = zip(_FIELDS, items, _items(wanted), strict=True)
        other = [name for name, found, expected in pairs if found != expected]
        raise SignerDeviated(f"the signer signed another transaction: {', '.join(other) or 'its bytes'} differ")
    if _signer_of(keccak(unsigned_bytes(transaction)), parity, r, s) != owner:
        raise SignerDeviated(f"the signer signed with another key than that of 0x{owner.hex()}")


def _signer_of(digest: bytes, parity: int, r: int, s: int) -> Address:
    """Return whose signature it is; of the two that are valid, only the one with the low s counts (EIP-2)."""
    if parity <= 1 and 0 < r < _ORDER and 0 < s <= _ORDER >> 1:
        signature = r.to_bytes(32) + s.to_bytes(32) + bytes([parity])
        try:
            key = PublicKey.from_signature_and_message(signature, digest, hasher=None)
        except ValueError:
            pass
        else:
            return Address(keccak(key.format(compressed=False)[1:])[-20:])
    raise SignerFailed("the signer's answer holds no signature that the chain accepts")


def _request(owner: Address, transaction: Transaction) -> dict[str, str]:
    data = f"0x{transaction.data.hex()}"
    return {
        "type": "0x2",
        "chainId": hex(transaction.chain_id),
        "from": f"0x{owner.hex()}",
        **({"to": f"0x{transaction.to.hex()}"} if transaction.to else {}),  # a creation names nobody
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas_limit),
        "maxFeePerGas": hex(transaction.max_fee_wei),
        "maxPriorityFeePerGas": hex(transaction.tip_wei),
        "value": hex(transaction.value_wei),
        "data": data,
        "input": data,
    }


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        pass
    raise SignerFailed("the signer gave no signature: its answer holds no bytes")


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, or None where it is too long; counted after decompression."""
    chunks, size = [], 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > _MOST_BYTES:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _items(raw: bytes) -> list[bytes]:
    """Return the encoded items of a type 2 envelope's list, each with its prefix; none where it is no such thing."""
    found: list[bytes] = []
    body = _payload(raw[1:]) if raw[:1] == b"\x02" else None
    while body:
        size = _size(body)
        if not 0 < size <= len(body):
            return []
        found.append(body[:size])
        body = body[size:]
    return found


def _payload(encoded: bytes) -> bytes | None:
    """Return what is in a list that is all there is."""
    if not encoded or encoded[0] < _LIST or _size(encoded) != len(encoded):
        return None
    return encoded[1 + max(0, encoded[0] - _LONG_LIST + 1) :]


def _size(encoded: bytes) -> int:
    """Return how many bytes the first item takes, its prefix included."""
    first = encoded[0]
    if first < 0x80:
        return 1
    for start, long in ((_LIST, _LONG_LIST), (0x80, _LONG)):
        if first >= start:
            digits = first - long + 1
            return 1 + first - start if digits <= 0 else 1 + digits + int.from_bytes(encoded[1 : 1 + digits])
    return 0


def _integer(item: bytes) -> int:
    """Read a number of at most 32 bytes; a list or a longer string is none."""
    body = item if item[0] < 0x80 else item[1:]
    if item[0] > 0x80 + 32:
        raise SignerFailed("the signer's answer holds no signature that the chain accepts")
    return int.from_bytes(body)
