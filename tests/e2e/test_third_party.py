"""A protocol from another package: found where it is installed, examined on its own contract, and liquidated."""

import asyncio
import functools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import APPROVE, MINT, AaveMarket
from keeper.devnet.packages import default_cache_dir, ensure_packages
from keeper.devnet.positions import owner_address
from keeper.devnet.process import KeeperProcess, Line
from keeper.domain.units import BASE_UNIT, WAD
from tests.operator import Operator, prepare, run_keeper

PACKAGE = Path(__file__).parent / "pawnshop"
SPEC = DevnetSpec(n_positions=30)
FACTORS_BPS = (10_150, 10_300, 10_600, 11_000, 11_500, 12_000, 12_800, 14_000, 17_000, 40_000)
SIZES_USD = (40, 1_000, 250_000)
OWNER_SEED = 77
OWNER_WEI = 10**18
CASH_USD = 100_000_000
THRESHOLD_BPS = 8_000
LOANS = tuple((size, factor) for size in SIZES_USD for factor in FACTORS_BPS)
RATE_WAD = WAD // (10 * 86_400)  # a tenth a day: a few seconds of it are many units
LOW_PERCENT, LOWEST_PERCENT = 60, 40  # of the first price: at the lowest, bonuses exceed what some have left
MIN_PROFIT_BASE = 5 * BASE_UNIT
# a loan can stay unhealthy for one of these, and nobody would do anything about it
LEGITIMATE = {"unprofitable", "no_collateral", "dust_rule"}
PARTS = (
    "parts",
    "snapshot",
    "logs",
    "reading",
    "parity",
    "screen",
    "assessments",
    "budgets",
    "calls",
    "reverts",
    "contracts agree",
)
DEFECTS = (
    ("// BPS * WAD // debt", "// BPS * WAD // debt + 1", "parity"),
    ("terms.close_factor_bps // BPS", "terms.close_factor_bps // BPS + 1", "contracts agree"),
    ("min(closed, covered)", "closed", "contracts agree"),
    ("_SINCE: Weight(terms.rate_wad, WAD, 0)", "_SINCE: Weight(2 * terms.rate_wad, WAD, 0)", "screen"),
    ("if budget is None else", "if True else", "budgets"),
)
"""What the rules say, what they say wrongly instead, and the check that must find it."""
HEALTH = "health(address)(uint256)"
BALANCE = "balanceOf(address)(uint256)"
OPEN, REPAY = "open(uint256,uint256)", "repay(uint256)"
METADATA = "Metadata-Version: 2.1\nName: pawnshop\nVersion: 1.0\n"
ENTRY_POINTS = "[keeper.protocols]\npawnshop = pawnshop:bind\n"


