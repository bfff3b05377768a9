"""The one place that knows every protocol: the keeper's own, and those that other packages offer.

A package offers one as an entry point of the group `keeper.protocols`, whose name is the protocol's and whose value is
a function from a market of the chain file to the bound `Market`.
"""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from keeper.chainfile import AddressField, ChainFile, MarketConfig, Options
from keeper.domain.ports import Calls, Market, Programs, Reader, Rules
from keeper.domain.units import BASE_UNIT, Base
from keeper.errors import ConfigurationError
from keeper.oracles.prices import Prices
from keeper.protocols.aave_v3 import calls as aave_v3_calls
from keeper.protocols.aave_v3 import programs as aave_v3_programs
from keeper.protocols.aave_v3 import rules as aave_v3_rules
from keeper.protocols.aave_v3.contracts import AavePosition
from keeper.protocols.aave_v3.reader import AaveReader
from keeper.protocols.compound_v2 import calls as compound_calls
from keeper.protocols.compound_v2 import programs as compound_programs
from keeper.protocols.compound_v2 import rules as compound_rules
from keeper.protocols.compound_v2.contracts import CompoundPosition
from keeper.protocols.compound_v2.reader import CompoundReader
from keeper.protocols.morpho_blue import calls as morpho_calls
from keeper.protocols.morpho_blue import programs as morpho_programs
from keeper.protocols.morpho_blue import rules as morpho_rules
from keeper.protocols.morpho_blue.contracts import MorphoPosition
from keeper.protocols.morpho_blue.reader import MorphoReader
from keeper.protocols.perp_curie import calls as perp_calls
from keeper.protocols.perp_curie import rules as perp_rules
from keeper.protocols.perp_curie.contracts import PerpPosition
from keeper.protocols.perp_curie.reader import PerpReader

GROUP: Final = "keeper.protocols"


def _pair_id(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{64}", value):
        raise ValueError("must be a pair's id: 0x and 64 hexadecimal digits")
    return bytes.fromhex(value[2:])


_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""What a chain file can say."""
PairField = Annotated[bytes, BeforeValidator(_pair_id)]

Bind = Callable[[MarketConfig, ChainFile], Market]
"""Bind a market of a chain file to its protocol.

Raises: ConfigurationError with every problem of the market's options.
"""


def prices_of(chain: ChainFile) -> Prices:
    """Return where a chain's tokens are priced."""
    feeds = {each.token: each.feed for each in chain.prices.feeds}
    return Prices(chain.wrapped_native, chain.prices.oracle, feeds)


def _market(
    config: MarketConfig,
    reader: Reader[Any, Any],
    rules: Rules[Any, Any],
    calls: Calls,
    *,
    position: type[Any],
    programs: Programs[Any, Any] | None = None,
) -> Market:
    name, protocol, root = config.name, config.protocol, config.root
    return Market(name, protocol, config.from_block, reader, rules, calls, root, position, programs)


def _aave_v3(config: MarketConfig, chain: ChainFile) -> Market:
    Options.read(config)
    reader = AaveReader(config.name, config.root, chain.wrapped_native)
    parts = reader, aave_v3_rules, aave_v3_calls
    return _market(config, *parts, position=AavePosition, programs=aave_v3_programs)


class _MorphoOptions(Options):
    """Which pairs of Morpho Blue to watch, and what belongs to them."""

    pairs: tuple[PairField, ...] = ()
    """The ids of the only pairs to watch, which are trusted as well; none: all are watched."""
    trusted_pairs: tuple[PairField, ...] | Literal["all"] = ()
    """The ids of more pairs to act on; all others are only watched. `all`, and with an executor: whoever made them."""
    min_borrow_usd: Annotated[int, Field(strict=True, ge=0, le=10**12)] = 0
    """The least that all of a pair's borrowers owe together."""
    irm: AddressField | None = None
    """The AdaptiveCurveIrm, whose arithmetic is mirrored; any other interest rate model is read."""
    pre_liquidation_factories: tuple[AddressField, ...] = ()


def _morpho_blue(config: MarketConfig, chain: ChainFile) -> Market:
    options = _MorphoOptions.read(config)
    # Through the executor, what a stranger's oracle says decides nothing: a sale brings what it must, or all is undone.
    everybody = options.trusted_pairs == "all" or chain.executor is not None
    trusted = None if everybody else frozenset(each for each in options.trusted_pairs if isinstance(each, bytes))
    reader = MorphoReader(
        config.name,
        config.root,
        prices_of(chain),
        allow=frozenset(options.pairs),
        trust=trusted,
        floor_base=Base(options.min_borrow_usd * BASE_UNIT),
        pre_liquidation_factories=frozenset(options.pre_liquidation_factories),
        adaptive_irm=options.irm,
    )
    parts = reader, morpho_rules, morpho_calls
    return _market(config, *parts, position=MorphoPosition, programs=morpho_programs)


class _CompoundOptions(Options):
    """Which dialect a comptroller speaks; where it is not said, its functions tell."""

    kind: Literal["compound", "moonwell", "venus"] | None = None


def _compound_v2(config: MarketConfig, chain: ChainFile) -> Market:
    options = _CompoundOptions.read(config)
    reader = CompoundReader(config.name, config.root, kind=options.kind, prices=prices_of(chain))
    parts = reader, compound_rules, compound_calls
    return _market(config, *parts, position=CompoundPosition, programs=compound_programs)


def _perp_curie(config: MarketConfig, chain: ChainFile) -> Market:
    Options.read(config)
    reader = PerpReader(config.name, config.root, prices=prices_of(chain))
    return _market(config, reader, perp_rules, perp_calls, position=PerpPosition)


BUILT_IN: Final[Mapping[str, Bind]] = {
    "aave_v3": _aave_v3,
    "compound_v2": _compound_v2,
    "morpho_blue": _morpho_blue,
    "perp_curie": _perp_curie,
}


def protocol_names() -> tuple[str, ...]:
    """Return the name of every protocol that a chain file may use."""
    return tuple(sorted({*BUILT_IN, *_offered()}))


def _offered() -> Mapping[str, list[EntryPoint]]:
    """Return what other packages offer under a name that a chain file can say; none can take a built-in one's place."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point.name not in BUILT_IN and _NAME.fullmatch(point.name):
            found.setdefault(point.name, []).append(point)
    return found


def _bind_of(name: str) -> Bind:
    """Return how a protocol's markets are bound; another package is imported only where a market needs it.

    Raises: ConfigurationError.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    points = _offered().get(name, [])
    if not points:
        raise ConfigurationError(f"unknown protocol; known are {', '.join(protocol_names())}")
    if len(points) > 1:
        raise ConfigurationError("several installed packages offer its protocol; keep one of them")
    try:
        found: Bind = points[0].load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigurationError(f"the package that offers its protocol cannot be loaded: {error}") from error
    if not callable(found):
        raise ConfigurationError("the package that offers its protocol names something that is no function")
    return found


def markets_of(chain: ChainFile) -> tuple[Market, ...]:
    """Bind each market of a chain file to its protocol.

    Raises: ConfigurationError naming every market of an unknown protocol, every wrong option, or that there is none.
    """
    problems = [] if chain.markets else [f"{chain.name}: the chain file lists no market; add a [[markets]] table"]
    markets: list[Market] = []
    for each in chain.markets:
        try:
            markets.append(_bind_of(each.protocol)(each, chain))
        except ConfigurationError as error:
            problems += [f"{chain.name}: market {each.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigurationError(*problems)
    return tuple(markets)
