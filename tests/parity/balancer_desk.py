"""A node with the genuine vault of Balancer v2, a weighted and a stable pool, and the test borrower."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from eth_abi.abi import encode

from keeper.devnet import compiler
from keeper.devnet.artifacts import Artifact, aave_artifact
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import Packages, PackageSet, default_cache_dir, ensure_packages, find_anvil, silent
from keeper.domain.abi import selector
from tests.parity.desk import raw
from tests.parity.lending_desk import Borrower
from tests.parity.standards import deploy_vyper

_SET: Final[PackageSet] = "balancer"
_SCOPE: Final = "@balancer-labs"
_SOURCES: Final = (
    f"{_SCOPE}/v2-vault/contracts/Vault.sol",
    f"{_SCOPE}/v2-vault/contracts/Authorizer.sol",
    f"{_SCOPE}/v2-pool-weighted/contracts/WeightedPool.sol",
    f"{_SCOPE}/v2-pool-stable/contracts/StablePool.sol",
)
_SETTINGS: Final[dict[str, Any]] = {"optimizer": {"enabled": True, "runs": 1}, "metadata": {"bytecodeHash": "none"}}
_NOBODY: Final = "0x" + "00" * 20
_MONTH_S: Final = 30 * 24 * 3_600
_SWAP: Final = (
    "swap((bytes32,uint8,address,address,uint256,bytes),(address,bool,address,bool),uint256,uint256)(uint256)"
)
_JOIN: Final = "joinPool(bytes32,address,address,(address[],uint256[],bytes,bool))"
FEE_WAD: Final = 3 * 10**15
FLASH_FEE_WAD: Final = 9 * 10**14


def _artifacts(packages: Packages) -> dict[str, Artifact]:
    return compiler._artifacts(compiler._Job(_SET, "Balancer v2", _SOURCES, _SETTINGS), packages, silent)


@dataclass(frozen=True, slots=True)
class BalancerDesk:
    """The vault, its pools by kind, and tokens in rising order of their addresses."""

    chain: DevChain
    vault: str
    authorizer: str
    pools: dict[str, bytes]
    tokens: tuple[str, ...]
    borrower: Borrower

    def swap(self, pool: bytes, give: str, take: str, amount: int, trader: str = ADMIN) -> tuple[object, ...]:
        """Return the arguments of a single swap of an exact amount in."""
        single = (pool, 0, give, take, amount, b"")
        return _SWAP, single, (trader, False, trader, False), 0, MAX_UINT

    async def out(self, pool: bytes, give: str, take: str, amount: int) -> int:
        """Return what a swap really brings, without making it."""
        signature, *args = self.swap(pool, give, take, amount)
        return int(await self.chain.call(self.vault, str(signature), *args))

    async def permit(self, target: str, signature: str) -> None:
        """Let the administrator call a guarded function."""
        action = await self.chain.call(target, "getActionId(bytes4)(bytes32)", selector(signature))
        await self.chain.send(self.authorizer, "grantRole(bytes32,address)", action, ADMIN)

    async def set_flash_fee(self, fee_wad: int) -> None:
        """Choose what the vault takes for a loan."""
        collector = await self.chain.call(self.vault, "getProtocolFeesCollector()(address)")
        await self.permit(collector, "setFlashLoanFeePercentage(uint256)")
        await self.chain.send(collector, "setFlashLoanFeePercentage(uint256)", fee_wad)

    async def pause(self) -> None:
        """Pause the vault."""
        await self.permit(self.vault, "setPaused(bool)")
        await self.chain.send(self.vault, "setPaused(bool)", True)


@asynccontextmanager
async def balancer_desk() -> AsyncIterator[BalancerDesk]:
    """Run a node with the vault and both pools."""
    packages = ensure_packages(default_cache_dir(), sets=("core", "origin", _SET))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        made = _artifacts(packages)
        tokens = await _tokens(chain, packages)
        weth = await chain.deploy(aave_artifact(packages.core, "WETH9Mocked"))
        authorizer = await chain.deploy(made["Authorizer"], ADMIN)
        vault = await chain.deploy(made["Vault"], authorizer, weth, _MONTH_S, _MONTH_S)
        for token in tokens:
            await chain.send(token, APPROVE, vault, MAX_UINT)
        first, second, _ = tokens
        weights = [5 * 10**17, 3 * 10**17, 2 * 10**17]
        terms = (FEE_WAD, _MONTH_S, _MONTH_S, ADMIN)
        weighted = await chain.deploy(
            made["WeightedPool"], vault, "weighted", "W", list(tokens), weights, [_NOBODY] * 3, *terms
        )
        stable = await chain.deploy(made["StablePool"], vault, "stable", "S", [first, second], 300, *terms)
        pools = {
            "weighted": await _join(chain, vault, weighted, tokens, [5 * 10**24, 10**12, 10**24]),
            "stable": await _join(chain, vault, stable, (first, second), [10**24, 9 * 10**11]),
        }
        borrower = Borrower(chain, await deploy_vyper(chain, "Borrower"))
        yield BalancerDesk(chain, vault, authorizer, pools, tokens, borrower)


async def _tokens(chain: DevChain, packages: Packages) -> tuple[str, ...]:
    """Deploy three tokens in rising order, the second with six decimals."""
    found: list[str] = []
    for decimals in (18, 6, 18):
        while True:
            token = await chain.deploy(aave_artifact(packages.core, "MintableERC20"), "token", "T", decimals)
            if not found or raw(token) > raw(found[-1]):
                break
        await chain.send(token, MINT, ADMIN, 10**30)
        found.append(token)
    return tuple(found)


async def _join(chain: DevChain, vault: str, pool: str, tokens: Sequence[str], amounts: list[int]) -> bytes:
    """Give a pool its first liquidity and return its id."""
    pool_id = bytes(await chain.call(pool, "getPoolId()(bytes32)"))
    request = (list(tokens), amounts, encode(["uint256", "uint256[]"], [0, amounts]), False)
    await chain.send(vault, _JOIN, pool_id, ADMIN, ADMIN, request)
    return pool_id
