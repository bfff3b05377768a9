"""The one place that knows every kind of venue and lender: from a chain file's places to the parts that read them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from keeper.chainfile import (
    AddressField,
    ChainFile,
    HashField,
    LenderConfig,
    Options,
    PlaceConfig,
    VenueConfig,
    closest,
)
from keeper.domain.exchange import Lenders, Quoter, Venue
from keeper.domain.ports import Clock
from keeper.domain.program import StepKind
from keeper.domain.units import Address
from keeper.errors import ConfigurationError
from keeper.executor.calls import Permit
from keeper.venues.balancer import BalancerQuoter
from keeper.venues.curve import CurveQuoter
from keeper.venues.door import Key
from keeper.venues.http import Fair, HttpQuoter, Notice
from keeper.venues.kyberswap import KyberSwap
from keeper.venues.loans import AaveLenders, BalancerLenders, Erc3156Lenders, MorphoLenders
from keeper.venues.odos import Odos
from keeper.venues.oneinch import OneInch
from keeper.venues.service import Service
from keeper.venues.uniswap_v2 import FEE_BPS, UniswapV2
from keeper.venues.uniswap_v2 import INIT_CODE_HASH as V2_INIT_CODE_HASH
from keeper.venues.uniswap_v3 import WINDOW, UniswapV3
from keeper.venues.uniswap_v3_factory import INIT_CODE_HASH as V3_INIT_CODE_HASH
from keeper.venues.uniswap_v3_flash import UniswapV3Flash
from keeper.venues.velora import Velora
from keeper.venues.wrappers import Erc4626Quoter, WstethQuoter
from keeper.venues.zerox import ZeroEx

_NO_HASH: Final = bytes(32)
Fee = Annotated[int, Field(strict=True, gt=0, lt=1_000_000)]


class _V3LoanOptions(Options):
    """A factory of the Uniswap v3 kind, and who makes its pools where that is not the factory.

    Without `fees` the usual tiers that it has enabled count.
    """

    init_code_hash: HashField = V3_INIT_CODE_HASH
    deployer: AddressField | None = None
    fees: tuple[Fee, ...] = ()


class _V3Options(_V3LoanOptions):
    """How far around the price a pool is known, in ticks."""

    window: Annotated[int, Field(strict=True, ge=100, le=50_000)] = WINDOW


class _V2Options(Options):
    """A factory of the Uniswap v2 kind, and the fee that its pairs take."""

    init_code_hash: HashField = V2_INIT_CODE_HASH
    fee_bps: Annotated[int, Field(strict=True, ge=0, lt=1_000)] = FEE_BPS


class _BalancerOptions(Options):
    """The pools of a vault to ask, by their ids."""

    pools: Annotated[tuple[HashField, ...], Field(min_length=1)]


class _VaultOptions(Options):
    """Accounts that hold many of a vault's shares: as much as one of them may redeem, the executor may."""

    holders: tuple[AddressField, ...] = ()


class _ServiceOptions(Options):
    """How a service is asked; `key` names one of the keys in the settings, `pace_ms` is between two requests."""

    url: Annotated[str, Field(strict=True, pattern=r"^(https?://[^\s@?#]{1,200})?$")] = ""
    key: Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")] | None = None
    timeout_ms: Annotated[int, Field(strict=True, ge=50, le=10_000)] = 400
    tolerance_bps: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 50
    pace_ms: Annotated[int, Field(strict=True, ge=0, le=60_000)] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What services are asked with beside what the chain file says: the account that sends, and the keys by name."""

    origin: Address
    clock: Clock
    keys: Mapping[str, Key] = field(default_factory=dict)
    fair: Fair | None = None
    notice: Callable[[Notice], None] | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a chain file may say of a kind of place, what the executor does there, and how it is made."""

    options: type[Options]
    steps: frozenset[StepKind]
    make: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Place:
    config: PlaceConfig
    kind: _Kind
    options: Any


def _uniswap_v3(place: VenueConfig, options: _V3Options) -> Venue:
    return UniswapV3(
        place.name,
        place.root,
        init_code_hash=options.init_code_hash,
        deployer=options.deployer,
        fees=options.fees,
        window=options.window,
    )


def _uniswap_v2(place: VenueConfig, options: _V2Options) -> Venue:
    return UniswapV2(place.name, place.root, init_code_hash=options.init_code_hash, fee_bps=options.fee_bps)


