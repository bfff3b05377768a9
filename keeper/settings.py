"""The settings: the only reader of the environment, of secret files and of the secrets in them."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from keeper.chainfile import ChainFile, closest, parse_address
from keeper.domain.mode import Mode
from keeper.domain.units import Address, Base, Bps, Wei
from keeper.errors import ConfigurationError
from keeper.forms import (
    Scaled,
    Secret,
    Whole,
    check_database_url,
    check_file,
    is_exposed,
    is_loopback,
    key_forms,
    lower,
    parse_path,
    parse_private_key,
    parse_rpc_urls,
    read_secret,
    split_url,
    url_forms,
)

PREFIX: Final = "KEEPER_"
SECRETS: Final = frozenset({"rpc_urls", "private_key", "keystore_password"})
"""The settings that may also be given as the path of a file, in a name that ends in _FILE."""
EXPOSED: Final = ": every user of this machine may open the file that it names; chmod it 600"
GWEI: Final = 10**9
FOREIGN_NAMES: Final = re.compile(r"KEEPER_SERVICE_(HOST|PORT(_\w+)?)|KEEPER_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?")
"""What Kubernetes puts into every pod's environment where a Service is called keeper; KEEPER_PORT as well."""


def _default_database(values: Mapping[str, Any]) -> str:
    """Give each chain its own file: two keepers may share a state directory."""
    name = Path(values.get("chain", "keeper")).stem
    return f"sqlite:///{values.get('state_dir', Path())}/{name}.sqlite3"


def _default_tip(values: Mapping[str, Any]) -> str:
    """Keep the default within a smaller cap."""
    wei = min(5 * GWEI, values.get("max_fee_wei", 5 * GWEI))
    return f"{wei // GWEI}.{wei % GWEI:09}"


Usd = BeforeValidator(Scaled(8, "0", "1000000000"))
Folder = Annotated[Path, BeforeValidator(parse_path)]


def _setting(default: Any, meaning: str, **options: Any) -> Any:
    source: dict[str, Any] = {"default_factory" if callable(default) else "default": default}
    return Field(description=meaning, **source, **options)