@dataclass(frozen=True)
class Shop:
    """A Pawnshop with loans, and an operator who watches it beside Aave."""

    devnet: Devnet
    operator: Operator
    root: str
    owners: tuple[str, ...]

    @property
    def market(self) -> AaveMarket:
        return self.devnet.markets["3.0"]

    async def unhealthy(self) -> list[str]:
        """Return the loans that the contract itself would let anybody liquidate."""
        factors = await self.devnet.chain.call_all((self.root, HEALTH, (each,)) for each in self.owners)
        return [owner for owner, factor in zip(self.owners, factors, strict=True) if factor < WAD]

    async def drop(self, percent: int) -> None:
        """Let the collateral fall, and find that some loans are unhealthy and others are not."""
        start = await self.market.prices()
        await self.market.set_prices({"WETH": start["WETH"] * percent // 100})
        assert len(self.owners) // 3 < len(await self.unhealthy()) < len(self.owners)

    async def keeper(self, site: Path, *arguments: str, is_live: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, with what a folder of installed packages offers."""
        environment = self.environment(site, is_live=is_live)
        return await asyncio.to_thread(run_keeper, *arguments, environment=environment)

    def environment(self, site: Path, *, is_live: bool, **settings: str) -> dict[str, str]:
        return self.operator.environment(is_live=is_live, **settings) | {"PYTHONPATH": str(site)}


def install(site: Path, change: tuple[str, str] | None = None) -> Path:
    """Lay the package out as an installer leaves it, with one change of its rules where a test wants a defect."""
    shutil.copytree(PACKAGE, site / "pawnshop", ignore=shutil.ignore_patterns("__pycache__"))
    described = site / "pawnshop-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(METADATA)
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    if change is not None:
        rules = site / "pawnshop" / "rules.py"
        text = rules.read_text()
        assert text.count(change[0]) == 1
        rules.write_text(text.replace(*change))
    return site


@functools.cache
def compiled() -> Artifact:
    """Compile the contract with the compiler of the newest Aave's packages."""
    folder = ensure_packages(default_cache_dir(), sets=("origin",)).origin.parent
    name = "Pawnshop.sol"
    request = {
        "language": "Solidity",
        "sources": {name: {"content": (PACKAGE / name).read_text()}},
        "settings": {
            "evmVersion": "shanghai",
            "optimizer": {"enabled": True},
            "outputSelection": {name: {"*": ["abi", "evm.bytecode"]}},
        },
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        (node, str(folder / "compile.cjs")), input=msgspec.json.encode(request), capture_output=True, check=True
    )
    output = msgspec.json.decode(done.stdout)
    assert [each["formattedMessage"] for each in output.get("errors", ()) if each["severity"] == "error"] == []
    made = output["contracts"][name]["Pawnshop"]
    code = made["evm"]["bytecode"]
    return artifact("Pawnshop", made["abi"], code["object"], code["linkReferences"])


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Shop]:
    """Run a chain with Aave and a Pawnshop of many loans, and prepare an operator."""
    made = await asyncio.to_thread(compiled)
    async with cached_devnet(default_cache_dir(), SPEC) as devnet:
        market = devnet.markets["3.0"]
        from_block = await devnet.chain.block_number() + 1
        gold, cash = market.reserves["WETH"], market.reserves["USDC"]
        root = await devnet.chain.deploy(made, gold.token, cash.token, gold.feed, RATE_WAD)
        await devnet.chain.send(cash.token, MINT, root, CASH_USD * 10**cash.decimals)
        owners = await open_loans(market, root, LOANS)
        operator = await prepare(devnet, folder)
        table = f'[[markets]]\nname = "shop"\nprotocol = "pawnshop"\nroot = "{root}"\nfrom_block = {from_block}\n'
        operator.chain_file.write_text(operator.chain_file.read_text() + table)
        yield Shop(devnet, operator, root, owners)


async def open_loans(
    market: AaveMarket, root: str, loans: Sequence[tuple[int, int]], *, first: int = 0
) -> tuple[str, ...]:
    """Open loans of these sizes and health factors, each by an account of its own."""
    chain = market.chain
    owners = tuple(owner_address(first + number, OWNER_SEED) for number in range(len(loans)))
    gold, unit, price = market.reserves["WETH"].token, 10**18, (await market.prices())["WETH"]
    transactions: list[Tx] = []
    for owner, (size, factor) in zip(owners, loans, strict=True):
        deposited = size * BASE_UNIT * unit // price
        borrowed = size * 10**6 * THRESHOLD_BPS // factor
        transactions.append(Tx(owner, gold, MINT, (owner, deposited)))
        transactions.append(Tx(owner, gold, APPROVE, (root, MAX_UINT)))
        transactions.append(Tx(owner, root, OPEN, (deposited, borrowed)))
    await send_as_owners(chain, owners, transactions)
    return owners


async def send_as_owners(chain: DevChain, owners: Sequence[str], transactions: Sequence[Tx]) -> None:
    """Send transactions of accounts whose keys nobody has."""
    await chain.auto_impersonate(wanted=True)
    async with chain.bulk():
        await chain.batch([("anvil_setBalance", (owner, hex(OWNER_WEI))) for owner in owners])
        await chain.send_all(transactions)
    await chain.auto_impersonate(wanted=False)


async def test_an_installed_package_is_listed_and_keeps_every_promise_on_its_own_contract(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    async with opened(tmp_path) as shop:
        listed = await shop.keeper(site, "protocol", "list")
        assert (listed.returncode, "pawnshop" in listed.stdout.splitlines()) == (0, True), listed.stderr
        checked = await shop.keeper(site, "check", "--json")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "market shop" in {each["name"] for each in json.loads(checked.stdout)["checks"]}
        await shop.drop(LOWEST_PERCENT)
        examined = await shop.keeper(site, "protocol", "test", "pawnshop", "--json")
        assert examined.returncode == 0, examined.stdout + examined.stderr
        found = {each["name"]: each for each in json.loads(examined.stdout)["checks"]}
        assert found.keys() >= {f"shop: {part}" for part in PARTS}
        assert {each["status"] for each in found.values()} == {"ok"}
        assert found["shop: parity"]["finding"] == f"{len(shop.owners)} positions to the unit"


async def test_each_defect_of_its_rules_is_found_by_the_check_that_is_for_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.drop(LOWEST_PERCENT)
        for number, (right, wrong, part) in enumerate(DEFECTS):
            site = install(tmp_path / str(number), (right, wrong))
            examined = await shop.keeper(site, "protocol", "test", "pawnshop", "--json")
            assert examined.returncode == 4, examined.stdout + examined.stderr
            checks = json.loads(examined.stdout)["checks"]
            assert f"shop: {part}" in {each["name"] for each in checks if each["status"] == "fail"}


async def test_the_daemon_liquidates_what_an_installed_package_finds(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    async with opened(tmp_path) as shop:
        chain, cash = shop.devnet.chain, shop.market.reserves["USDC"].token
        await chain.set_interval(1)
        async with KeeperProcess(
            shop.environment(site, is_live=True, PARITY_EVERY_HEADS="2", LOG_LEVEL="debug")
        ) as run:
            await run.ready()
            gone = shop.owners[LOANS.index((250_000, 10_150))]
            await repay(chain, shop.root, cash, gone)
            late = await open_loans(shop.market, shop.root, [(100_000, 10_150)], first=len(LOANS))
            every = replace(shop, owners=(*shop.owners, *late))
            held = await chain.call(cash, BALANCE, shop.root)
            await every.drop(LOW_PERCENT)
            fallen = set(await every.unhealthy())
            await run.wait_for(quiet_since(len(run.events("chain.head")) + 1), 60)
            assert await run.stop() == 0, run.tail()
        await chain.set_interval(0)
        won = [each for each in run.events("liquidation.won") if each["market"] == "shop"]
        taken, left = {each["account"] for each in won}, set(await every.unhealthy())
        assert {*late} <= taken <= fallen - {gone}
        assert all(is_as_planned(each) for each in won)
        assert await chain.call(cash, BALANCE, shop.root) - held == sum(int(each["repaid_amount"]) for each in won)
        reasons = {each["account"]: each["reason"] for each in run.events("decision.skipped")}
        assert {each: reasons.get(each) for each in left if reasons.get(each) not in LEGITIMATE} == {}
        assert fallen <= taken | left
        assert "shop" in {each["market"] for each in run.events("index.audit_ok")}
        assert not [each for each in run.lines if each.get("level") == "error"]


async def repay(chain: DevChain, root: str, cash: str, owner: str) -> None:
    """Let an account pay back all that it owes."""
    transactions = [
        Tx(ADMIN, cash, MINT, (owner, CASH_USD * 10**6)),
        Tx(owner, cash, APPROVE, (root, MAX_UINT)),
        Tx(owner, root, REPAY, (MAX_UINT,)),
    ]
    await send_as_owners(chain, [owner], transactions)


def quiet_since(seen: int):
    """Wait for three heads in a row at which nothing was sent and nothing is in flight."""

    def is_quiet(log: KeeperProcess) -> bool:
        heads = log.events("chain.head")[seen:][-3:]
        return len(heads) == 3 and not any(line["plans"] or "in_flight" in line["skipped"] for line in heads)

    return is_quiet


def is_as_planned(won: Line) -> bool:
    """Say whether what was repaid and seized is what the plan said, to the unit."""
    amounts = (won["repaid_amount"], won["seized_amount"])
    return amounts == (won["planned_repay_amount"], won["planned_seized_amount"])