def _balancer(place: VenueConfig, options: _BalancerOptions) -> Quoter:
    return BalancerQuoter(place.name, place.root, options.pools)


def _erc4626(place: VenueConfig, options: _VaultOptions) -> Quoter:
    return Erc4626Quoter(place.name, place.root, options.holders)


def _plain(make: Callable[[str, Address], Any]) -> Callable[..., Any]:
    return lambda place, *_: make(place.name, place.root)


def _flash(place: LenderConfig, options: _V3LoanOptions, bases: Sequence[Address]) -> Lenders:
    return UniswapV3Flash(
        place.name,
        place.root,
        bases=bases,
        init_code_hash=options.init_code_hash,
        deployer=options.deployer,
        fees=options.fees,
    )


def _steps(*kinds: StepKind) -> frozenset[StepKind]:
    return frozenset(kinds)


_POOLS: Final[Mapping[str, _Kind]] = {
    "uniswap_v3": _Kind(_V3Options, _steps(StepKind.SWAP_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3), _uniswap_v3),
    "uniswap_v2": _Kind(_V2Options, _steps(StepKind.SWAP_UNISWAP_V2), _uniswap_v2),
}
"""What is known from memory."""
_ASKED: Final[Mapping[str, _Kind]] = {
    "curve": _Kind(Options, _steps(StepKind.SWAP_CURVE), _plain(CurveQuoter)),
    "balancer": _Kind(_BalancerOptions, _steps(StepKind.SWAP_BALANCER), _balancer),
    "erc4626": _Kind(_VaultOptions, _steps(StepKind.REDEEM_ERC4626), _erc4626),
    "wsteth": _Kind(Options, _steps(StepKind.UNWRAP_WSTETH), _plain(WstethQuoter)),
}
"""What a contract is asked for, in one batch at each head."""
_SERVICES: Final[Mapping[str, _Kind]] = {
    name: _Kind(_ServiceOptions, _steps(StepKind.SWAP_ROUTER), make)
    for name, make in {
        "oneinch": OneInch,
        "zerox": ZeroEx,
        "velora": Velora,
        "odos": Odos,
        "kyberswap": KyberSwap,
    }.items()
}
"""What a service is asked for over HTTP; these are made from a chain id and a router."""
VENUES: Final[Mapping[str, _Kind]] = {**_POOLS, **_ASKED, **_SERVICES}
LENDERS: Final[Mapping[str, _Kind]] = {
    "aave_v3": _Kind(Options, _steps(StepKind.FLASH_AAVE), _plain(AaveLenders)),
    "morpho": _Kind(Options, _steps(StepKind.FLASH_MORPHO), _plain(MorphoLenders)),
    "balancer": _Kind(Options, _steps(StepKind.FLASH_BALANCER), _plain(BalancerLenders)),
    "erc3156": _Kind(Options, _steps(StepKind.FLASH_ERC3156), _plain(Erc3156Lenders)),
    "uniswap_v3": _Kind(_V3LoanOptions, _steps(StepKind.FLASH_UNISWAP_V3), _flash),
}


def venues_of(chain: ChainFile) -> tuple[Venue, ...]:
    """Return the families of pools that a chain file names.

    Raises: ConfigurationError with every problem of its venues and lenders.
    """
    return tuple(each.kind.make(each.config, each.options) for each in _venues(chain, _POOLS))


def quoters_of(chain: ChainFile, around: Surroundings) -> tuple[Quoter, ...]:
    """Return the venues that have to be asked; services only where there is an executor to trade for.

    Raises: ConfigurationError with every problem of its venues and lenders.
    """
    quoters: list[Quoter] = [each.kind.make(each.config, each.options) for each in _venues(chain, _ASKED)]
    problems = []
    for each in _venues(chain, _SERVICES) if chain.executor is not None else ():
        try:
            quoters.append(_quoter(each, chain, around))
        except ConfigurationError as error:
            problems += _located(chain, "venue", each.config, error)
    if problems:
        raise ConfigurationError(*problems)
    return tuple(quoters)


def lenders_of(chain: ChainFile) -> tuple[Lenders, ...]:
    """Return the places to borrow from that a chain file names.

    Raises: ConfigurationError with every problem of its venues and lenders.
    """
    return tuple(each.kind.make(each.config, each.options, chain.exchange.bases) for each in _places(chain)[1])


