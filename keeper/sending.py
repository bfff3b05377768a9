"""Who sends, made from settings: nobody, somebody who only scores, or the one who spends."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keeper.chain.rpc import Rpc
from keeper.chainfile import ChainFile
from keeper.daemon import Sender
from keeper.domain.mode import Mode
from keeper.domain.plan import Outcome
from keeper.domain.units import Address
from keeper.errors import ConfigurationError
from keeper.execution.budget import Limits
from keeper.execution.fees import FeePolicy
from keeper.execution.gate import Warden
from keeper.execution.network import RpcNetwork
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Observer
from keeper.execution.relay import Identity, RelayGroup
from keeper.execution.remote import RemoteSigner
from keeper.execution.route import Fallback, PrivateMethod, PrivatePolicy
from keeper.execution.sender import Sender as LiveSender
from keeper.execution.shadow import Score, ShadowSender
from keeper.execution.signer import Signatory, Signer, SigningPolicy
from keeper.execution.standby import Understudy
from keeper.parts import SystemClock, landing_s
from keeper.scanner import Scanner
from keeper.settings import Settings
from keeper.store.control import Control
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.lease import Lease

MAX_GAS_LIMIT: Final = 5_000_000


def local_signer(settings: Settings, chain: ChainFile) -> Signer | None:
    """Open the configured key, or return None where there is none in this process.

    Raises: ConfigurationError.
    """
    policy = _first_policy(settings, chain)
    if settings.private_key is not None:
        signer = Signer.from_hex(settings.private_key.reveal(), policy)
    elif settings.keystore_file is not None and settings.keystore_password is not None:
        document = settings.keystore_file.read_text(encoding="utf-8")
        signer = Signer.from_keystore(document, settings.keystore_password.reveal(), policy)
    else:
        return None
    if settings.address not in {None, signer.address}:
        raise ConfigurationError("KEEPER_ADDRESS: is not the address of the configured key; correct one of the two")
    return signer


def account_of(settings: Settings, chain: ChainFile) -> Address | None:
    """Return the account that liquidates, or would: none in observe mode.

    Raises: ConfigurationError.
    """
    if settings.mode is Mode.OBSERVE:
        return None
    signer = local_signer(settings, chain)
    return signer.address if signer else settings.address


def signatory_of(settings: Settings, chain: ChainFile) -> Signer | RemoteSigner | None:
    """Return who signs: nobody, unless in live mode.

    Raises: ConfigurationError.
    """
    if settings.mode is not Mode.LIVE:
        return None
    return remote_signer(settings, chain) or local_signer(settings, chain)


def remote_signer(settings: Settings, chain: ChainFile) -> RemoteSigner | None:
    """Return the configured remote signer, if there is one. Close it in the end."""
    if settings.remote_signer_url is None or settings.address is None:
        return None
    return RemoteSigner(settings.remote_signer_url.reveal(), settings.address, _first_policy(settings, chain))


def relays_of(settings: Settings) -> RelayGroup | None:
    """Return the relays that liquidations are given first, where there are any. Close them in the end.

    Raises: ConfigurationError.
    """
    if not settings.private_relay_urls:
        return None
    identity = Identity.from_hex(settings.relay_key.reveal()) if settings.relay_key else Identity.random()
    return RelayGroup([each.reveal() for each in settings.private_relay_urls], identity)


def _first_policy(settings: Settings, chain: ChainFile) -> SigningPolicy:
    """Return the policy before any market was read: it allows no call at all."""
    return SigningPolicy(chain.chain_id, settings.max_fee_wei, MAX_GAS_LIMIT, settings.max_value_wei)


@dataclass(frozen=True, slots=True)
class Office:
    """The sender with what stands around it; each is None where the mode or the store has no use for it."""

    sender: Sender | None = None
    warden: Warden | None = None
    understudy: Understudy | None = None


@dataclass(frozen=True, slots=True)
class Clerk:
    """What a sender is made of, whatever the mode."""

    settings: Settings
    chain: ChainFile
    rpc: Rpc
    database: Database
    scanner: Scanner
    observer: Observer
    relays: RelayGroup | None = None

    def office(
        self,
        signer: Signatory | None,
        account: Address | None,
        *,
        deliver: Callable[[Outcome], None],
        scored: Callable[[Score], None],
    ) -> Office:
        """Return what the mode allows: nobody, somebody who only scores, or the one who spends."""
        network = RpcNetwork(self.rpc, self.chain.data_fee_oracle, self.chain.data_gas_oracle)
        markets = {name: books.market for name, books in self.scanner.books.items()}
        if self.settings.mode is Mode.SHADOW and account is not None:
            shadow = ShadowSender(
                network=network,
                sender=account,
                markets=markets,
                executor=self.scanner.executor,
                fees=self._fees(),
                deliver=scored,
                observer=self.observer,
            )
            return Office(shadow)
        if signer is None:
            return Office()
        lease = self._lease(signer.address) if self.settings.is_shared else None
        journal = Journal(self.database, signer.address, lease)
        warden = self._warden(journal)
        sender = LiveSender(
            network=network,
            journal=journal,
            signer=signer,
            markets=markets,
            executor=self.scanner.executor,
            policy=self._policy(),
            deliver=deliver,
            gate=warden,
            fence=lease,
            relays=self.relays,
            private=self._private(),
            observer=self.observer,
        )
        if lease is None:
            return Office(sender, warden)
        self.rpc.guard_sends(lambda: lease.is_current)
        understudy = Understudy(sender, lease, self.observer, term_s=self.settings.lease_s)
        return Office(understudy, warden, understudy)

    def _fees(self) -> FeePolicy:
        return FeePolicy(
            max_fee_wei=self.settings.max_fee_wei,
            max_tip_wei=self.settings.max_priority_fee_wei,
            max_gas_share_bps=self.settings.max_gas_share_bps,
            bump_bps=self.settings.bump_bps,
            max_gas_limit=MAX_GAS_LIMIT,
        )

    def _policy(self) -> SenderPolicy:
        return SenderPolicy(
            fees=self._fees(),
            block_time_s=landing_s(self.chain),
            confirmations=self.settings.confirmations,
            bump_after_blocks=self.settings.bump_after_blocks,
        )

    def _private(self) -> PrivatePolicy:
        """Return how relays are used; without any it says what becomes of what a former run gave them."""
        return PrivatePolicy(
            PrivateMethod(self.settings.private_method),
            self.settings.private_blocks,
            Fallback(self.settings.private_fallback),
        )

    def _warden(self, journal: Journal) -> Warden:
        limits = Limits(
            loss_per_hour_wei=self.settings.max_loss_per_hour_wei,
            loss_per_day_wei=self.settings.max_loss_per_day_wei,
            transactions_per_minute=self.settings.max_transactions_per_minute,
            breaker_losses=self.settings.breaker_losses,
            breaker_pause_s=self.settings.breaker_pause_s,
        )
        return Warden(
            journal,
            Control(self.database),
            limits,
            halts_on_foreign=self.settings.halt_on_foreign_nonce,
            observer=self.observer,
        )

    def _lease(self, signer: Address) -> Lease:
        """Name this place by its machine and its state directory, where the instance lock lets one keeper run."""
        place = f"{socket.gethostname()}:{self.settings.state_dir}"
        return Lease(self.database, signer, place, self.settings.lease_s, clock=SystemClock())
