"""Contract data as bytes: what is too short is unreadable, what no contract could say is invalid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import abi
from keeper.domain.chain import Log, ViewResult
from keeper.domain.units import Address, BlockHash, TxHash
from keeper.errors import Invalid

TOKEN = Address(bytes.fromhex("a0b8") + bytes(16) + bytes.fromhex("eb48"))
LABEL = "0xa0b8..eb48"
REVERTED = ViewResult(ok=False, data=bytes(320))


def said(*words: int, extra: bytes = b"") -> ViewResult:
    return ViewResult(ok=True, data=b"".join(map(abi.number_word, words)) + extra)


def log(*topics: bytes, data: bytes = b"") -> Log:
    return Log(TOKEN, topics, data, 7, BlockHash(bytes(32)), 0, TxHash(bytes(32)))


def test_functions_and_events_go_by_the_hash_of_their_signature() -> None:
    assert abi.selector("transfer(address,uint256)").hex() == "a9059cbb"
    assert abi.topic("Transfer(address,address,uint256)").hex().startswith("ddf252ad1be2c89b69c2b068fc378daa")
    assert (abi.BALANCE_OF.hex(), abi.ALLOWANCE.hex(), abi.LATEST_ROUND.hex()) == ("70a08231", "dd62ed3e", "feaf968c")


@given(st.integers(-(2**255), 2**255 - 1))
def test_a_signed_number_survives_its_word(number: int) -> None:
    word = int.from_bytes(abi.number_word(number), "big")
    assert abi.signed(word) == number
    assert len(abi.number_word(number)) == abi.WORD


def test_the_edges_of_twos_complement() -> None:
    assert abi.number_word(-1) == b"\xff" * 32
    assert abi.signed(2**255 - 1) == 2**255 - 1
    assert abi.signed(2**255) == -(2**255)
    assert abi.signed(2**256 - 1) == -1


@pytest.mark.parametrize("result", [said(1), said(1, extra=bytes(31)), ViewResult(ok=True, data=b""), REVERTED])
def test_an_answer_that_reverts_or_is_too_short_is_unreadable_and_no_value(result: ViewResult) -> None:
    with pytest.raises(abi.Unreadable, match="the thing") as unreadable:
        abi.words(result, 2, "the thing")
    assert isinstance(unreadable.value, Invalid)  # which is put aside alone


def test_an_answer_may_be_longer_than_what_is_read_of_it() -> None:
    assert abi.words(said(1, 2, 3, extra=b"\x01"), 2, "it") == [1, 2]
    assert abi.number(said(9, 8), "it") == 9
    assert abi.split(bytes(31)) == []
    assert abi.split(abi.number_word(5) + bytes(31)) == [5]


def test_an_array_is_read_whole_or_not_at_all() -> None:
    assert abi.array(said(32, 2, 5, 6), 2, "it") == [5, 6]
    assert abi.array(said(32, 0), 2, "it") == []
    with pytest.raises(Invalid, match="says 3"):
        abi.array(said(32, 3, 5, 6, 7), 2, "it")
    with pytest.raises(Invalid):
        abi.array(said(32, 2**255), 2, "it")
    with pytest.raises(abi.Unreadable):
        abi.array(said(32, 2, 5), 2, "it")
    with pytest.raises(abi.Unreadable):
        abi.array(said(32), 2, "it")


def test_an_address_has_twenty_bytes() -> None:
    assert abi.address(int.from_bytes(TOKEN)) == TOKEN
    assert abi.address_word(TOKEN) == bytes(12) + TOKEN
    with pytest.raises(Invalid):
        abi.address(2**160)


def test_bits_are_taken_by_offset_and_width() -> None:
    assert abi.bits(0b1101_0110, (1, 3)) == 0b011
    assert abi.bits(2**256 - 1, (255, 8)) == 1


def test_an_event_names_addresses_in_its_topics_and_words_in_its_data() -> None:
    event = log(bytes(32), abi.address_word(TOKEN), b"\xff" * 32, data=abi.number_word(4) + b"\x01")
    assert abi.named(event, (1,)) == [TOKEN]
    assert abi.named(event, ()) == []
    assert abi.log_words(event, 1) == [4]
    for places in ((3,), (1, 5)):
        with pytest.raises(Invalid, match="block 7 lacks a topic"):
            abi.named(event, places)
    with pytest.raises(Invalid):
        abi.named(event, (2,))
    with pytest.raises(Invalid, match="block 7 lacks data"):
        abi.log_words(event, 2)


def text(raw: bytes, length: int | None = None) -> bytes:
    return abi.number_word(32) + abi.number_word(len(raw) if length is None else length) + raw.ljust(32, b"\0")


@pytest.mark.parametrize(
    ("data", "symbol"),
    [
        (text(b"USDC"), "USDC"),
        (b"MKR".ljust(32, b"\0"), "MKR"),
        (text(b"A" * 17), "A" * 16),
        (text(b""), LABEL),
        (text(b"two words"), LABEL),
        (text(b"caf\xc3\xa9"), LABEL),
        (text(b"\x1b[31m"), LABEL),
        (text(b"A" * 33), LABEL),
        (text(b"USDC", 2**255), LABEL),
        (bytes(32), LABEL),
        (b"", LABEL),
        (b"\xff" * 320, LABEL),
        (b"US\0C".ljust(32, b"\0"), LABEL),
    ],
)
def test_a_symbol_is_plain_text_or_a_label_made_of_the_address(data: bytes, symbol: str) -> None:
    assert abi.symbol(ViewResult(ok=True, data=data), TOKEN) == symbol
    assert abi.symbol(ViewResult(ok=False, data=data), TOKEN) == LABEL


@given(st.binary(max_size=200))
def test_whatever_a_token_calls_itself_its_symbol_is_short_and_printable(data: bytes) -> None:
    symbol = abi.symbol(ViewResult(ok=True, data=data), TOKEN)
    assert 0 < len(symbol) <= abi.MAX_SYMBOL
    assert symbol.isascii()
    assert symbol.isprintable()


@pytest.mark.parametrize("answer", [0, -1, -(2**255), 2**128, 2**255 - 1])
def test_a_feed_that_answers_what_is_no_price_has_none(answer: int) -> None:
    assert abi.round_answer(said(7, answer, 5, 6, 7)) is None


def test_a_feed_tells_its_answer_and_when_it_reported() -> None:
    assert abi.round_answer(said(7, 2**128 - 1, 5, 6, 7)) == 2**128 - 1
    assert abi.round_updated_s(said(7, -1, 5, 6, 7)) == 6
    for strange in (said(7, 1, 5, 6), said(7, 1, 5, 6, 7, 8), ViewResult(ok=False, data=said(7, 1, 5, 6, 7).data)):
        assert abi.round_answer(strange) is None
        assert abi.round_updated_s(strange) is None