def permits_of(chain: ChainFile, wanted: Iterable[tuple[Address, StepKind]] = ()) -> tuple[Permit, ...]:
    """Return what the executor has to be allowed: by the venues, the lenders, and what markets want.

    Raises: ConfigurationError with every problem of the venues and lenders.
    """
    kinds: dict[Address, set[StepKind]] = {chain.wrapped_native: {StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE}}
    hashes: dict[Address, bytes] = {}
    problems = []
    venues, lenders = _places(chain)
    for each in (*venues, *lenders):
        target = getattr(each.options, "deployer", None) or each.config.root
        kinds.setdefault(target, set()).update(each.kind.steps)
        init_code_hash = getattr(each.options, "init_code_hash", _NO_HASH)
        if init_code_hash != _NO_HASH and hashes.setdefault(target, init_code_hash) != init_code_hash:
            problems.append(f"{chain.name}: {each.config.name}: init_code_hash differs from another's of the same root")
    if problems:
        raise ConfigurationError(*problems)
    for target, kind in wanted:
        kinds.setdefault(target, set()).add(kind)
    return tuple(
        Permit(target, frozenset(found), hashes.get(target, _NO_HASH)) for target, found in sorted(kinds.items())
    )


def selectors_of(chain: ChainFile) -> Mapping[Address, frozenset[bytes]]:
    """Return the functions of each router that the executor has to be allowed to call.

    Raises: ConfigurationError with every problem of the venues and lenders.
    """
    services = (_service(each, chain) for each in _venues(chain, _SERVICES))
    return {service.router: frozenset(service.profile.by_selector) for service in services}


def _places(chain: ChainFile) -> tuple[Sequence[_Place], Sequence[_Place]]:
    """Return the venues and the lenders, once all of them are found to be right."""
    problems = list[str]()
    venues = list(_read(chain, "venue", chain.exchange.venues, VENUES, problems))
    lenders = list(_read(chain, "lender", chain.exchange.lenders, LENDERS, problems))
    for each in venues:
        if each.kind.options is _ServiceOptions:
            try:
                _service(each, chain)
            except ConfigurationError as error:
                problems += _located(chain, "venue", each.config, error)
    if problems:
        raise ConfigurationError(*problems)
    return venues, lenders


def _venues(chain: ChainFile, kinds: Mapping[str, _Kind]) -> Iterator[_Place]:
    venues, _ = _places(chain)
    return (each for each in venues if each.kind in kinds.values())


def _read(
    chain: ChainFile,
    what: str,
    places: Sequence[VenueConfig] | Sequence[LenderConfig],
    kinds: Mapping[str, _Kind],
    problems: list[str],
) -> Iterator[_Place]:
    """Yield the places whose kind is known and whose options are right; note what is wrong with the others."""
    for place in places:
        kind = kinds.get(place.kind)
        if kind is None:
            known = f"known are {', '.join(sorted(kinds))}{closest(place.kind, kinds)}"
            problems.append(f"{chain.name}: {what} {place.name}: unknown kind; {known}")
            continue
        try:
            options = kind.options.read(place)
        except ConfigurationError as error:
            problems += _located(chain, what, place, error)
            continue
        yield _Place(place, kind, options)


def _service(place: _Place, chain: ChainFile) -> Service:
    """Return a service whose router on this chain is the root.

    Raises: ConfigurationError.
    """
    service: Service = place.kind.make(chain.chain_id, place.config.root)
    service.profile.router(chain.chain_id, place.config.root)
    return service


def _quoter(place: _Place, chain: ChainFile, around: Surroundings) -> Quoter:
    if chain.executor is None:
        raise ConfigurationError("there is no [executor] that a service could trade for")
    key: str | None = place.options.key
    if key is not None and key not in around.keys:
        raise ConfigurationError(f"options.key: the settings hold no key {key}{closest(key, around.keys)}")
    return HttpQuoter(
        _service(place, chain),
        executor=chain.executor.address,
        origin=around.origin,
        clock=around.clock,
        name=place.config.name,
        key=None if key is None else around.keys[key],
        url=place.options.url,
        tolerance_bps=place.options.tolerance_bps,
        timeout_ms=place.options.timeout_ms,
        pace_ms=place.options.pace_ms,
        fair=around.fair,
        notice=around.notice,
    )


def _located(chain: ChainFile, what: str, place: PlaceConfig, error: ConfigurationError) -> list[str]:
    return [f"{chain.name}: {what} {place.name}: {problem}" for problem in error.problems]
