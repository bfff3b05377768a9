"""`keeper executor …`: the contract that liquidates with borrowed money, from its creation to its sweeping."""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from keeper import admin
from keeper.chainfile import ChainFile, parse_address
from keeper.domain.units import Address, Wei
from keeper.errors import ConfigurationError
from keeper.execution.signer import Signer, SigningPolicy
from keeper.forms import read_secret
from keeper.orders import Hands, Told
from keeper.settings import Settings
from keeper.terminal import Json, configuration, finish, quiet

app = typer.Typer(
    help="The contract that liquidates with borrowed money: what it may do, and whose it is.", no_args_is_help=True
)

OwnerKeystore = Annotated[
    Path | None, typer.Option("--owner-keystore", help="The owner's keystore; its password is asked for.")
]
OwnerKeyFile = Annotated[Path | None, typer.Option("--owner-key-file", help="A file with the owner's key.")]
OwnerPassword = Annotated[
    Path | None,
    typer.Option("--owner-password-file", help="A file with the keystore's password, instead of a question."),
]
Print = Annotated[bool, typer.Option("--print", help="Send nothing: print the transactions, to be signed elsewhere.")]

Work = Callable[[Settings, ChainFile, Hands], Awaitable[Told]]


@app.command()
def deploy(
    *,
    owner: Annotated[str, typer.Option(help="The cold address that gets the profit and alone says what is allowed.")],
    owner_is_hot: Annotated[
        bool, typer.Option("--owner-is-hot", help="Let the liquidating account itself be the owner.")
    ] = False,
    another: Annotated[
        bool, typer.Option("--another", help="Create one although the chain file names one that exists.")
    ] = False,
    is_printing: Print = False,
    as_json: Json = False,
) -> None:
    """Create the executor with the configured key as its caller, and print what the chain file needs."""
    address = _address(owner, "--owner")

    async def work(settings: Settings, chain: ChainFile, hands: Hands) -> Told:
        return await admin.deploy(settings, chain, hands, address, is_owner_hot=owner_is_hot, is_another=another)

    _do(work, as_json=as_json, is_printing=is_printing)


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show whose it is, what it may do, what rests in it, and what is missing. It works beside a running daemon."""

    async def work(settings: Settings, chain: ChainFile, _: Hands) -> Told:
        return await admin.status(settings, chain)

    _do(work, as_json=as_json)


@app.command()
def authorize(
    *,
    revoke: Annotated[bool, typer.Option("--revoke", help="Also take back what nothing needs any more.")] = False,
    add_caller: Annotated[list[str] | None, typer.Option(help="Let this account run programs too.")] = None,
    remove_caller: Annotated[list[str] | None, typer.Option(help="Let this account run none any more.")] = None,
    owner_keystore: OwnerKeystore = None,
    owner_key_file: OwnerKeyFile = None,
    owner_password_file: OwnerPassword = None,
    is_printing: Print = False,
    as_json: Json = False,
) -> None:
    """Have the owner allow what the chain file and its markets need, and only that which is missing."""
    more = _addresses(add_caller, "--add-caller")
    fewer = _addresses(remove_caller, "--remove-caller")

    async def work(settings: Settings, chain: ChainFile, hands: Hands) -> Told:
        return await admin.authorize(settings, chain, hands, is_revoking=revoke, more_callers=more, fewer_callers=fewer)

    key = _owner_key(owner_keystore, owner_key_file, owner_password_file)
    _do(work, as_json=as_json, is_printing=is_printing, key=key)


@app.command()
def sweep(
    *,
    token: Annotated[list[str] | None, typer.Option(help="Sweep this token too, if nothing else names it.")] = None,
    owner_keystore: OwnerKeystore = None,
    owner_key_file: OwnerKeyFile = None,
    owner_password_file: OwnerPassword = None,
    is_printing: Print = False,
    as_json: Json = False,
) -> None:
    """Have the owner take what rests in it: every token that the chain file or a market knows, and native currency."""
    tokens = _addresses(token, "--token")

    async def work(settings: Settings, chain: ChainFile, hands: Hands) -> Told:
        return await admin.sweep(settings, chain, hands, tokens)

    key = _owner_key(owner_keystore, owner_key_file, owner_password_file)
    _do(work, as_json=as_json, is_printing=is_printing, key=key)


@app.command()
def pause(
    *,
    owner_keystore: OwnerKeystore = None,
    owner_key_file: OwnerKeyFile = None,
    owner_password_file: OwnerPassword = None,
    is_printing: Print = False,
    as_json: Json = False,
) -> None:
    """Stop it from running programs; the configured key may, if it is a caller."""
    _set_paused(
        _owner_key(owner_keystore, owner_key_file, owner_password_file),
        paused=True,
        is_printing=is_printing,
        as_json=as_json,
    )


@app.command()
def unpause(
    *,
    owner_keystore: OwnerKeystore = None,
    owner_key_file: OwnerKeyFile = None,
    owner_password_file: OwnerPassword = None,
    is_printing: Print = False,
    as_json: Json = False,
) -> None:
    """Have the owner let it run programs again."""
    _set_paused(
        _owner_key(owner_keystore, owner_key_file, owner_password_file),
        paused=False,
        is_printing=is_printing,
        as_json=as_json,
    )


OpenKey = Callable[[], Signer] | None


def _set_paused(key: OpenKey, *, paused: bool, is_printing: bool, as_json: bool) -> None:
    async def work(settings: Settings, chain: ChainFile, hands: Hands) -> Told:
        return await admin.set_paused(settings, chain, hands, paused=paused)

    _do(work, as_json=as_json, is_printing=is_printing, key=key)


def _do(work: Work, *, as_json: bool, is_printing: bool = False, key: OpenKey = None) -> NoReturn:
    """Run a command's work, print what it has to say, and exit."""
    settings, chain = configuration(as_json=as_json)

    def say(text: str) -> None:
        typer.echo(f"keeper: {text}", err=True)

    async def whole() -> Told:
        return await work(settings, chain, Hands(key() if key else None, is_printing, say))

    with quiet(settings, chain):
        told = finish(whole())
    typer.echo(json.dumps(told.facts, indent=2) if as_json else "\n".join(told.lines))
    raise typer.Exit(told.code)


