"""To the executor and back: programs and the owner's orders to calldata, events and revert data to what they say."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from keeper.domain import reverts
from keeper.domain.abi import WORD, address_word, named, number_word, selector, split, topic
from keeper.domain.chain import Call, Log
from keeper.domain.outcome import Reason
from keeper.domain.program import Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, Address, TokenAmount
from keeper.errors import Invalid

MAX_STEPS: Final = 24
MAX_OUTPUTS: Final = 8
MAX_DOORS: Final = 4
"""How many doors may lie inside each other; `PULL` is none of them."""
MAX_DATA: Final = 288
MAX_PAYLOADS: Final = 2
MAX_PAYLOAD: Final = 8192
MAX_PERMITS: Final = 64
MAX_SELECTORS: Final = 16
MAX_SWEPT: Final = 16

EXECUTE: Final = selector(
    "execute((uint256,address,address,address,uint256,uint256,uint256,bytes)[],(address,uint256)[],"
    "uint256,uint256,bytes[])"
)
AUTHORIZE: Final = selector("authorize((address,uint256,bytes32)[])")
AUTHORIZE_SELECTORS: Final = selector("authorize_selectors(address,bytes4[],bool)")
SET_CALLER: Final = selector("set_caller(address,bool)")
PAUSE: Final = selector("pause()")
UNPAUSE: Final = selector("unpause()")
SWEEP: Final = selector("sweep(address[])")
TRANSFER_OWNERSHIP: Final = selector("transfer_ownership(address)")
ACCEPT_OWNERSHIP: Final = selector("accept_ownership()")
SELECTORS: Final = frozenset({EXECUTE})
"""What a caller's signer has to allow to liquidate; `PAUSE` is the only other thing that a caller may do."""
PAYABLE: Final[frozenset[bytes]] = frozenset()

# what can be asked
OWNER: Final = selector("owner()")
PENDING_OWNER: Final = selector("pending_owner()")
IS_CALLER: Final = selector("is_caller(address)")
IS_PAUSED: Final = selector("is_paused()")
PERMITS: Final = selector("permits(address)")
INIT_CODE_HASHES: Final = selector("init_code_hashes(address)")
IS_SELECTOR_ALLOWED: Final = selector("selectors(address,bytes4)")

EXECUTED: Final = topic("Executed(address)")
PROFIT: Final = topic("Profit(address,uint256)")
STEP_FAILED: Final = topic("StepFailed(uint256,bytes)")

_RETURN_CODE: Final = selector("ReturnCode(uint256)")
_ERROR_STRING: Final = selector("Error(string)")
_PREFIX: Final = b"executor: "
_STRINGS: Final = MappingProxyType(
    {
        f"executor: {word}": (reason, text)
        for word, (reason, text) in {
            "account": (Reason.REVERTED, "the zero address"),
            "allowance": (Reason.TOKEN_BLOCKED, "an allowance cannot be taken back"),
            "caller": (Reason.REVERTED, "neither a caller nor the owner"),
            "dear": (Reason.SIMULATION_REVERTED, "a callback asks for more than allowed"),
            "door": (Reason.REVERTED, "a callback through another door, or with its terms changed"),
            "forbidden": (Reason.REVERTED, "a token's function is no router's"),
            "idle": (Reason.REVERTED, "native currency outside a program"),
            "kind": (Reason.REVERTED, "no such step"),
            "late": (Reason.REVERTED, "after the last block or the deadline"),
            "least": (Reason.SIMULATION_REVERTED, "less came out than demanded"),
            "locked": (Reason.REVERTED, "a program is running"),
            "nested": (Reason.REVERTED, "too many doors inside each other"),
            "optional": (Reason.REVERTED, "a door cannot be optional"),
            "owner": (Reason.REVERTED, "not the owner"),
            "paused": (Reason.PAUSED, "the executor is paused"),
            "payload": (Reason.REVERTED, "a router step names no payload"),
            "pending": (Reason.REVERTED, "not the pending owner"),
            "permit": (Reason.UNTRUSTED, "the target is not authorised for this kind of step"),
            "refused": (Reason.REVERTED, "the owner does not take native currency"),
            "selector": (Reason.UNTRUSTED, "the router's function is not authorised"),
            "short": (Reason.SIMULATION_REVERTED, "less was handed over than was asked for"),
            "stranger": (Reason.REVERTED, "a callback from no open door"),
            "target": (Reason.REVERTED, "nothing with code, or the executor itself"),
            "token": (Reason.TOKEN_BLOCKED, "a token said false, or has no code"),
            "unopened": (Reason.REVERTED, "a door's contract did not call back"),
            "unreadable": (Reason.TOKEN_BLOCKED, "a balance or an allowance cannot be read"),
        }.items()
    }
)