class Settings(BaseSettings):
    """Everything an operator can set, checked. Construct it from keywords, or `load` it from an environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    chain: str = Field(
        pattern=r"^[^\x00-\x1f]{1,1000}$",
        description="The chain: the name of a file in `config/`, such as `ethereum`, or a path to one",
    )
    rpc_urls: Annotated[tuple[Secret, ...], BeforeValidator(parse_rpc_urls)] = Field(
        min_length=1, description="Node endpoints, comma-separated, best first: `https://…` or `wss://…`"
    )
    mode: Annotated[Mode, BeforeValidator(lower)] = _setting(
        "observe",
        "`observe` only watches, `shadow` does everything but sign and send, `live` sends transactions",
    )
    private_key: Annotated[Secret, AfterValidator(parse_private_key)] | None = _setting(
        None, "The liquidating account's key, 64 hexadecimal digits. A keystore is safer"
    )
    keystore_file: Annotated[Path, BeforeValidator(parse_path), AfterValidator(check_file)] | None = _setting(
        None, "Path of an encrypted keystore (web3 secret storage), instead of `KEEPER_PRIVATE_KEY`"
    )
    keystore_password: Secret | None = _setting(None, "The keystore's password")
    address: Annotated[Address, BeforeValidator(parse_address)] | None = _setting(
        None, "In shadow mode without a key: the account to simulate as, which holds tokens to repay with"
    )
    state_dir: Folder = _setting("~/.local/state/keeper", "Folder of what must survive a restart")
    database_url: Annotated[str, AfterValidator(check_database_url)] = Field(
        default_factory=_default_database,
        description="The journal, `sqlite:///PATH`",
        json_schema_extra={"default": "a file named after the chain in `KEEPER_STATE_DIR`"},
    )
    min_profit_base: Annotated[Base, Usd] = _setting("5", "Least profit after gas, US dollars", alias="min_profit_usd")
    approval_base: Annotated[Base, Usd] = _setting(
        "10000", "Cap of a token allowance, US dollars", alias="approval_usd"
    )
    max_fee_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0.000001", "100000"))] = _setting(
        "200", "Most to pay for a unit of gas, in gwei", alias="max_fee_gwei"
    )
    max_priority_fee_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "100000"))] = _setting(
        _default_tip,
        "Most of that to give the block's builder, in gwei",
        alias="max_priority_fee_gwei",
        json_schema_extra={"default": "5, or `KEEPER_MAX_FEE_GWEI` where that is less"},
    )
    max_gas_share_bps: Annotated[Bps, BeforeValidator(Whole(1, 10_000))] = _setting(
        "5000", "Most of the expected profit to pay as fees, in hundredths of a percent"
    )
    bump_after_blocks: Annotated[int, BeforeValidator(Whole(1, 1000))] = _setting(
        "2", "Replace a transaction that is not mined after so many blocks"
    )
    bump_bps: Annotated[Bps, BeforeValidator(Whole(1000, 10_000))] = _setting(
        "1250", "Raise the fees by so much at a replacement, in hundredths of a percent; nodes refuse less than 1000"
    )
    confirmations: Annotated[int, BeforeValidator(Whole(1, 10_000))] = _setting(
        "3", "Blocks that settle an outcome, the transaction's own included"
    )
    max_plans_per_head: Annotated[int, BeforeValidator(Whole(1, 1000))] = _setting(
        "64", "Most liquidations to begin at one block"
    )
    http_host: Annotated[str, Field(pattern=r"^[0-9A-Za-z.:-]{1,253}$")] = _setting(
        "127.0.0.1", "Address of the health and metrics endpoints"
    )
    http_port: Annotated[int, BeforeValidator(Whole(0, 65_535))] = _setting("9464", "Their port; 0 picks a free one")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = _setting(
        "info", "Least level to log: `debug`, `info`, `warning` or `error`"
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = _setting(
        "auto", "`json`, `console`, or `auto`: console on a terminal, else json"
    )
    no_color: Annotated[bool, BeforeValidator(bool)] = _setting(
        "",
        "Any value: no colours (none are used where the output is no terminal)",
        json_schema_extra={"env": "NO_COLOR"},
    )
    poll_interval_ms: Annotated[int, BeforeValidator(Whole(50, 60_000))] = _setting(
        "1000", "Time between questions for a new block on an http endpoint"
    )
    requests_per_second: Annotated[int, BeforeValidator(Whole(1, 10_000))] = _setting(
        "50", "Request budget of each endpoint"
    )
    parity_every_heads: Annotated[int, BeforeValidator(Whole(0, 1_000_000))] = _setting(
        "5", "Compare own results with the protocol's own view every so many blocks; 0: never"
    )
    parity_sample: Annotated[int, BeforeValidator(Whole(1, 10_000))] = _setting("10", "Positions to compare each time")
    max_head_age_s: Annotated[int, BeforeValidator(Whole(1, 86_400))] = _setting(
        "60", "Age of the newest block beyond which `/readyz` says no"
    )
    low_balance_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "1000000000000"))] = _setting(
        "10000000", "Warn below this native balance, in gwei (1000000000 are one whole coin)", alias="low_balance_gwei"
    )
    max_value_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "1000000000000"))] = _setting(
        "5000000000",
        "Most native currency that one transaction may carry, in gwei, where a debt is owed in it; 0: none",
        alias="max_value_gwei",
    )
    drain_timeout_s: Annotated[int, BeforeValidator(Whole(0, 600))] = _setting(
        "8", "Time that open transactions are given at a stop"
    )
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library calls it by keyword
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: `load` names the environment, and says more about what is wrong in it."""
        return (init_settings,)

    @field_validator("max_priority_fee_wei")
    @classmethod
    def _is_within_the_fee(cls, tip: Wei, info: ValidationInfo) -> Wei:
        if tip > info.data.get("max_fee_wei", tip):
            raise ValueError("is above KEEPER_MAX_FEE_GWEI, which it is part of; lower it or raise that")
        return tip

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        kinds = ("private_key", "keystore_file", "keystore_password", "address")
        given = {key for key in kinds if getattr(self, key) is not None}
        if problems := list(_contradictions(given, self.mode)):
            raise ValueError("\n".join(problems))
        return self

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the operator should look at, one line each, without values."""
        return self._warnings

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read and check the settings of an environment, by default the process's own.

        Raises: ConfigurationError with every problem, naming settings and cures but never a value.
        """
        intake = Intake(os.environ if env is None else env)
        problems = intake.problems
        settings = None
        values: dict[str, Any] = {**intake.values}
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems += _explain(error, intake.broken)
        problems += _contradictions(intake.values.keys() | intake.broken, intake.values.get("mode", ""))
        if problems or settings is None:
            raise ConfigurationError(*problems)
        settings._warnings = (*intake.warnings, *settings._doubts())
        return settings

    def secrets(self) -> frozenset[str]:
        """Return every text that must not be seen: each secret, the parts of it that tell, and its other spellings."""
        texts = {form for url in self.rpc_urls for form in url_forms(url.reveal())}
        if self.private_key is not None:
            texts.update(key_forms(self.private_key.reveal()))
        if self.keystore_password is not None:
            texts.add(self.keystore_password.reveal())
        return frozenset(texts)

    def _doubts(self) -> Iterator[str]:
        if not is_loopback(self.http_host):
            yield "KEEPER_HTTP_HOST: other machines can reach the health and metrics endpoints; use 127.0.0.1 unless meant"
        if self.keystore_file is not None and is_exposed(self.keystore_file.stat()):
            yield f"KEEPER_KEYSTORE_FILE{EXPOSED}"
        operators = defaultdict[str, list[int]](list)
        for number, url in enumerate(self.rpc_urls, 1):
            parts = split_url(url.reveal())
            host = (parts.hostname if parts else None) or ""
            if not is_loopback(host):
                operators[".".join(host.split(".")[-2:]) if host[-1:].isalpha() else host].append(number)
        for numbers in operators.values():
            if len(numbers) > 1:
                entries = " and ".join(map(str, numbers))
                yield f"KEEPER_RPC_URLS: entries {entries} are of one operator, so they can fail together; add another's"


