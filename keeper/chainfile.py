"""The chain file: one TOML file per chain with the root addresses of its markets. It holds no secret."""

import difflib
import os.path
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self, get_args

from eth_utils.address import to_checksum_address
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from keeper.domain.units import ZERO_ADDRESS, Address
from keeper.errors import ConfigurationError

FOLDERS: Final = (Path(__file__).parent.parent / "config", Path(__file__).parent / "_config")
"""Where a bare name is looked up: an editable checkout first, then what the wheel carries."""
MAX_FILE_BYTES: Final = 1 << 20
MULTICALL3: Final = "0xcA11bde05977b3631167028862bE2a173976CA11"
ADDRESS_CHARACTERS: Final = 42
HASH_BYTES: Final = 32


def closest(name: str, known: Iterable[str]) -> str:
    """Return a question that offers the likeliest known name, or nothing."""
    spellings = {spelling.lower(): spelling for spelling in sorted(known)}
    matches = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.6)
    return f"; did you mean {spellings[matches[0]]}?" if matches else ""


def parse_address(value: object) -> Address:
    """Read an address in its checksummed or its all-lowercase form.

    Raises: ValueError when it is of another form, miscapitalised or zero.
    """
    if isinstance(value, bytes) and len(value) == len(ZERO_ADDRESS):
        return Address(value)
    if not isinstance(value, str) or len(value) != ADDRESS_CHARACTERS or not value.startswith("0x"):
        raise ValueError("must be an address: 0x and 40 hexadecimal digits")
    try:
        address = Address(bytes.fromhex(value[2:]))
    except ValueError:
        raise ValueError("must be an address: 0x and 40 hexadecimal digits") from None
    if address == ZERO_ADDRESS:
        raise ValueError("must not be the zero address")
    if value not in {value.lower(), to_checksum_address(address)}:
        raise ValueError("has a wrong EIP-55 checksum: a digit is mistyped; copy the address again from its source")
    return address


def parse_hash(value: object) -> bytes:
    """Read a hash of 32 bytes.

    Raises: ValueError when it is of another form.
    """
    if isinstance(value, bytes) and len(value) == HASH_BYTES:
        return value
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{64}", value):
        raise ValueError("must be a hash: 0x and 64 hexadecimal digits")
    return bytes.fromhex(value[2:])


