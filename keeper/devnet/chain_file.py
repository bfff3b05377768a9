"""The chain file of a devnet: what `config/` holds for a real chain."""

from collections.abc import Iterator

from keeper.devnet.devnet import Devnet


def chain_text(devnet: Devnet, *, block_time_ms: int = 1_000) -> str:
    """Write the chain file that lists every market of a devnet."""
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
    return "\n".join([*head, *_markets(devnet)]) + "\n"


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
