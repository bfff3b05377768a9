"""Calldata is read as its router would read it, or not at all."""

from dataclasses import replace

import pytest
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.units import Address, TokenAmount
from keeper.errors import Invalid
from keeper.venues.allow import Ask, Distrusted, Layout, Offer, check, number
from keeper.venues.kyberswap import SWAP as KYBER_SWAP
from keeper.venues.oneinch import SWAP as ONE_INCH_SWAP
from keeper.venues.zerox import EXEC
from tests.unit.venues.asking import EXECUTOR, GIVE, ORIGIN, STRANGER, TAKE
from tests.unit.venues.service import AGENT, SETTLER, Deal, KyberStall, called

AMOUNT = TokenAmount(1000)
ASK = Ask(give=GIVE, take=TAKE, amount=AMOUNT, executor=EXECUTOR, origin=ORIGIN, tolerance_bps=50)
ROUTER = Address(b"\x77" * 20)
DEAL = Deal(router=ROUTER, give=GIVE, take=TAKE, amount=AMOUNT, least=1990, recipient=EXECUTOR, bought=2000)

DESCRIPTION = "(address,address,address,address,uint256,uint256,uint256)"
KYBER = "(address,address,address[],uint256[],address[],uint256[],address,uint256,uint256,uint256,bytes)"
EXECUTION = f"(address,address,bytes,{KYBER},bytes)"
EXECUTE = ["(address,address,uint256)", "bytes[]", "bytes32"]
EXEC_TYPES = ["address", "address", "uint256", "address", "bytes"]
ZERO = "0x" + "00" * 20


def one_inch(deal: Deal) -> bytes:
    description = (deal.give, deal.take, AGENT, deal.recipient, deal.amount, deal.least, deal.flags)
    types = ["address", DESCRIPTION, "bytes"]
    return called(deal, ONE_INCH_SWAP.signature, types, [AGENT, description, b"\x01" * 40])


def kyber(deal: Deal) -> bytes:
    return KyberStall(ROUTER)._calldata(deal)


def zero_ex(deal: Deal) -> bytes:
    words = [(deal.recipient, deal.take, deal.least), [b"\x01" * 36], b"\x07" * 32]
    inner = called(deal, "execute((address,address,uint256),bytes[],bytes32)", EXECUTE, words)
    return called(deal, EXEC.signature, EXEC_TYPES, [deal.operator, deal.give, deal.amount, deal.target, inner])


Read = tuple[str, str, int, int, str]


def read_one_inch(data: bytes) -> Read:
    _, (give, take, _, recipient, amount, least, _), _ = decode(["address", DESCRIPTION, "bytes"], data[4:])
    return give, take, amount, least, recipient


def read_kyber(data: bytes) -> Read:
    ((_, _, _, described, _),) = decode([EXECUTION], data[4:])
    give, take, _, _, _, _, recipient, amount, least, _, _ = described
    return give, take, amount, least, recipient


def read_zero_ex(data: bytes) -> Read:
    operator, give, amount, target, inner = decode(EXEC_TYPES, data[4:])
    assert operator == target == "0x" + SETTLER.hex()
    (recipient, take, least), _, _ = decode(EXECUTE, inner[4:])
    assert recipient != ZERO
    return give, take, amount, least, recipient


CASES = {"oneinch": (ONE_INCH_SWAP, one_inch), "kyberswap": (KYBER_SWAP, kyber), "zerox": (EXEC, zero_ex)}
READERS = {"oneinch": read_one_inch, "kyberswap": read_kyber, "zerox": read_zero_ex}


def passes(layout: Layout, data: bytes, *, amount: int = 2000) -> None:
    offer = Offer(ROUTER, data, TokenAmount(amount))
    check(offer, ASK, router=ROUTER, layouts={layout.selector: layout}, trusted=frozenset({SETTLER}))


@pytest.mark.parametrize("name", CASES)
def test_an_honest_call_passes_and_reads_back(name: str):
    layout, make = CASES[name]
    passes(layout, make(DEAL))
    read = READERS[name](make(DEAL))
    assert read == ("0x" + GIVE.hex(), "0x" + TAKE.hex(), AMOUNT, 1990, "0x" + EXECUTOR.hex())


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_whatever_passes_means_the_same_to_an_independent_decoder(name: str, data: st.DataObject):
    layout, make = CASES[name]
    calldata = bytearray(make(DEAL))
    words = (len(calldata) - 4) // 32
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        at = 4 + 32 * data.draw(st.integers(0, words - 1), label="word")
        small = st.integers(0, 40).map(lambda place: 32 * place)
        value = data.draw(
            small | st.integers(0, 2**256 - 1) | st.sampled_from([int.from_bytes(STRANGER), int.from_bytes(EXECUTOR)]),
            label="value",
        )
        calldata[at : at + 32] = value.to_bytes(32)
    try:
        passes(layout, bytes(calldata))
    except Invalid:
        return
    try:
        give, take, amount, least, recipient = READERS[name](bytes(calldata))
    except (DecodingError, OverflowError):
        return  # no contract would decode it either: it reverts
    assert (give, take, amount) == ("0x" + GIVE.hex(), "0x" + TAKE.hex(), AMOUNT)
    assert recipient in {"0x" + EXECUTOR.hex(), ZERO}
    assert 1989 <= least <= 2000


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("word", [GIVE, TAKE, EXECUTOR, AMOUNT.to_bytes(32), (1990).to_bytes(32)])
def test_calldata_that_ends_within_a_word_that_matters_is_refused(name: str, word: bytes):
    layout, make = CASES[name]
    whole = make(DEAL)
    with pytest.raises(Invalid):
        passes(layout, whole[: whole.index(word) + len(word) - 1])


@pytest.mark.parametrize("name", CASES)
def test_an_address_with_something_above_it_is_no_address(name: str):
    layout, make = CASES[name]
    data = make(DEAL)
    at = data.index(EXECUTOR) - 1
    with pytest.raises(Invalid):
        passes(layout, data[:at] + b"\x01" + data[at + 1 :])


@pytest.mark.parametrize(
    ("least", "amount", "is_good"),
    [
        (1990, 2000, True),
        (1989, 2000, True),
        (1900, 2000, False),
        (2000, 2000, True),
        (2001, 2000, False),
        (0, 2000, False),
        (0, 0, False),
        (1, 1, True),
        (1, 2, True),
    ],
)
def test_the_least_amount_lies_between_the_tolerance_and_the_quote(least: int, amount: int, is_good: bool):
    data = one_inch(replace(DEAL, least=least))
    if is_good:
        passes(ONE_INCH_SWAP, data, amount=amount)
    else:
        with pytest.raises(Invalid):
            passes(ONE_INCH_SWAP, data, amount=amount)


def test_a_carried_call_longer_than_what_is_there_is_refused():
    data = zero_ex(DEAL)
    offset = data.index((0xA0).to_bytes(32))
    for wrong in (2**255, len(data), 0):
        with pytest.raises(Invalid):
            passes(EXEC, data[:offset] + wrong.to_bytes(32) + data[offset + 32 :])
    with pytest.raises(Distrusted, match="no call"):
        passes(replace(EXEC, inner=None), data)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e5", " 1", "1_0", "0x1", "٣", "1" * 79, "None"])
def test_only_a_plain_decimal_number_is_an_amount(text: str):
    with pytest.raises(ValueError, match="decimal"):
        number(text)


def test_a_plain_decimal_number_is_read_exactly():
    assert number("0") == 0
    assert number(str(2**256 - 1)) == 2**256 - 1
