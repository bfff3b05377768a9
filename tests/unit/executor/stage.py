"""The shipped executor on a chain of its own, among contracts that do what they are told; and how to speak to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import boa  # type: ignore[import-untyped]
from eth_abi.abi import encode
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak

from keeper.domain.abi import WORD, address_word, number_word, selector
from keeper.domain.chain import Call, Log
from keeper.domain.program import Output, Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, NATIVE, ZERO_ADDRESS, Address, BlockHash, TokenAmount, TxHash
from keeper.executor import artifact, calls

UNIT: Final = 10**18
V3_FEE: Final = 3000
V2_FEE_BPS: Final = 30
GAS: Final = 10_000_000
DOORS: Final = frozenset(kind for kind in StepKind if kind <= StepKind.PRE_LIQUIDATE_MORPHO)
EXECUTE_TYPES: Final = (
    "(uint256,address,address,address,uint256,uint256,uint256,bytes)[]",
    "(address,uint256)[]",
    "uint256",
    "uint256",
    "bytes[]",
)
_POOLS: Final = {
    "Counterparty": (StepKind.SWAP_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.FLASH_UNISWAP_V3),
    "Pair": (StepKind.SWAP_UNISWAP_V2,),
}
_CONTRACTS: Final = Path(__file__).parent / "contracts"

env: Final[Any] = boa.env


@dataclass(frozen=True, slots=True)
class Done:
    """How a transaction ended: `output` is revert data where it failed."""

    ok: bool
    output: bytes
    gas_used: int
    logs: tuple[Log, ...]

    @property
    def said(self) -> str:
        """Return the executor's own word of why it failed."""
        named = None if self.ok else calls.decode_revert(self.output)
        return "" if named is None else named[1].split(":")[1].strip()


@cache
def compiled(name: str) -> Any:
    return boa.load_partial(str(_CONTRACTS / f"{name}.vy"))


def raw(contract: Any) -> Address:
    """Return an address as the keeper has it."""
    return Address(bytes.fromhex((contract if isinstance(contract, str) else contract.address)[2:]))


def account(name: str) -> Address:
    made = env.generate_address(name)
    env.set_balance(made, 10**24)
    return raw(made)


def words(*values: int | Address) -> bytes:
    """Encode a step's own data."""
    return b"".join(number_word(each) if isinstance(each, int) else address_word(each) for each in values)


def encoded(signature: str, *values: Any) -> bytes:
    """Encode a call as its contract's own interface says."""
    if not values:
        return selector(signature)
    arguments = parse(signature[signature.index("(") :])
    assert isinstance(arguments, TupleType)
    return selector(signature) + encode([each.to_type_str() for each in arguments.components], values)


def send(to: Address, data: bytes, *, sender: Address, value: int = 0, gas: int = GAS, is_new: bool = True) -> Done:
    """Send a transaction, or make another call in the same one: its transient storage is then as it was left."""
    if is_new:
        env.evm.vm.state.clear_transient_storage()
    where = "0x" + to.hex()
    done = env.execute_code(to_address=where, sender="0x" + sender.hex(), data=data, value=value, gas=gas)
    logs = tuple(
        Log(
            Address(at),
            tuple(number_word(each) for each in topics),
            body,
            1,
            BlockHash(bytes(32)),
            i,
            TxHash(bytes(32)),
        )
        for i, (at, topics, body) in enumerate(done.get_log_entries() if not done.is_error else ())
    )
    return Done(not done.is_error, bytes(done.output), done.get_gas_used(), logs)


@dataclass(slots=True)
class Stage:
    """An executor, its owner and a caller, three tokens, and one counterparty that is everything else.

    `first` and `other` are sorted as a pool sorts them. `pools` are two more, where Uniswap's factories would have
    created them: a "Counterparty" for v3, a "Pair" for v2.
    """

    owner: Address
    caller: Address
    stranger: Address
    executor: Address
    first: Any
    other: Any
    wrapped: Any
    party: Any
    pools: dict[str, Any] = field(default_factory=dict)
    factories: dict[str, Any] = field(default_factory=dict)

    def do(self, order: Call, sender: Address | None = None) -> Done:
        """Send an order, by the owner unless it says by whom."""
        return send(order.to, order.data, sender=self.owner if sender is None else sender)

    def run(
        self,
        steps: Sequence[Step],
        outputs: Sequence[Output] = (),
        *,
        sender: Address | None = None,
        last_block: int = MAX_UINT256,
        deadline_s: int = MAX_UINT256,
        gas: int = GAS,
    ) -> Done:
        """Run a program, by the caller unless it says by whom."""
        order = calls.call(self.executor, Program(tuple(steps), tuple(outputs), last_block, deadline_s))
        return send(order.to, order.data, sender=self.caller if sender is None else sender, gas=gas)

    def permit(self, target: Any, *kinds: StepKind, code_hash: bytes = bytes(WORD)) -> None:
        permit = calls.Permit(raw(target), frozenset(kinds), code_hash)
        assert self.do(calls.authorize(self.executor, [permit])).ok

    def held(self, token: Any, account: Address | None = None) -> int:
        return int(token.balanceOf("0x" + (self.executor if account is None else account).hex()))

    def fund(self, token: Any, amount: int, account: Any = None) -> None:
        token.mint("0x" + self.executor.hex() if account is None else account, amount)


def arrange(
    party: Any,
    *,
    take: Any = None,
    sent: int = 0,
    give: Any = None,
    due: int = 0,
    callback: bytes = b"",
    times: int = 1,
    reason: bytes = b"",
) -> None:
    """Tell a counterparty what to do when it is called, and give it what it hands over."""
    if take == NATIVE:
        env.set_balance(party.address, sent)
    elif take is not None:
        take.mint(party.address, sent)
    zero = "0x" + ZERO_ADDRESS.hex()
    taken = "0x" + NATIVE.hex() if take == NATIVE else zero if take is None else take.address
    party.arrange((taken, sent, zero if give is None else give.address, due, callback, times, reason))


def built() -> Stage:
    """Put all on the chain."""
    owner, caller, stranger = account("owner"), account("caller"), account("stranger")
    where, _ = env.deploy_code(bytecode=artifact.load().creation_data(owner, [caller]))
    first, other = sorted((compiled("Token").deploy(False) for _ in range(2)), key=raw)
    wrapped, party = compiled("Native").deploy(), compiled("Counterparty").deploy()
    stage = Stage(owner, caller, stranger, raw(where), first, other, wrapped, party)
    for kind, kinds in _POOLS.items():
        factory = compiled("Factory").deploy(compiled(kind).deploy_as_blueprint().address)
        create = factory.create_v2 if kind == "Pair" else factory.create_v3
        pool = create(first.address, other.address, *([] if kind == "Pair" else [V3_FEE]))
        stage.pools[kind], stage.factories[kind] = compiled(kind).at(pool), factory
        stage.permit(factory, *kinds, code_hash=keccak(compiled(kind).compiler_data.bytecode))
    return stage


def output(token: Any, least: int) -> Output:
    return Output(Address(token) if isinstance(token, bytes) else raw(token), TokenAmount(least))


def raw_program(steps: Sequence[tuple[Any, ...]], payloads: Sequence[bytes] = ()) -> bytes:
    """Encode a program that the keeper's own encoder would not."""
    return calls.EXECUTE + encode(EXECUTE_TYPES, [steps, [], MAX_UINT256, MAX_UINT256, payloads])
