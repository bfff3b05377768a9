"""What a remote signer gives back is believed only where every byte is what was asked for."""

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.units import Address, Wei
from keeper.execution.envelope import Transaction, signed_bytes
from keeper.execution.remote import RemoteSigner, SignerDeviated, check
from keeper.execution.signer import PolicyRefused, Signer, SignerFailed, SigningPolicy
from tests.toy import POOL

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
POLICY = SigningPolicy(
    chain_id=31_337, max_fee_wei=Wei(10**12), max_gas_limit=10**6, calls=frozenset({(POOL, b"liq!")})
)
KEY = Signer.from_hex("11" * 32, POLICY)
ASKED = Transaction(31_337, 7, Wei(3), Wei(10**9), 300_000, POOL, Wei(0), b"liq!" + bytes(40))
RAW = KEY.sign(ASKED).raw


def parts(raw: bytes) -> tuple[int, int, int]:
    """Return the signature at the end of a transaction whose r and s are 32 bytes long."""
    assert raw[-66] == raw[-33] == 0xA0
    return int(raw[-67] == 1), int.from_bytes(raw[-65:-33]), int.from_bytes(raw[-32:])


PARITY, R, S = parts(RAW)


def test_the_asked_transaction_signed_by_its_owner_passes():
    check(ASKED, KEY.address, RAW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", 1),
        ("nonce", 8),
        ("tip_wei", Wei(4)),
        ("max_fee_wei", Wei(10**9 + 1)),
        ("gas_limit", 300_001),
        ("to", Address(b"\x66" * 20)),
        ("value_wei", Wei(1)),
        ("data", b"liq!" + bytes(39) + b"\x01"),
    ],
)
def test_one_other_field_is_an_alarm_even_with_a_good_signature(field: str, value: object):
    wide = replace(
        POLICY,
        chain_id=value if field == "chain_id" else 31_337,  # type: ignore[arg-type]
        max_value_wei=Wei(1),
        calls=POLICY.calls | {(Address(b"\x66" * 20), b"liq!")},
        payable=POLICY.calls,
    )
    other = Signer.from_hex("11" * 32, wide).sign(replace(ASKED, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(SignerDeviated, match="another transaction"):
        check(ASKED, KEY.address, other.raw)


def test_another_key_is_an_alarm():
    with pytest.raises(SignerDeviated, match="another key"):
        check(ASKED, KEY.address, Signer.from_hex("22" * 32, POLICY).sign(ASKED).raw)


def test_an_access_list_is_an_alarm():
    with_list = RAW[: -68 - (RAW[-68] != 0xC0)]  # up to the empty list
    assert RAW[len(with_list)] == 0xC0
    entry = b"\xd6\x94" + POOL + b"\xc0"
    body = RAW[3:] if RAW[1] == 0xF8 else RAW[4:]
    tail = RAW[len(with_list) + 1 :]
    items = body[: len(body) - len(tail) - 1] + bytes([0xC0 + len(entry)]) + entry + tail
    forged = b"\x02\xf8" + bytes([len(items)]) + items
    with pytest.raises(SignerDeviated, match="access list"):
        check(ASKED, KEY.address, forged)


@pytest.mark.parametrize(
    ("parity", "r", "s"),
    [
        (1 - PARITY, R, ORDER - S),  # the same signature with the high s: valid, and refused by every node
        (2, R, S),
        (PARITY, 0, S),
        (PARITY, R, 0),
        (PARITY, ORDER, S),
        (PARITY, R, ORDER),
        (PARITY, 2**256 - 1, S),
    ],
)
def test_a_signature_that_the_chain_would_not_take_is_none(parity: int, r: int, s: int):
    with pytest.raises(SignerFailed):
        check(ASKED, KEY.address, signed_bytes(ASKED, parity=parity, r=r, s=s))


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_no_transaction_with_one_other_byte_passes(place: int, change: int):
    changed = bytearray(RAW)
    changed[place] ^= change
    with pytest.raises((SignerFailed, SignerDeviated)):
        check(ASKED, KEY.address, bytes(changed))


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: b"\x02" + tail))
def test_no_bytes_at_all_raise_anything_else(raw: bytes):
    with pytest.raises((SignerFailed, SignerDeviated)):
        check(ASKED, KEY.address, raw)


@given(st.integers(0, len(RAW) - 1))
def test_a_transaction_cut_short_or_with_more_behind_it_is_none(length: int):
    for raw in (RAW[:length], RAW + bytes(length + 1)):
        with pytest.raises((SignerFailed, SignerDeviated)):
            check(ASKED, KEY.address, raw)


async def test_the_policy_is_asked_before_anybody_else():
    signer = RemoteSigner("http://127.0.0.1:1/", KEY.address, POLICY)
    with pytest.raises(PolicyRefused, match="chain 1 is not"):
        await signer.signed(replace(ASKED, chain_id=1))
    assert signer._session is None


def test_a_remote_signer_shows_nothing_but_its_account():
    signer = RemoteSigner("https://user:pa55word@signer.example/t0ken", KEY.address, POLICY)
    assert repr(signer) == f"RemoteSigner(0x{KEY.address.hex()})"
    with pytest.raises(TypeError):
        pickle.dumps(signer)