AddressField = Annotated[Address, BeforeValidator(parse_address)]
HashField = Annotated[bytes, BeforeValidator(parse_hash)]
Label = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
KindField = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Whole = Annotated[int, Field(strict=True)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


class PlaceConfig(_Frozen):
    """Anything that is reachable from a root contract and has options of its own."""

    name: Label
    root: AddressField
    options: Mapping[str, Any] = {}
    """What only its kind knows; that checks them itself."""


class MarketConfig(PlaceConfig):
    """One market: a deployment of a protocol."""

    protocol: KindField
    from_block: Annotated[Whole, Field(ge=0, lt=1 << 53)]


class VenueConfig(PlaceConfig):
    """A place to swap."""

    kind: KindField


class LenderConfig(PlaceConfig):
    """A place to borrow from within a transaction."""

    kind: KindField


class Options(_Frozen):
    """A place's own options: its kind derives what it knows from this; as it stands there are none."""

    @classmethod
    def read(cls, place: PlaceConfig) -> Self:
        """Check a place's options.

        Raises: ConfigurationError with every problem of them.
        """
        try:
            return cls.model_validate(dict(place.options))
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            raise ConfigurationError(*(f"options.{_explain(each, cls)}" for each in details)) from None


class FeedConfig(_Frozen):
    """A Chainlink feed that prices a token in US dollars."""

    token: AddressField
    feed: AddressField


class PricesConfig(_Frozen):
    """Where tokens' prices in US dollars come from, for markets whose own oracles quote something else.

    `oracle` has the interface of Aave's, in US dollars with 8 decimals; a token's own feed counts before it.
    """

    oracle: AddressField | None = None
    feeds: tuple[FeedConfig, ...] = ()
    vouched: tuple[AddressField, ...] = ()
    """Tokens whose prices are acted upon however far they jump."""


class ExecutorConfig(_Frozen):
    """The contract that liquidates with borrowed money, as `keeper executor deploy` printed it."""

    address: AddressField
    code_hash: HashField
    owner: AddressField | None = None
    """Who gets the profit; the code's hash says nothing of that."""
    hold: tuple[AddressField, ...] = ()
    """Tokens that may be kept where they cannot be sold; any other collateral without a way out is left alone."""
    from_block: Annotated[Whole, Field(ge=0, lt=1 << 53)] | None = None
    """Where it was created: with it, what it was ever allowed can be found."""


class ExchangeConfig(_Frozen):
    """Where tokens are swapped and lent. `bases` are the tokens that a route may lead through.

    A swap may bring `tolerance_bps` less than was quoted, and never be `max_slippage_bps` below the oracle's price.
    """

    bases: tuple[AddressField, ...] = ()
    tolerance_bps: Annotated[Whole, Field(ge=0, le=1_000)] = 50
    max_slippage_bps: Annotated[Whole, Field(ge=1, le=5_000)] = 300
    venues: tuple[VenueConfig, ...] = ()
    lenders: tuple[LenderConfig, ...] = ()


class ChainFile(_Frozen):
    """A chain, the markets on it, and where to trade."""

    chain_id: Annotated[Whole, Field(ge=1, lt=1 << 53)]
    name: Label
    native_symbol: Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9]{1,16}$")] = "ETH"
    wrapped_native: AddressField
    block_time_ms: Annotated[Whole, Field(ge=10, le=3_600_000)]
    multicall: AddressField = parse_address(MULTICALL3)
    data_fee_oracle: AddressField | None = None
    """What tells the fee that a rollup of the OP stack takes for a transaction's data (`getL1Fee`)."""
    data_gas_oracle: AddressField | None = None
    """What tells the gas that Arbitrum takes for a transaction's data (NodeInterface, `gasEstimateL1Component`)."""
    explorer: Annotated[str, Field(strict=True, pattern=r"^https?://[^\s]{1,200}$")] | None = None
    prices: PricesConfig = PricesConfig()
    executor: ExecutorConfig | None = None
    exchange: ExchangeConfig = ExchangeConfig()
    markets: tuple[MarketConfig, ...]
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the operator should look at, one line each."""
        return self._warnings

    @classmethod
    def load(cls, name: str, folders: Sequence[Path] = FOLDERS) -> Self:
        """Find, read and check a chain file, given a path or the name of a file in `folders`.

        Raises: ConfigurationError with every problem of the file.
        """
        path = find(name, folders)
        tree = _read(path)
        problems = _repetitions(tree)
        chain = None
        try:
            chain = cls.model_validate(tree)
        except ValidationError as error:
            problems = [
                _explain(detail, _model_at(detail["loc"]))
                for detail in error.errors(include_url=False, include_input=False)
            ] + problems
        if problems or chain is None:
            raise ConfigurationError(*(f"{path.name}: {problem}" for problem in problems))
        chain._warnings = tuple(f"{path.name}: {warning}" for warning in _doubts(tree))  # noqa: SLF001 - its own
        return chain


def find(name: str, folders: Sequence[Path] = FOLDERS) -> Path:
    """Return the chain file that a name or path stands for.

    Raises: ConfigurationError when there is none.
    """
    given = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if os.path.isfile(given):  # noqa: PTH113 - pathlib's raises, with the name, where it is too long
        return given
    if "/" in name or name.endswith(".toml"):
        raise ConfigurationError(
            "KEEPER_CHAIN: no such file; give a path to a chain file, or the name of one in config/"
        )
    for folder in folders:
        path = folder / f"{name}.toml"
        if os.path.isfile(path):  # noqa: PTH113 - likewise
            return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    raise ConfigurationError(
        f"KEEPER_CHAIN: no chain file of that name{closest(name, known)} (available: {', '.join(known) or 'none'})"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path.name}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path.name}: is larger than {MAX_FILE_BYTES} bytes; that is no chain file")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path.name}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path.name}: is not valid TOML: {error}") from None


def _key_path(location: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _model_at(location: Sequence[str | int]) -> type[BaseModel]:
    """Return the model whose key a location names."""
    match location:
        case ("markets", _, _):
            return MarketConfig
        case ("prices", "feeds", _, _):
            return FeedConfig
        case ("prices", _):
            return PricesConfig
        case ("executor", _):
            return ExecutorConfig
        case ("exchange", "venues", _, _):
            return VenueConfig
        case ("exchange", "lenders", _, _):
            return LenderConfig
        case ("exchange", _):
            return ExchangeConfig
        case _:
            return ChainFile


def _explain(detail: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Put one of pydantic's complaints in one line that names the key and the cure."""
    key = detail["loc"][-1]
    where = _key_path(detail["loc"])
    if detail["type"] == "missing":
        return f"{where}: is missing"
    if detail["type"] == "extra_forbidden":
        return f"{where}: is not a known key{closest(str(key), model.model_fields)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {message.replace('Input should', 'must').replace('String should', 'must')}"