class Intake:
    """What an environment says: the values by key, and everything that is wrong with it before a value is looked at."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.values: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.broken: set[str] = set()
        known = dict(_names())
        for name, key in known.items():
            self._take(env, name, key)
        known |= {f"{name}_FILE": key for name, key in known.items() if key in SECRETS}
        for name in sorted(env):
            if name.upper().startswith(PREFIX) and name not in known and not _is_foreign(name, env[name]):
                shown = name if name.isprintable() and len(name) <= 80 else f"{PREFIX}…"
                self.problems.append(f"{shown}: is not a setting{closest(name.replace('__', '_'), known)}")

    def _take(self, env: Mapping[str, str], name: str, key: str) -> None:
        value, file = env.get(name, "").strip(), f"{name}_FILE"
        path = env.get(file, "").strip() if key in SECRETS else ""
        if value and path:
            self._break(key, f"{name} and {file} are both set; keep one, better {file}")
        elif path:
            self._read(file, key, path)
        elif value:
            self.values[key] = value if key != "keystore_password" else env[name].rstrip("\r\n")

    def _read(self, name: str, key: str, path: str) -> None:
        try:
            self.values[key], is_open = read_secret(Path(os.path.expanduser(path)))  # noqa: PTH111 - see parse_path
        except ValueError as error:
            self._break(key, f"{name}: {error}")
            return
        if is_open:
            self.warnings.append(name + EXPOSED)

    def _break(self, key: str, problem: str) -> None:
        self.broken.add(key)
        self.problems.append(problem)


def load_configuration(env: Mapping[str, str] | None = None) -> tuple[Settings, ChainFile]:
    """Read and check the settings and the chain file that they name.

    Raises: ConfigurationError with the problems of both.
    """
    env = os.environ if env is None else env
    problems: list[str] = []
    settings = chain = None
    try:
        settings = Settings.load(env)
    except ConfigurationError as error:
        problems += error.problems
    try:
        chain = ChainFile.load(name) if (name := env.get("KEEPER_CHAIN", "").strip()) else None
    except ConfigurationError as error:
        problems += error.problems
    if settings is None or chain is None:
        raise ConfigurationError(*problems)
    return settings, chain


def http_address(env: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Return where the health endpoints listen, without looking at any other setting.

    Raises: ConfigurationError when the port is no port.
    """
    env = os.environ if env is None else env
    host, port = (
        env.get(f"{PREFIX}{key.upper()}", "").strip() or Settings.model_fields[key].default
        for key in ("http_host", "http_port")
    )
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise ConfigurationError("KEEPER_HTTP_PORT: must be from 1 to 65535")
    return host, int(port)


