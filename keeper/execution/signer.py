"""The only holder of the key, and what any holder of one is to the sender. Nothing is signed that the policy does not name."""

import json
from dataclasses import dataclass, field
from typing import Final, Never, Protocol, Self

from coincurve import PrivateKey
from eth_hash.auto import keccak

from keeper.domain.units import Address, TxHash, Wei
from keeper.errors import ConfigurationError, Transient, Unsafe
from keeper.execution.envelope import NOBODY, Transaction, signed_bytes, unsigned_bytes

APPROVE: Final = bytes.fromhex("095ea7b3")
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_BAD_KEY: Final = "the private key must be 32 bytes in hexadecimal, inside the curve's order"
_BAD_KEYSTORE: Final = "the keystore cannot be opened: the password is wrong or the file is damaged"


class PolicyRefused(Unsafe):
    """Something asked for a signature that the policy forbids. Nothing was signed."""


class SignerFailed(Transient):
    """No signature came, or a wrong one. Nothing was sent; the same may be asked again."""


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """What may be signed: calls by target and selector, allowances by token and spender, creations by their code's hash.

    Value goes only with calls that are named as payable, and never more of it than `max_value_wei`.

    A transfer of nothing to oneself with no data is always allowed: it cancels.
    """

    chain_id: int
    max_fee_wei: Wei
    max_gas_limit: int
    max_value_wei: Wei = Wei(0)
    calls: frozenset[tuple[Address, bytes]] = frozenset()
    payable: frozenset[tuple[Address, bytes]] = frozenset()
    approvals: frozenset[tuple[Address, Address]] = frozenset()
    creations: frozenset[bytes] = frozenset()
    """The keccak of the code, with its constructor's arguments, of every contract that may be created."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction's bytes and its hash."""

    raw: bytes = field(repr=False)
    tx_hash: TxHash


class Signatory(Protocol):
    """Whoever signs for one address, in this process or elsewhere."""

    policy: SigningPolicy

    @property
    def address(self) -> Address:
        """Return the account."""
        ...

    @property
    def is_remote(self) -> bool:
        """Return whether what is to be signed leaves the process before it is signed."""
        ...

    async def signed(self, transaction: Transaction) -> Signed:
        """Return a transaction's signature, checked.

        Raises: PolicyRefused; SignerFailed.
        """
        ...


class Signer:
    """Signs for one address. It cannot be printed, copied or pickled into giving the key away."""

    __slots__ = ("_key", "address", "policy")
    is_remote = False

    def __init__(self, key: PrivateKey, policy: SigningPolicy) -> None:
        """Hold the key; use `from_hex` or `from_keystore` to make one."""
        self._key = key
        self.policy = policy
        self.address = Address(keccak(key.public_key.format(compressed=False)[1:])[-20:])

    @classmethod
    def from_hex(cls, secret: str, policy: SigningPolicy) -> Self:
        """Read a raw key.

        Raises: ConfigurationError, with a constant message.
        """
        try:
            key = bytes.fromhex(secret.strip().removeprefix("0x"))
        except ValueError:
            raise ConfigurationError(_BAD_KEY) from None
        if len(key) != 32 or not 0 < int.from_bytes(key) < _ORDER:
            raise ConfigurationError(_BAD_KEY)
        return cls(PrivateKey(key), policy)

    @classmethod
    def from_keystore(cls, document: str, password: str, policy: SigningPolicy) -> Self:
        """Open an Ethereum keystore (version 3). Slow on purpose: call it once, before the loop starts.

        Raises: ConfigurationError, with a constant message.
        """
        from eth_account import Account  # noqa: PLC0415 - takes most of a second to import, and few keys are keystores

        try:
            key = bytes(Account.decrypt(json.loads(document), password))
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            raise ConfigurationError(_BAD_KEYSTORE) from None
        return cls(PrivateKey(key), policy)

    def sign(self, transaction: Transaction) -> Signed:
        """Sign an EIP-1559 transaction that the policy allows.

        Raises: PolicyRefused.
        """
        enforce(self.policy, self.address, transaction)
        signature = self._key.sign_recoverable(keccak(unsigned_bytes(transaction)), hasher=None)
        raw = signed_bytes(
            transaction,
            parity=signature[64],
            r=int.from_bytes(signature[:32]),
            s=int.from_bytes(signature[32:64]),
        )
        return Signed(raw, TxHash(keccak(raw)))

    async def signed(self, transaction: Transaction) -> Signed:
        """Sign at once: the key is here.

        Raises: PolicyRefused.
        """
        return self.sign(transaction)

    def __repr__(self) -> str:
        return f"Signer(0x{self.address.hex()})"

    def __reduce__(self) -> Never:
        raise TypeError("a signer cannot be copied or pickled")


def enforce(policy: SigningPolicy, owner: Address, transaction: Transaction) -> None:
    """Let pass what a policy allows the account to sign.

    Raises: PolicyRefused, saying why.
    """
    why = refusal(policy, owner, transaction)
    if why is not None:
        raise PolicyRefused(f"refused to sign: {why}")


def refusal(policy: SigningPolicy, owner: Address, transaction: Transaction) -> str | None:
    """Say why a transaction must not be signed, or None."""
    if transaction.chain_id != policy.chain_id or policy.chain_id <= 0:
        return f"chain {transaction.chain_id} is not {policy.chain_id}"
    is_payable = (transaction.to, transaction.data[:4]) in policy.payable
    if transaction.value_wei != 0 and not (is_payable and 0 < transaction.value_wei <= policy.max_value_wei):
        return f"it sends {transaction.value_wei} wei of value"
    if transaction.max_fee_wei > policy.max_fee_wei:
        return f"a fee of {transaction.max_fee_wei} wei is above the cap of {policy.max_fee_wei}"
    if not 0 <= transaction.tip_wei <= transaction.max_fee_wei:
        return "the tip is above the fee"
    if transaction.gas_limit > policy.max_gas_limit:
        return f"a gas limit of {transaction.gas_limit} is above the cap of {policy.max_gas_limit}"
    is_allowed = _is_allowed(policy, owner, transaction.to, transaction.data)
    what = f"the call to 0x{transaction.to.hex()}" if transaction.to else "the creation of a contract"
    return None if is_allowed else what


def _is_allowed(policy: SigningPolicy, owner: Address, to: Address, data: bytes) -> bool:
    if to == NOBODY:
        return keccak(data) in policy.creations
    if to == owner:
        return not data
    if data[:4] == APPROVE:
        return len(data) == 68 and (to, Address(data[16:36])) in policy.approvals and not any(data[4:16])
    return len(data) >= 4 and (to, data[:4]) in policy.calls
