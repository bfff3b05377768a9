"""The chain file of a devnet: what `config/` holds for a real chain."""

from collections.abc import Iterator
from typing import Final

from keeper.devnet.devnet import Devnet
from keeper.devnet.executor import DevExecutor
from keeper.devnet.uniswap_market import UniswapMarket

_BASES: Final = ("WETH", "USDC", "USDT", "DAI", "WBTC")


def chain_text(devnet: Devnet, *, block_time_ms: int = 1_000, executor: DevExecutor | None = None) -> str:
    """Write the chain file that lists every market of a devnet, and where to trade on it."""
    first = next(iter(devnet.markets.values()))
    head = [
        "chain_id = 31337",
        'name = "local"',
        'native_symbol = "ETH"',
        f'wrapped_native = "{first.reserves["WETH"].token}"',
        f"block_time_ms = {block_time_ms}",
        "[prices]",
        f'oracle = "{first.oracle}"',
    ]
    if executor is not None:
        head += ["[executor]", f'address = "{executor.address}"', f'code_hash = "{executor.code_hash}"']
        head += [f'owner = "{executor.owner}"', f"from_block = {executor.from_block}"]
    if devnet.uniswap is not None:
        head += _exchange(devnet, devnet.uniswap)
    return "\n".join([*head, *_markets(devnet)]) + "\n"


def _exchange(devnet: Devnet, uniswap: UniswapMarket) -> Iterator[str]:
    bases = ", ".join(f'"{uniswap.assets[symbol].token}"' for symbol in _BASES if symbol in uniswap.assets)
    yield f"[exchange]\nbases = [{bases}]"
    yield _place("venues", "uniswap-v3", "uniswap_v3", uniswap.v3_factory)
    yield _place("venues", "uniswap-v2", "uniswap_v2", uniswap.v2_factory)
    if devnet.morpho is not None:
        yield _place("lenders", "morpho", "morpho", devnet.morpho.morpho)
    yield _place("lenders", "uniswap-v3", "uniswap_v3", uniswap.v3_factory)
    for generation, market in devnet.markets.items():
        yield _place("lenders", f"aave-v{generation}", "aave_v3", market.pool)


def _place(table: str, name: str, kind: str, root: str) -> str:
    return f'[[exchange.{table}]]\nname = "{name}"\nkind = "{kind}"\nroot = "{root}"'


def _markets(devnet: Devnet) -> Iterator[str]:
    for generation, market in devnet.markets.items():
        yield _table(f"aave-v{generation}", "aave_v3", market.provider, market.from_block)
    if devnet.morpho is not None:
        yield _table("morpho", "morpho_blue", devnet.morpho.morpho, devnet.morpho.from_block)
        yield f'[markets.options]\nirm = "{devnet.morpho.adaptive_irm}"\ntrusted_pairs = "all"'
    if devnet.venus is not None:
        yield _table("venus", "compound_v2", devnet.venus.comptroller, devnet.venus.from_block)
    if devnet.perp is not None:
        yield _table("perp-v2", "perp_curie", devnet.perp.clearing_house, devnet.perp.from_block)


def _table(name: str, protocol: str, root: str, from_block: int) -> str:
    lines = ("[[markets]]", f'name = "{name}"', f'protocol = "{protocol}"', f'root = "{root}"')
    return "\n".join((*lines, f"from_block = {from_block}"))
