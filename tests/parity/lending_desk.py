"""What the tests of lenders do: take a real loan of each and see what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from eth_abi.abi import encode

from keeper.devnet.abi import call_data
from keeper.devnet.chain import ADMIN, DevChain, Reverted
from keeper.domain.exchange import Lender, Lenders
from keeper.domain.units import Address, TokenAmount
from keeper.venues.loans import Loan
from tests.parity.desk import DevReads, raw, read_head

BORROW = "borrow(address,bytes,address,(address,bytes)[],(address,bytes)[])"
AAVE = "flashLoanSimple(address,address,uint256,bytes,uint16)"
MORPHO = "flashLoan(address,uint256,bytes)"
BALANCER = "flashLoan(address,address[],uint256[],bytes)"
ERC3156 = "flashLoan(address,address,uint256,bytes)"
NO_DATA = encode(["uint256"], [0])

Action = tuple[str, bytes]


def action(to: str, signature: str, *args: object) -> Action:
    """Return a call for the borrower to make."""
    return to, raw(call_data(signature, *args))


async def offered(chain: DevChain, lenders: Lenders, tokens: Sequence[str]) -> dict[str, Loan]:
    """Return what is lent at the head, by token."""
    reads = DevReads(chain, await read_head(chain))
    found: dict[str, Loan] = {}
    for lender in await lenders.lenders(reads, [Address(raw(token)) for token in tokens]):
        assert isinstance(lender, Loan)
        found[next(token for token in tokens if raw(token) == lender.token)] = lender
    return found


@dataclass(frozen=True, slots=True)
class Borrower:
    """The test contract that borrows."""

    chain: DevChain
    address: str

    async def borrow(
        self, lender: str, call: str, token: str, first: Sequence[Action] = (), second: Sequence[Action] = ()
    ) -> int:
        """Take a loan and return the gas it took; afterwards `fee` tells what it cost."""
        done = await self.chain.send(self.address, BORROW, lender, raw(call), token, list(first), list(second))
        return int(done["gasUsed"], 16)

    async def gas(self, lender: str, call: str, token: str) -> int:
        """Return what a loan takes on top of a call that does nothing; the second time, when all slots are in use."""
        nothing = call_data("balanceOf(address)", self.address)
        await self.borrow(lender, call, token)
        return await self.borrow(lender, call, token) - await self.borrow(token, nothing, token)

    async def fee(self) -> int:
        """Return what the last loan cost."""
        return int(await self.chain.call(self.address, "fee()(uint256)"))

    async def amount(self) -> int:
        """Return how much the last loan was of."""
        return int(await self.chain.call(self.address, "amount()(uint256)"))

    def aave(self, token: str, amount: int) -> str:
        """Return the call of Aave's pool."""
        return call_data(AAVE, self.address, token, amount, b"", 0)

    def morpho(self, token: str, amount: int) -> str:
        """Return the call of Morpho."""
        return call_data(MORPHO, token, amount, NO_DATA)

    def balancer(self, token: str, amount: int) -> str:
        """Return the call of Balancer's vault."""
        return call_data(BALANCER, self.address, [token], [amount], b"")

    def erc3156(self, token: str, amount: int) -> str:
        """Return the call of a lender by the standard."""
        return call_data(ERC3156, self.address, token, amount, b"")

    async def is_refused(self, lender: str, call: str, token: str, first: Sequence[Action] = ()) -> str:
        """Return with which reason a loan is refused; fail where it is not."""
        try:
            await self.chain.call(self.address, BORROW, lender, raw(call), token, list(first), [], sender=ADMIN)
        except Reverted as reverted:
            return reverted.reason
        raise AssertionError("the loan was given")


def fee_of(loan: Lender, token: str, amount: int) -> int:
    """Return what a lender says that a loan costs."""
    fee = loan.fee(Address(raw(token)), TokenAmount(amount))
    assert fee is not None
    return fee