@dataclass(frozen=True, slots=True)
class Permit:
    """What one target may be called for; `init_code_hash` is what a factory's pools are created from."""

    target: Address
    kinds: frozenset[StepKind]
    init_code_hash: bytes = bytes(WORD)

    @property
    def mask(self) -> int:
        """Return the kinds as the contract keeps them, one bit each."""
        return sum(1 << kind for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Executed:
    """A program ran."""

    caller: Address


@dataclass(frozen=True, slots=True)
class Profit:
    """So much of a token went to the owner."""

    token: Address
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An optional step failed, with so much of the revert data as the contract kept."""

    index: int
    reason: bytes


Event = Executed | Profit | StepFailed


def call(executor: Address, program: Program) -> Call:
    """Return the call that runs a program.

    Raises: Invalid where the program is larger than the contract takes.
    """
    steps, payloads = _with_payloads(program.steps)
    _at_most(len(steps), MAX_STEPS, "steps")
    _at_most(len(program.outputs), MAX_OUTPUTS, "outputs")
    _at_most(len(payloads), MAX_PAYLOADS, "payloads")
    outputs = b"".join(address_word(each.token) + _unsigned(each.least) for each in program.outputs)
    parts = (
        _array(list(map(_step, steps))),
        number_word(len(program.outputs)) + outputs,
        _array(list(map(_bytes, payloads))),
    )
    at = [5 * WORD]
    for part in parts:
        at.append(at[-1] + len(part))
    head = (at[0], at[1], program.last_block, program.deadline_s, at[2])
    return Call(executor, EXECUTE + b"".join(map(_unsigned, head)) + b"".join(parts))


def authorize(executor: Address, permits: Sequence[Permit]) -> Call:
    """Return the owner's order that says what may be called; nothing is left of what was said of a target before."""
    _at_most(len(permits), MAX_PERMITS, "permits")
    words = (address_word(each.target) + number_word(each.mask) + each.init_code_hash for each in permits)
    return Call(executor, AUTHORIZE + number_word(WORD) + number_word(len(permits)) + b"".join(words))


def authorize_selectors(executor: Address, router: Address, selectors: Sequence[bytes], *, allowed: bool) -> Call:
    """Return the owner's order that says which of a router's functions may be called."""
    _at_most(len(selectors), MAX_SELECTORS, "selectors")
    head = address_word(router) + number_word(3 * WORD) + number_word(allowed) + number_word(len(selectors))
    return Call(executor, AUTHORIZE_SELECTORS + head + b"".join(each.ljust(WORD, b"\0") for each in selectors))


def set_caller(executor: Address, account: Address, *, allowed: bool) -> Call:
    """Return the owner's order that says whether an account may run programs."""
    return Call(executor, SET_CALLER + address_word(account) + number_word(allowed))


def pause(executor: Address) -> Call:
    """Return a caller's or the owner's order to stop running programs."""
    return Call(executor, PAUSE)


def unpause(executor: Address) -> Call:
    """Return the owner's order to run programs again."""
    return Call(executor, UNPAUSE)


def sweep(executor: Address, tokens: Sequence[Address]) -> Call:
    """Return the owner's order to send it all that is held of some tokens, native currency among them."""
    _at_most(len(tokens), MAX_SWEPT, "tokens")
    return Call(executor, SWEEP + number_word(WORD) + number_word(len(tokens)) + b"".join(map(address_word, tokens)))


def transfer_ownership(executor: Address, account: Address) -> Call:
    """Return the owner's offer of the ownership; the zero address withdraws it."""
    return Call(executor, TRANSFER_OWNERSHIP + address_word(account))


def accept_ownership(executor: Address) -> Call:
    """Return the new owner's acceptance."""
    return Call(executor, ACCEPT_OWNERSHIP)


def events(executor: Address, logs: Iterable[Log]) -> Iterator[Event]:
    """Yield what the executor said in some logs, in order.

    Raises: Invalid for a log that it could not have written.
    """
    for log in logs:
        if log.address != executor or not log.topics:
            continue
        name = log.topics[0]
        if name == EXECUTED:
            yield Executed(named(log, [1])[0])
        elif name == PROFIT:
            yield Profit(named(log, [1])[0], TokenAmount(_words(log, 1)[0]))
        elif name == STEP_FAILED:
            index, _, length = _words(log, 3)
            yield StepFailed(index, log.data[3 * WORD : 3 * WORD + length])


def decode_revert(data: bytes) -> tuple[Reason, str] | None:
    """Return what the executor itself says in revert data, or None where a contract that it called says something.

    That contract's own decoder is to be asked then: the executor passes its words on, up to 256 bytes.
    """
    if data[:4] == _RETURN_CODE and len(data) >= 4 + WORD:
        return Reason.REVERTED, f"return code {int.from_bytes(data[4 : 4 + WORD], 'big')}"
    if data[:4] == _ERROR_STRING and data[4 + 2 * WORD :].startswith(_PREFIX):
        return reverts.decode(data, strings=_STRINGS, errors={})
    return None


def _words(log: Log, count: int) -> list[int]:
    found = split(log.data[: count * WORD])
    if len(found) < count:
        raise Invalid(f"a log of the executor in block {log.block_number} lacks data")
    return found


def _with_payloads(steps: Sequence[Step]) -> tuple[list[tuple[Step, bytes]], list[bytes]]:
    """Return each step with its data as the contract takes it, and what routers are called with, each once."""
    payloads: list[bytes] = []
    encoded = []
    for step in steps:
        data = step.data
        if step.kind is StepKind.SWAP_ROUTER:
            _at_most(len(data), MAX_PAYLOAD, "bytes for a router")
            if data not in payloads:
                payloads.append(data)
            data = number_word(payloads.index(data))
        _at_most(len(data), MAX_DATA, "bytes of a step's data")
        encoded.append((step, data))
    return encoded, payloads


def _step(encoded: tuple[Step, bytes]) -> bytes:
    step, data = encoded
    addresses = b"".join(map(address_word, (step.target, step.give, step.take)))
    numbers = b"".join(map(_unsigned, (step.amount, step.limit, step.gas)))
    return number_word(step.kind) + addresses + numbers + number_word(8 * WORD) + _bytes(data)


def _array(items: Sequence[bytes]) -> bytes:
    """Encode an array of dynamic items: how many, where each begins, and the items."""
    at, offsets = len(items) * WORD, []
    for item in items:
        offsets.append(number_word(at))
        at += len(item)
    return number_word(len(items)) + b"".join(offsets) + b"".join(items)


def _bytes(data: bytes) -> bytes:
    return number_word(len(data)) + data + bytes(-len(data) % WORD)


def _unsigned(number: int) -> bytes:
    if not 0 <= number <= MAX_UINT256:
        raise Invalid(f"{number} is no unsigned word")
    return number_word(number)


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise Invalid(f"the executor takes at most {most} {what}, not {count}")
