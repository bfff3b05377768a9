"""Steps written by hand, as short as they can be: addresses as text, amounts as numbers."""

from typing import Final

from eth_abi.abi import encode

from keeper.domain.program import ALL, Step, StepKind
from tests.e2e.flash_desk import NATIVE, Desk
from tests.parity.desk import address

MORPHO_WORDS: Final = ["(address,address,address,address,uint256)", "address", "uint256", "uint256"]


def step(
    kind: StepKind,
    target: str,
    *,
    give: str = "",
    take: str = "",
    amount: int = ALL,
    limit: int = 0,
    data: bytes = b"",
    gas: int = 0,
) -> Step:
    """Return a step."""
    tokens = {name: address(each) for name, each in (("give", give), ("take", take)) if each}
    return Step(kind, address(target), amount=amount, limit=limit, data=data, gas=gas, **tokens)


def pull(token: str, amount: int) -> Step:
    """Take the operator's own tokens."""
    return step(StepKind.PULL, "0x" + "00" * 20, take=token, amount=amount)


def loan(kind: StepKind, lender: str, token: str, amount: int, most_fee: int = 0) -> Step:
    """Borrow from a lender that is called by its address."""
    return step(kind, lender, take=token, amount=amount, limit=most_fee)


def pool_loan(desk: Desk, token: str, other: str, fee: int, amount: int) -> Step:
    """Borrow from a Uniswap v3 pool, whose fee is that of its swaps."""
    terms = encode(["address", "uint24"], [other, fee])
    most = -(-amount * fee // 10**6)
    return step(StepKind.FLASH_UNISWAP_V3, desk.uniswap.v3_factory, take=token, amount=amount, limit=most, data=terms)


def swap_first(desk: Desk, give: str, take: str, fee: int, amount: int, most: int) -> Step:  # noqa: PLR0917 - likewise
    """Receive an exact amount from a Uniswap v3 pool, and pay for it in the end."""
    terms, factory = encode(["uint24"], [fee]), desk.uniswap.v3_factory
    kind = StepKind.SWAP_FIRST_UNISWAP_V3
    return step(kind, factory, give=give, take=take, amount=amount, limit=most, data=terms)


def swap_v3(desk: Desk, give: str, take: str, fee: int, *, amount: int = ALL, least: int = 0) -> Step:
    """Swap an exact amount in a Uniswap v3 pool."""
    terms, factory = encode(["uint24"], [fee]), desk.uniswap.v3_factory
    return step(StepKind.SWAP_UNISWAP_V3, factory, give=give, take=take, amount=amount, limit=least, data=terms)


def swap_v2(desk: Desk, give: str, take: str, *, amount: int = ALL, least: int = 0) -> Step:
    """Swap an exact amount in a Uniswap v2 pair."""
    terms, factory = encode(["uint256"], [30]), desk.uniswap.v2_factory
    return step(StepKind.SWAP_UNISWAP_V2, factory, give=give, take=take, amount=amount, limit=least, data=terms)


def liquidate_aave(pool: str, borrower: str, *, debt: str, collateral: str, amount: int, gas: int = 0) -> Step:
    """Repay a borrower of Aave."""
    who = encode(["address"], [borrower])
    return step(StepKind.LIQUIDATE_AAVE, pool, give=debt, take=collateral, amount=amount, data=who, gas=gas)


def liquidate_morpho(
    morpho: str,
    params: tuple[str, str, str, str, int],
    borrower: str,
    *,
    seized: int = 0,
    repaid_shares: int = 0,
    most: int,
) -> Step:
    """Seize a borrower's collateral on Morpho, and pay for it in the end."""
    terms = encode(MORPHO_WORDS, [params, borrower, seized, repaid_shares])
    loan_token, collateral = params[:2]
    return step(StepKind.LIQUIDATE_MORPHO, morpho, give=loan_token, take=collateral, amount=most, data=terms)


def liquidate_venus(  # noqa: PLR0917 - as the Liquidator has them
    liquidator: str, give: str, take: str, v_borrowed: str, borrower: str, amount: int
) -> Step:
    """Repay a borrower of Venus through its Liquidator."""
    terms = encode(["address", "address"], [v_borrowed, borrower])
    return step(StepKind.LIQUIDATE_VENUS, liquidator, give=give, take=take, amount=amount, data=terms)


def liquidate_compound(v_borrowed: str, give: str, take: str, borrower: str, amount: int) -> Step:
    """Repay a borrower of a Compound v2 market."""
    who = encode(["address"], [borrower])
    return step(StepKind.LIQUIDATE_COMPOUND, v_borrowed, give=give, take=take, amount=amount, data=who)


def redeem(v_token: str, underlying: str) -> Step:
    """Turn all receipts for deposits into what they are for."""
    return step(StepKind.REDEEM_COMPOUND, v_token, give=v_token, take=underlying)


def wrap(weth: str) -> Step:
    """Wrap all native currency."""
    return step(StepKind.WRAP_NATIVE, weth, give=NATIVE, take=weth)


def unwrap(weth: str, amount: int = ALL) -> Step:
    """Unwrap the wrapped native token."""
    return step(StepKind.UNWRAP_NATIVE, weth, give=weth, take=NATIVE, amount=amount)