def _owner_key(keystore: Path | None, key_file: Path | None, password_file: Path | None) -> OpenKey:
    """Return how to open the owner's key, if it is at hand. Its policy is set for each order."""
    if keystore is not None and key_file is not None:
        raise typer.BadParameter("give one of --owner-keystore and --owner-key-file")
    if password_file is not None and keystore is None:
        raise typer.BadParameter("it is for --owner-keystore", param_hint="--owner-password-file")
    policy = SigningPolicy(chain_id=0, max_fee_wei=Wei(0), max_gas_limit=0)
    if key_file is not None:
        return lambda: Signer.from_hex(_secret(key_file, "--owner-key-file"), policy)
    if keystore is None:
        return None
    if password_file is not None:
        return lambda: Signer.from_keystore(
            _secret(keystore, "--owner-keystore"), _secret(password_file, "--owner-password-file"), policy
        )
    password = typer.prompt("password of the owner's keystore", hide_input=True, err=True)
    return lambda: Signer.from_keystore(_secret(keystore, "--owner-keystore"), password, policy)


def _secret(path: Path, option: str) -> str:
    """Read a secret's file.

    Raises: ConfigurationError, without what is in it.
    """
    try:
        text, is_open = read_secret(path)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from None
    if is_open:
        raise ConfigurationError(f"{option}: every user of this machine may open the file that it names; chmod it 600")
    return text


def _addresses(texts: Sequence[str] | None, option: str) -> tuple[Address, ...]:
    return tuple(_address(each, option) for each in texts or ())


def _address(text: str, option: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
