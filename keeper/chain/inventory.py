"""What an account holds: native currency, token balances and allowances, read with everything else of the head."""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.plan import Inventory
from keeper.domain.ports import Reads
from keeper.domain.units import Address, TokenAmount, Wei

_BALANCE_OF: Final = bytes.fromhex("70a08231")
_ALLOWANCE: Final = bytes.fromhex("dd62ed3e")


class BalanceReads(Reads, Protocol):
    """Pinned reads that can also tell a native balance."""

    async def native_balance(self, address: Address) -> Wei:
        """Return an account's native currency at the head."""
        ...


async def read_inventory(reads: BalanceReads, owner: Address, pairs: Iterable[tuple[Address, Address]]) -> Inventory:
    """Read `owner`'s balances and allowances of (token, spender) pairs.

    A token that answers with anything but one word is left out: it can be neither counted on nor spent.
    """
    wanted = sorted(set(pairs))
    calls = [ViewCall(token, _BALANCE_OF + _word(owner)) for token, _ in wanted]
    calls += [ViewCall(token, _ALLOWANCE + _word(owner) + _word(spender)) for token, spender in wanted]
    native, answers = await asyncio.gather(reads.native_balance(owner), reads.many(calls))
    balances, allowances = {}, {}
    for (token, spender), held, allowed in zip(wanted, answers, answers[len(wanted) :], strict=False):
        if _is_word(held) and _is_word(allowed):
            balances[token] = TokenAmount(int.from_bytes(held.data))
            allowances[token, spender] = TokenAmount(int.from_bytes(allowed.data))
    return Inventory(native, balances, allowances)


def _word(address: Address) -> bytes:
    return bytes(12) + address


def _is_word(answer: ViewResult) -> bool:
    return answer.ok and len(answer.data) == 32
