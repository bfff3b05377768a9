"""The signer: byte for byte what the reference signs, nothing outside its policy, and a key that stays where it is."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
import rlp  # type: ignore[import-untyped]
from eth_account import Account
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.units import Address, Wei
from keeper.errors import ConfigurationError, Unsafe
from keeper.execution.envelope import NOBODY, Transaction
from keeper.execution.signer import APPROVE, PolicyRefused, Signer, SigningPolicy, refusal
from tests.toy import CASH, POOL

KEY = "0x" + "c0ffee" * 10 + "abcd"
SELECTOR = b"\x00\xa7\x18\xa9"
POLICY = SigningPolicy(
    chain_id=10,
    max_fee_wei=Wei(2**64),
    max_gas_limit=2**32,
    calls=frozenset({(POOL, SELECTOR)}),
    approvals=frozenset({(CASH.address, POOL)}),
)


def refused(signer: Signer, transaction: Transaction) -> str | None:
    return refusal(signer.policy, signer.address, transaction)


CALL = Transaction(10, 3, Wei(1), Wei(100), 21_000, POOL, Wei(0), SELECTOR + bytes(160))


@given(
    nonce=st.integers(0, 2**64 - 2),
    fee=st.integers(0, 2**64),
    tip_share=st.integers(0, 255),
    gas=st.integers(21_000, 2**32),
    data=st.binary(max_size=400),
    secret=st.integers(1, 2**200).map(lambda number: f"{number:064x}"),
)
def test_it_signs_byte_for_byte_what_eth_account_signs(
    *, nonce: int, fee: int, tip_share: int, gas: int, data: bytes, secret: str
):
    tip = fee * tip_share // 255
    signed = Signer.from_hex(secret, POLICY).sign(
        Transaction(10, nonce, Wei(tip), Wei(fee), gas, POOL, Wei(0), SELECTOR + data)
    )
    reference = Account.sign_transaction(
        {
            "type": 2,
            "chainId": 10,
            "nonce": nonce,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": fee,
            "gas": gas,
            "to": bytes(POOL),
            "value": 0,
            "data": SELECTOR + data,
        },
        "0x" + secret,
    )
    assert signed.raw == bytes(reference.raw_transaction)
    assert signed.tx_hash == bytes(reference.hash)


def test_the_address_is_the_keys():
    assert Signer.from_hex(KEY, POLICY).address == bytes.fromhex(Account.from_key(KEY).address[2:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chain_id": 1}, "chain 1"),
        ({"value_wei": Wei(1)}, "value"),
        ({"max_fee_wei": Wei(2**64 + 1)}, "above the cap"),
        ({"tip_wei": Wei(101)}, "tip"),
        ({"gas_limit": 2**32 + 1}, "gas limit"),
        ({"to": Address(b"\x99" * 20)}, "0x9999"),
        ({"data": b"\x01\x02\x03\x04"}, "call"),
        ({"data": b""}, "call"),
        ({"to": CASH.address, "data": APPROVE + bytes(12) + b"\x99" * 20 + bytes(32)}, "call"),
        ({"to": CASH.address, "data": APPROVE + b"\x01" * 12 + POOL + bytes(32)}, "call"),
        ({"to": CASH.address, "data": APPROVE + bytes(12) + POOL}, "call"),
        ({"to": POOL, "data": APPROVE + bytes(12) + POOL + bytes(32)}, "call"),
    ],
)
def test_sec_08_what_the_policy_does_not_name_is_not_signed(change: dict[str, object], says: str):
    signer = Signer.from_hex(KEY, POLICY)
    with pytest.raises(PolicyRefused, match=says) as refused:
        signer.sign(replace(CALL, **change))  # type: ignore[arg-type]
    assert isinstance(refused.value, Unsafe)


CAP = 2 * 10**18
DEPOSIT = b"\xd0\xe3\x0d\xb0"
PAYING = replace(
    POLICY,
    max_value_wei=Wei(CAP),
    calls=POLICY.calls | {(POOL, DEPOSIT)},
    payable=frozenset({(POOL, DEPOSIT)}),
)


@given(value=st.integers(-(2**64), 2**256), data=st.binary(max_size=68))
def test_value_goes_with_a_payable_call_and_up_to_the_cap(value: int, data: bytes):
    paid = replace(CALL, value_wei=Wei(value), data=DEPOSIT + data)
    why = refused(Signer.from_hex(KEY, PAYING), paid)
    assert (why is None) is (0 <= value <= CAP)
    assert why is None or f"{value} wei of value" in why


@given(value=st.integers(1, 2 * CAP), to=st.binary(min_size=20, max_size=20), data=st.binary(max_size=68))
def test_a_call_that_is_not_named_as_payable_carries_no_value(value: int, to: bytes, data: bytes):
    signer = Signer.from_hex(KEY, PAYING)
    allowance = APPROVE + bytes(12) + POOL + (7).to_bytes(32)
    for target, sent in (
        (POOL, SELECTOR + data),
        (CASH.address, allowance),
        (signer.address, b""),
        (POOL, b""),
        (POOL, DEPOSIT[:3]),
        (CASH.address, DEPOSIT + data),
        (Address(to), data),
    ):
        assert "value" in (refused(signer, replace(CALL, to=target, value_wei=Wei(value), data=sent)) or "")


@given(value=st.integers(1, 2**128))
def test_without_a_cap_or_without_a_payable_call_no_value_is_signed(value: int):
    paid = replace(CALL, value_wei=Wei(value), data=DEPOSIT)
    for policy in (replace(PAYING, max_value_wei=Wei(0)), replace(PAYING, payable=frozenset())):
        assert refused(Signer.from_hex(KEY, policy), paid) is not None


def test_to_be_payable_does_not_make_a_call_allowed():
    policy = replace(PAYING, calls=POLICY.calls)
    assert "call to" in (refused(Signer.from_hex(KEY, policy), replace(CALL, value_wei=Wei(1), data=DEPOSIT)) or "")


def test_value_is_part_of_what_is_signed():
    signer = Signer.from_hex(KEY, PAYING)
    paid = replace(CALL, value_wei=Wei(CAP), data=DEPOSIT)
    assert Account.recover_transaction(signer.sign(paid).raw) == Account.from_key(KEY).address
    assert rlp.decode(signer.sign(paid).raw[1:])[6] == CAP.to_bytes(8)


def test_a_chain_id_of_zero_signs_nothing():
    signer = Signer.from_hex(KEY, replace(POLICY, chain_id=0))
    with pytest.raises(PolicyRefused):
        signer.sign(replace(CALL, chain_id=0))


def test_an_allowance_for_a_known_spender_and_a_cancellation_are_signed():
    signer = Signer.from_hex(KEY, POLICY)
    signer.sign(replace(CALL, to=CASH.address, data=APPROVE + bytes(12) + POOL + (7).to_bytes(32)))
    signer.sign(replace(CALL, to=signer.address, data=b""))
    with pytest.raises(PolicyRefused):
        signer.sign(replace(CALL, to=signer.address, data=b"\x00"))


CODE = b"\x60\x00" * 40
CREATION = replace(CALL, to=NOBODY, data=CODE, gas_limit=2_000_000)
BUILDING = replace(POLICY, max_value_wei=Wei(CAP), creations=frozenset({keccak(CODE)}))


def test_a_creation_is_signed_byte_for_byte_as_eth_account_signs_it():
    signed = Signer.from_hex(KEY, BUILDING).sign(CREATION)
    reference = Account.sign_transaction(
        {
            "type": 2,
            "chainId": 10,
            "nonce": CREATION.nonce,
            "maxPriorityFeePerGas": CREATION.tip_wei,
            "maxFeePerGas": CREATION.max_fee_wei,
            "gas": CREATION.gas_limit,
            "value": 0,
            "data": CODE,
        },
        KEY,
    )
    assert signed.raw == bytes(reference.raw_transaction)
    assert signed.tx_hash == bytes(reference.hash)


@given(data=st.binary(max_size=90))
def test_sec_08_no_contract_is_created_but_the_one_whose_code_is_named(data: bytes):
    signer = Signer.from_hex(KEY, BUILDING)
    assert (refused(signer, replace(CREATION, data=data)) is None) is (data == CODE)
    assert refused(Signer.from_hex(KEY, POLICY), CREATION) == "the creation of a contract"


@pytest.mark.parametrize(
    "change", [{"value_wei": Wei(1)}, {"to": POOL}, {"data": CODE + b"\x00"}, {"chain_id": 1}, {"gas_limit": 2**33}]
)
def test_sec_08_an_allowed_creation_is_signed_only_as_it_stands(change: dict[str, object]):
    assert refused(Signer.from_hex(KEY, BUILDING), replace(CREATION, **change)) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", ["", "0x", "zz" * 32, "11" * 31, "11" * 33, "00" * 32, "ff" * 32])
def test_cfg_05_a_malformed_key_is_refused_without_being_shown(secret: str):
    with pytest.raises(ConfigurationError) as refused:
        Signer.from_hex(secret, POLICY)
    assert not secret or secret not in str(refused.value) or secret == "0x"
    assert refused.value.__cause__ is None


def test_sec_03_the_key_is_in_no_rendering_of_the_signer():
    signer = Signer.from_hex(KEY, POLICY)
    secret = KEY.removeprefix("0x")
    signed = signer.sign(CALL)
    for text in (repr(signer), str(signer), f"{signer}", repr(signed), repr(signer.policy)):
        assert secret not in text
    with pytest.raises(TypeError):
        vars(signer)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(signer)


def test_sec_06_a_keystore_opens_with_its_password_only_and_says_the_same_of_every_failure():
    document = json.dumps(Account.encrypt(bytes.fromhex(KEY[2:]), "right", kdf="pbkdf2", iterations=2))
    assert Signer.from_keystore(document, "right", POLICY).address == Signer.from_hex(KEY, POLICY).address
    tampered = json.loads(document)
    tampered["crypto"]["ciphertext"] = "00" * 32
    messages = set()
    for broken, password in [
        (document, "wrong"),
        (json.dumps(tampered), "right"),
        ("{}", "right"),
        ("not json", "right"),
        ("[]", "right"),
        ('{"version": 9}', "right"),
    ]:
        with pytest.raises(ConfigurationError) as refused:
            Signer.from_keystore(broken, password, POLICY)
        messages.add(str(refused.value))
    assert len(messages) == 1