def settings_table() -> str:
    """Return the README's table of settings."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, key in _names():
        field = _fields()[key]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = (
            "required"
            if field.is_required()
            else extra.get("default") or (f"`{field.default}`" if field.default else "")
        )
        also = f". Secret: better in a file, named by `{name}_FILE`" if key in SECRETS else ""
        lines.append(f"| `{name}` | {default} | {field.description}{also} |")
    return "\n".join(lines)


def _fields() -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in Settings.model_fields.items()}


def _names() -> Iterator[tuple[str, str]]:
    """Yield each environment variable with the keyword that it is."""
    for key, field in _fields().items():
        extra = field.json_schema_extra
        yield str(extra["env"]) if isinstance(extra, dict) and "env" in extra else PREFIX + key.upper(), key


def _is_foreign(name: str, value: str) -> bool:
    return bool(FOREIGN_NAMES.fullmatch(name)) or (name == "KEEPER_PORT" and "://" in value)


def _contradictions(given: Collection[str], mode: str) -> Iterator[str]:
    has_key, has_keystore = "private_key" in given, "keystore_file" in given
    if has_key and has_keystore:
        yield "KEEPER_PRIVATE_KEY and KEEPER_KEYSTORE_FILE are both set; keep one, better the keystore"
    if mode.strip().lower() == Mode.LIVE and not has_key and not has_keystore:
        yield "KEEPER_MODE is live without KEEPER_PRIVATE_KEY or KEEPER_KEYSTORE_FILE; set one, or choose observe or shadow"
    if mode.strip().lower() == Mode.SHADOW and not has_key and not has_keystore and "address" not in given:
        yield "KEEPER_MODE is shadow without KEEPER_ADDRESS or a key; set the address of the account to simulate as"
    if has_keystore and "keystore_password" not in given:
        yield "KEEPER_KEYSTORE_FILE is set without KEEPER_KEYSTORE_PASSWORD; set it, better as KEEPER_KEYSTORE_PASSWORD_FILE"
    if "keystore_password" in given and not has_keystore:
        yield "KEEPER_KEYSTORE_PASSWORD is set without KEEPER_KEYSTORE_FILE; set it, or remove the password"


def _explain(error: ValidationError, broken: Collection[str]) -> Iterator[str]:
    """Put each of pydantic's complaints in one line that names the setting and the cure."""
    names = {key: name for name, key in _names()}
    for detail in error.errors(include_url=False, include_input=False):
        message = str(detail["msg"]).removeprefix("Value error, ")
        if not detail["loc"] or detail["type"] == "default_factory_not_called":
            continue  # what contradicts or waits for another setting is reported there
        key = str(detail["loc"][0])
        if detail["type"] != "missing":
            yield f"{names[key]}: {message.replace('Input should', 'must').replace('String should', 'must')}"
        elif key not in broken:
            yield f"{names[key]}: is not set. {_fields()[key].description}"


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - its output is the table
