"""What an account holds: native currency, balances and allowances, read with everything else of the head."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from keeper.domain.abi import ALLOWANCE, BALANCE_OF, WORD, address_word, view
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.plan import Inventory, Payment
from keeper.domain.ports import Reads
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, Address, TokenAmount, Wei


class BalanceReads(Reads, Protocol):
    """Pinned reads that can also tell a native balance."""

    async def native_balance(self, address: Address) -> Wei:
        """Return an account's native currency at the head."""
        ...


async def read_inventory(
    reads: BalanceReads, owner: Address, payments: Iterable[Payment], proceeds: Iterable[Token] = ()
) -> Inventory:
    """Read what `owner` can pay with, the allowances that it has given, and the proceeds that it holds.

    A contract that answers with anything but one word is left out: it can be neither counted on nor spent.
    """
    wanted = [each for each in payments if not each.is_native]
    held = {each.token.address: view(each.token.address, each.balance_of, address_word(owner)) for each in wanted}
    held |= {each.address: view(each.address, BALANCE_OF, address_word(owner)) for each in proceeds}
    given: dict[tuple[Address, Address], ViewCall] = {
        (each.token.address, each.spender): view(
            each.token.address, ALLOWANCE, address_word(owner), address_word(each.spender)
        )
        for each in wanted
        if each.spender is not None
    }
    native, answers = await asyncio.gather(reads.native_balance(owner), reads.many([*held.values(), *given.values()]))
    balances = {token: _amount(answer) for token, answer in zip(held, answers, strict=False) if _is_word(answer)}
    allowed = zip(given, answers[len(held) :], strict=True)
    allowances = {pair: _amount(answer) for pair, answer in allowed if _is_word(answer)}
    return Inventory(native, balances | {NATIVE: TokenAmount(native)}, allowances)


def _amount(answer: ViewResult) -> TokenAmount:
    return TokenAmount(int.from_bytes(answer.data))


def _is_word(answer: ViewResult) -> bool:
    return answer.ok and len(answer.data) == WORD
