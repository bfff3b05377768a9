"""Tokens and price feeds: Aave's mintable ERC-20 and Chainlink's aggregator behind its proxy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from keeper.devnet.artifacts import aave_artifact, chainlink_artifact
from keeper.devnet.chain import ADMIN, ORACLE, DevChain, Tx
from keeper.devnet.packages import Packages
from keeper.devnet.spec import ReserveSpec

WRAPPED_NATIVE: Final = "WETH"

_BACKING_WEI: Final = 10**27
_FEED_DECIMALS: Final = 8
_MAX_ANSWER: Final = 2**95
_TIMEOUT_S: Final = 600
_NOBODY: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DevAsset:
    """A token with its price feed: readers ask `feed`, the proxy; `aggregator` behind it emits the logs."""

    symbol: str
    decimals: int
    token: str
    feed: str
    aggregator: str

    def plain(self) -> "DevAsset":
        """Return the asset without what a protocol keeps with it."""
        return DevAsset(**{each.name: getattr(self, each.name) for each in fields(DevAsset)})


async def deploy_assets(
    chain: DevChain, packages: Packages, reserves: Iterable[ReserveSpec], known: Mapping[str, DevAsset]
) -> dict[str, DevAsset]:
    """Return the reserves' tokens and feeds: the known ones, and new ones with their starting prices."""
    return {
        reserve.symbol: known.get(reserve.symbol) or await _deploy_asset(chain, packages, reserve)
        for reserve in reserves
    }


async def price_updates(chain: DevChain, prices: dict[DevAsset, int]) -> list[Tx]:
    """Return the oracle's transactions that set the prices (US dollars with eight decimals)."""
    rounds = await chain.call_all((asset.aggregator, "latestRound()(uint256)", ()) for asset in prices)
    return [
        Tx(ORACLE, asset.aggregator, "submit(uint256,int256)", (number + 1, price), gas=300_000)
        for (asset, price), number in zip(prices.items(), rounds, strict=True)
    ]


async def _deploy_asset(chain: DevChain, packages: Packages, reserve: ReserveSpec) -> DevAsset:
    """Deploy one asset.

    The package's simpler MockV3Aggregator emits no AnswerUpdated, so the genuine pair stands here. The wrapped native
    token is the genuine WETH9 with a function that mints; what is minted is backed here, so that it can be unwrapped.
    """
    aggregator = chainlink_artifact(packages.core, "FluxAggregator")
    proxy = chainlink_artifact(packages.core, "EACAggregatorProxy")
    symbol = reserve.symbol
    if symbol == WRAPPED_NATIVE:
        token_address = await chain.deploy(aave_artifact(packages.core, "WETH9Mocked"))
        await chain.set_balance(token_address, _BACKING_WEI)
    else:
        token = aave_artifact(packages.core, "MintableERC20")
        token_address = await chain.deploy(token, symbol, symbol, reserve.decimals)
    terms = (token_address, 0, _TIMEOUT_S, _NOBODY, 1, _MAX_ANSWER, _FEED_DECIMALS, f"{symbol} / USD")
    aggregator_address = await chain.deploy(aggregator, *terms)
    nobody: list[str] = []
    change = "changeOracles(address[],address[],address[],uint32,uint32,uint32)"
    await chain.send(aggregator_address, change, nobody, [ORACLE], [ADMIN], 1, 1, 0)
    await chain.send(aggregator_address, "submit(uint256,int256)", 1, reserve.price_usd, sender=ORACLE)
    return DevAsset(
        symbol=symbol,
        decimals=reserve.decimals,
        token=token_address,
        aggregator=aggregator_address,
        feed=await chain.deploy(proxy, aggregator_address, _NOBODY),
    )
