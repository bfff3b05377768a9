"""The hand-packed aggregate equals the generic encoder's, and hostile answers are refused."""

import pytest
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.multicall import pack, packed_size, unpack
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.units import Address

addresses = st.binary(min_size=20, max_size=20).map(Address)
views = st.builds(ViewCall, addresses, st.binary(max_size=100))
results = st.builds(ViewResult, st.booleans(), st.binary(max_size=100))


@given(st.lists(views, min_size=1, max_size=20))
def test_packing_equals_the_generic_encoder(calls: list[ViewCall]) -> None:
    listed = [("0x" + call.to.hex(), True, call.data) for call in calls]
    packed = pack(calls)
    assert packed == bytes.fromhex("82ad56cb") + encode(["(address,bool,bytes)[]"], [listed])
    assert len(packed) == 4 + 64 + sum(map(packed_size, calls))


def encoded(found: list[ViewResult]) -> bytes:
    return encode(["(bool,bytes)[]"], [[(each.ok, each.data) for each in found]])


@given(st.lists(results, min_size=1, max_size=20))
def test_unpacking_reverses_the_generic_encoder(found: list[ViewResult]) -> None:
    assert unpack(encoded(found), len(found)) == found


@given(st.lists(results, min_size=1, max_size=5), st.data())
def test_no_change_of_an_answer_is_read_differently_from_the_generic_decoder(
    found: list[ViewResult], data: st.DataObject
) -> None:
    answer = bytearray(encoded(found))
    word = data.draw(st.integers(0, len(answer) // 32 - 1)) * 32
    value = data.draw(
        st.one_of(st.integers(0, len(answer) + 64), st.integers(0, 2**256 - 1), st.just(2**64), st.just(2**63))
    )
    answer[word : word + 32] = value.to_bytes(32)
    try:
        told = unpack(bytes(answer), len(found))
    except ValueError:
        return
    assert all(each.data in bytes(answer) for each in told)
    try:
        (expected,) = decode(["(bool,bytes)[]"], bytes(answer))
    except DecodingError:
        return  # it also demands zeros as padding
    assert [(each.ok, each.data) for each in told] == list(expected)


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 64, 96, 128, -1, -32])
def test_a_cut_answer_is_refused(cut: int) -> None:
    answer = encoded([ViewResult(ok=True, data=b"x" * 40), ViewResult(ok=False, data=b"")])
    with pytest.raises(ValueError, match="aggregate"):
        unpack(answer[:cut], 2)


@pytest.mark.parametrize("count", [1, 3, 1_000_000])
def test_another_number_of_results_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="aggregate"):
        unpack(encoded([ViewResult(ok=True, data=b""), ViewResult(ok=True, data=b"")]), count)
