"""The settings: the only reader of the environment, of secret files and of the secrets in them."""

import os
import re
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

from keeper.chainfile import ChainFile, parse_address
from keeper.domain.mode import Mode
from keeper.domain.units import Address, Base, Bps, Wei
from keeper.errors import ConfigurationError
from keeper.forms import (
    Scaled,
    Secret,
    Whole,
    check_database_url,
    check_file,
    check_http_url,
    default_database,
    default_tip,
    is_exposed,
    is_loopback,
    key_forms,
    lower,
    parse_http_urls,
    parse_named_keys,
    parse_path,
    parse_private_key,
    parse_rpc_urls,
    password_forms,
    same_operator,
    url_forms,
)
from keeper.intake import EXPOSED, PREFIX, Intake, contradictions

_KEYS: Final = {"private_key", "keystore_password", "relay_key", "quote_keys"}
SECRETS: Final = frozenset({"rpc_urls", "remote_signer_url", "database_url", "private_relay_urls", *_KEYS})
"""The settings that may also be given as the path of a file, in a name that ends in _FILE."""


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
    remote_signer_url: Annotated[Secret, AfterValidator(check_http_url)] | None = _setting(
        None, "A signer that answers `eth_signTransaction`, instead of a key; its account is `KEEPER_ADDRESS`"
    )
    address: Annotated[Address, BeforeValidator(parse_address)] | None = _setting(
        None,
        "The account: to simulate as in shadow mode, or of the remote signer; a key, where there is one, must be its own",
    )
    state_dir: Folder = _setting("~/.local/state/keeper", "Folder of what must survive a restart")
    database_url: Annotated[Secret, AfterValidator(check_database_url)] = _setting(
        default_database,
        "The journal: `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/DATABASE` for a warm standby",
        json_schema_extra={"default": "a file named after the chain in `KEEPER_STATE_DIR`"},
    )
    lease_s: Annotated[int, BeforeValidator(Whole(3, 300))] = _setting(
        "10", "With PostgreSQL: a standby takes over when the leader was not heard of for so long"
    )
    min_profit_base: Annotated[Base, Usd] = _setting("5", "Least profit after gas, US dollars", alias="min_profit_usd")
    approval_base: Annotated[Base, Usd] = _setting(
        "10000", "Cap of a token allowance, US dollars", alias="approval_usd"
    )
    max_fee_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0.000001", "100000"))] = _setting(
        "200", "Most to pay for a unit of gas, in gwei", alias="max_fee_gwei"
    )
    max_priority_fee_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "100000"))] = _setting(
        default_tip,
        "Most of that to give the block's builder, in gwei",
        alias="max_priority_fee_gwei",
        json_schema_extra={"default": "5, or `KEEPER_MAX_FEE_GWEI` where that is less"},
    )
    max_gas_share_bps: Annotated[Bps, BeforeValidator(Whole(1, 10_000))] = _setting(
        "5000", "Most of the expected profit to pay as fees, in hundredths of a percent"
    )
    bump_after_blocks: Annotated[int, BeforeValidator(Whole(1, 1000))] = _setting(
        "1", "Replace a transaction that is not mined after so many blocks"
    )
    bump_bps: Annotated[Bps, BeforeValidator(Whole(1000, 10_000))] = _setting(
        "1250", "Raise the fees by so much at a replacement, in hundredths of a percent; nodes refuse less than 1000"
    )
    confirmations: Annotated[int, BeforeValidator(Whole(1, 10_000))] = _setting(
        "3", "Blocks that settle an outcome, the transaction's own included"
    )
    oracle_max_rise: Annotated[int, BeforeValidator(Whole(2, 1000))] = _setting(
        "3", "Do not act upon a price that rose to so many times within ten minutes, nor on a fall to a tenth"
    )
    oracle_settle_s: Annotated[int, BeforeValidator(Whole(0, 604_800))] = _setting(
        "900", "Act upon it again once it has stood for so long; `[prices] vouched` in the chain file lists exceptions"
    )
    max_plans_per_head: Annotated[int, BeforeValidator(Whole(1, 1000))] = _setting(
        "64", "Most liquidations to begin at one block"
    )
    max_loss_per_hour_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "1000000000000"))] = _setting(
        "200000000",
        "Begin nothing new once transactions that won nothing have cost so much gas within an hour, in gwei",
        alias="max_loss_per_hour_gwei",
    )
    max_loss_per_day_wei: Annotated[Wei, BeforeValidator(Scaled(9, "0", "1000000000000"))] = _setting(
        "1000000000", "The same within 24 hours, in gwei", alias="max_loss_per_day_gwei"
    )
    max_transactions_per_minute: Annotated[int, BeforeValidator(Whole(1, 100_000))] = _setting(
        "120", "Most transactions to begin within a minute"
    )
    breaker_losses: Annotated[int, BeforeValidator(Whole(1, 1000))] = _setting(
        "12",
        "Begin nothing new for a while after so many transactions in a row that won nothing, lost races among them",
    )
    breaker_pause_s: Annotated[int, BeforeValidator(Whole(1, 86_400))] = _setting(
        "30", "For how long at first; a single transaction then decides whether to go on, or to wait twice as long"
    )
    halt_on_foreign_nonce: bool = _setting(
        "false", "`true`: sign nothing any more once somebody else has used the key; `keeper resume` lifts it"
    )
    private_relay_urls: Annotated[tuple[Secret, ...], BeforeValidator(parse_http_urls)] = _setting(
        "", "Relays that liquidations go to instead of the public nodes, comma-separated"
    )
    private_method: Annotated[Literal["transaction", "bundle"], BeforeValidator(lower)] = _setting(
        "transaction",
        "How relays are asked: `transaction` by `eth_sendPrivateTransaction`, `bundle` by `eth_sendBundle`",
    )
    private_blocks: Annotated[int, BeforeValidator(Whole(1, 25))] = _setting(
        "5", "For how many blocks a transaction stays with the relays alone"
    )
    private_fallback: Annotated[Literal["public", "cancel"], BeforeValidator(lower)] = _setting(
        "public", "What follows then: `public` hands it to the nodes, `cancel` gives it up"
    )
    relay_key: Annotated[Secret, AfterValidator(parse_private_key)] | None = _setting(
        None,
        "The key that signs requests to relays, never the liquidating account's; by default a new one at each start",
    )
    quote_keys: Annotated[Mapping[str, Secret], BeforeValidator(parse_named_keys)] = _setting(
        "", "The keys of services that the chain file's venues ask for quotes, such as `oneinch=KEY,zerox=KEY`"
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
    failpoints: str = _setting("", "For tests of crashes on a local chain only, such as `after_sign=exit137`")
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
        kinds = ("private_key", "keystore_file", "keystore_password", "remote_signer_url", "address")
        given = {key for key in kinds if getattr(self, key) is not None}
        problems = list(contradictions(given, self.mode))
        if (
            self.relay_key is not None
            and self.private_key is not None
            and self.relay_key.reveal() == self.private_key.reveal()
        ):
            problems.append("KEEPER_RELAY_KEY is the key that holds the money; leave it out, or make another")
        if problems:
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
        intake = Intake(os.environ if env is None else env, dict(_names()), SECRETS)
        problems = intake.problems
        settings = None
        values: dict[str, Any] = {**intake.values}
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems += _explain(error, intake.broken)
        problems += contradictions(intake.values.keys() | intake.broken, intake.values.get("mode", ""))
        if problems or settings is None:
            raise ConfigurationError(*problems)
        settings._warnings = (*intake.warnings, *settings._doubts())
        return settings

    @property
    def is_shared(self) -> bool:
        """Return whether the journal is on a server, where another keeper may stand by."""
        return self.database_url.reveal().startswith("postgresql://")

    def secrets(self) -> frozenset[str]:
        """Return every text that must not be seen: each secret, the parts of it that tell, and its other spellings."""
        urls = [*self.rpc_urls, *self.private_relay_urls]
        if self.remote_signer_url is not None:
            urls.append(self.remote_signer_url)
        texts = {form for url in urls for form in url_forms(url.reveal())}
        if self.is_shared:
            texts.update(password_forms(self.database_url.reveal()))
        for key in (self.private_key, self.relay_key):
            if key is not None:
                texts.update(key_forms(key.reveal()))
        texts.update(key.reveal() for key in self.quote_keys.values())
        if self.keystore_password is not None:
            texts.add(self.keystore_password.reveal())
        return frozenset(texts)

    def _doubts(self) -> Iterator[str]:
        if not is_loopback(self.http_host):
            yield "KEEPER_HTTP_HOST: other machines can reach the health and metrics endpoints; use 127.0.0.1 unless meant"
        if self.keystore_file is not None and is_exposed(self.keystore_file.stat()):
            yield f"KEEPER_KEYSTORE_FILE{EXPOSED}"
        for numbers in same_operator([url.reveal() for url in self.rpc_urls]):
            entries = " and ".join(map(str, numbers))
            yield f"KEEPER_RPC_URLS: entries {entries} are of one operator, so they can fail together; add another's"


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