class _Written(NamedTuple):
    """A text of a file with its key path. `group` says within what it must be the only one, if at all."""

    where: str
    text: str
    group: str = ""


def _addresses(tree: Mapping[str, Any]) -> Iterator[_Written]:
    """Yield every address of a file, as written."""
    for key, field in ChainFile.model_fields.items():
        if field.annotation in get_args(AddressField):
            yield from _text(tree, key, key, "address")
    for number, market in enumerate(_tables(tree, "markets")):
        yield from _text(market, "root", f"markets[{number}].root", "address")
    prices, executor, exchange = (_table(tree, key) for key in ("prices", "executor", "exchange"))
    yield from _text(prices, "oracle", "prices.oracle")
    for number, feed in enumerate(_tables(prices, "feeds")):
        yield from _text(feed, "token", f"prices.feeds[{number}].token", "token")
        yield from _text(feed, "feed", f"prices.feeds[{number}].feed")
    yield from _texts(prices, "vouched", "prices.vouched", "token")
    yield from _text(executor, "address", "executor.address", "address")
    yield from _text(executor, "owner", "executor.owner")
    yield from _texts(executor, "hold", "executor.hold", "token")
    yield from _texts(exchange, "bases", "exchange.bases", "token")
    for kind in ("venues", "lenders"):  # one contract may be a market, a venue and a lender at once
        for number, place in enumerate(_tables(exchange, kind)):
            yield from _text(place, "root", f"exchange.{kind}[{number}].root", "root")


def _names(tree: Mapping[str, Any]) -> Iterator[_Written]:
    """Yield every name of a file."""
    for number, market in enumerate(_tables(tree, "markets")):
        yield from _text(market, "name", f"markets[{number}].name", "name")
    for kind in ("venues", "lenders"):
        for number, place in enumerate(_tables(_table(tree, "exchange"), kind)):
            yield from _text(place, "name", f"exchange.{kind}[{number}].name", "name")


def _text(table: Mapping[str, Any], key: str, where: str, group: str = "") -> Iterator[_Written]:
    if isinstance(table.get(key), str):
        yield _Written(where, table[key], group)


def _texts(table: Mapping[str, Any], key: str, where: str, group: str = "") -> Iterator[_Written]:
    found = table.get(key)
    for number, each in enumerate(found if isinstance(found, list) else []):
        if isinstance(each, str):
            yield _Written(f"{where}[{number}]", each, group)


def _table(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _tables(tree: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = tree.get(key)
    return [table if isinstance(table, dict) else {} for table in found] if isinstance(found, list) else []


def _repetitions(tree: Mapping[str, Any]) -> list[str]:
    """Report names and addresses that appear twice where each must be its own, whatever else is wrong with the file."""
    places = defaultdict[tuple[str, str, str], list[str]](list)
    for where, text, group in (*_addresses(tree), *_names(tree)):
        if group:
            scope = "" if group == "address" else re.sub(r"\[\d+\]", "", where)
            places[group, scope, text.lower()].append(where)
    return [
        f"{where}: is the same {group} as {first}; each must be its own"
        for (group, _, _), (first, *others) in places.items()
        for where in others
    ]


def _doubts(tree: Mapping[str, Any]) -> Iterator[str]:
    if not tree["markets"]:
        yield "markets: empty, so there is nothing to watch; add a [[markets]] table"
    for where, address, _ in _addresses(tree):
        if address == address.lower() and address != to_checksum_address(address):
            yield f"{where}: has no checksum, so a mistyped digit would go unnoticed; write it checksummed"
