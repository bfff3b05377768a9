"""Which parts a chain file's venues and lenders become, what is said of wrong ones, what the executor has to allow."""

from pathlib import Path
from typing import Any

import pytest

from keeper.chainfile import ChainFile
from keeper.domain.program import StepKind
from keeper.domain.units import Address
from keeper.errors import ConfigurationError
from keeper.forms import Secret
from keeper.parts import SystemClock
from keeper.text import address_text
from keeper.trading import LENDERS, VENUES, Surroundings, lenders_of, permits_of, quoters_of, selectors_of, venues_of
from keeper.venues.balancer import BalancerQuoter
from keeper.venues.curve import CurveQuoter
from keeper.venues.http import HttpQuoter
from keeper.venues.loans import AaveLenders, BalancerLenders, Erc3156Lenders, MorphoLenders
from keeper.venues.odos import Odos
from keeper.venues.oneinch import OneInch
from keeper.venues.uniswap_v2 import INIT_CODE_HASH as V2_HASH
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3 import UniswapV3
from keeper.venues.uniswap_v3_factory import INIT_CODE_HASH as V3_HASH
from keeper.venues.uniswap_v3_flash import UniswapV3Flash
from keeper.venues.wrappers import Erc4626Quoter, WstethQuoter

CONFIG = Path(__file__).parents[2] / "config"
AROUND = Surroundings(origin=Address(b"\x0f" * 20), clock=SystemClock())
WETH = Address(b"\xee" * 19 + b"\x01")
NO_HASH = bytes(32)


def address(number: int) -> Address:
    return Address(bytes([number]) * 20)


def place(name: str, kind: str, root: int | Address, **options: Any) -> dict[str, Any]:
    where = root if isinstance(root, bytes) else address(root)
    return {"name": name, "kind": kind, "root": where, "options": options}


def chain(
    *, venues: tuple[Any, ...] = (), lenders: tuple[Any, ...] = (), has_executor: bool = True, chain_id: int = 31_337
) -> ChainFile:
    return ChainFile.model_validate(
        {
            "chain_id": chain_id,
            "name": "test",
            "wrapped_native": WETH,
            "block_time_ms": 1000,
            "executor": {"address": address(0xEC), "code_hash": b"\xab" * 32} if has_executor else None,
            "exchange": {"bases": (WETH, address(0xBA)), "venues": venues, "lenders": lenders},
            "markets": (),
        }
    )


def problems(of: ChainFile) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        permits_of(of)
    return refused.value.problems


def test_each_kind_of_venue_and_lender_becomes_its_own_part_under_its_name() -> None:
    venues = (
        place("a", "uniswap_v3", 1),
        place("b", "uniswap_v2", 2, fee_bps=25, init_code_hash="0x" + "0b" * 32),
        place("c", "curve", 3),
        place("d", "balancer", 4, pools=["0x" + "11" * 32]),
        place("e", "erc4626", 5, holders=[address_text(address(9))]),
        place("f", "wsteth", 6),
    )
    lenders = (
        place("g", "aave_v3", 7),
        place("h", "morpho", 8),
        place("i", "balancer", 4),
        place("j", "erc3156", 10),
        place("k", "uniswap_v3", 1),
    )
    found = chain(venues=venues, lenders=lenders)
    assert [(type(each), each.name) for each in venues_of(found)] == [(UniswapV3, "a"), (UniswapV2, "b")]
    assert [(type(each), each.name) for each in quoters_of(found, AROUND)] == [
        (CurveQuoter, "c"),
        (BalancerQuoter, "d"),
        (Erc4626Quoter, "e"),
        (WstethQuoter, "f"),
    ]
    assert [(type(each), each.name) for each in lenders_of(found)] == [
        (AaveLenders, "g"),
        (MorphoLenders, "h"),
        (BalancerLenders, "i"),
        (Erc3156Lenders, "j"),
        (UniswapV3Flash, "k"),
    ]


def test_the_executor_is_to_allow_at_each_target_what_all_that_stand_there_do_and_nothing_more() -> None:
    found = chain(
        venues=(
            place("a", "uniswap_v3", 1),
            place("b", "uniswap_v2", 2),
            place("c", "balancer", 4, pools=["0x" + "11" * 32]),
        ),
        lenders=(place("d", "uniswap_v3", 1), place("e", "balancer", 4), place("f", "morpho", 8)),
    )
    market = [(address(8), StepKind.LIQUIDATE_MORPHO), (address(7), StepKind.LIQUIDATE_AAVE)]
    permits = {each.target: (set(each.kinds), each.init_code_hash) for each in permits_of(found, market)}
    assert permits == {
        WETH: ({StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE}, NO_HASH),
        address(1): (
            {StepKind.SWAP_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.FLASH_UNISWAP_V3},
            V3_HASH,
        ),
        address(2): ({StepKind.SWAP_UNISWAP_V2}, V2_HASH),
        address(4): ({StepKind.SWAP_BALANCER, StepKind.FLASH_BALANCER}, NO_HASH),
        address(7): ({StepKind.LIQUIDATE_AAVE}, NO_HASH),
        address(8): ({StepKind.FLASH_MORPHO, StepKind.LIQUIDATE_MORPHO}, NO_HASH),
    }


def test_where_another_contract_makes_a_factorys_pools_it_is_that_one_which_is_allowed() -> None:
    made = {"deployer": address_text(address(0xDE)), "init_code_hash": "0x" + "0a" * 32}
    found = chain(venues=(place("a", "uniswap_v3", 1, **made),), lenders=(place("b", "uniswap_v3", 1, **made),))
    (permit,) = (each for each in permits_of(found) if each.target != WETH)
    assert (permit.target, permit.init_code_hash) == (address(0xDE), b"\x0a" * 32)
    assert StepKind.FLASH_UNISWAP_V3 in permit.kinds


def test_every_kind_has_something_that_the_executor_can_do() -> None:
    assert all(kind.steps for kind in (*VENUES.values(), *LENDERS.values()))
    assert {"uniswap_v3", "uniswap_v2", "curve", "balancer", "erc4626", "wsteth"} < VENUES.keys()
    assert {"oneinch", "zerox", "velora", "odos", "kyberswap"} < VENUES.keys()
    assert {"aave_v3", "morpho", "uniswap_v3", "balancer", "erc3156"} == LENDERS.keys()


def test_every_problem_of_the_venues_is_named_at_once() -> None:
    venues = (
        place("a", "uniswap_v4", 1),
        place("b", "uniswap_v3", 2, fee=[500], fees=[0], window=3),
        place("c", "balancer", 4),
        place("d", "uniswap_v2", 5, init_code_hash="0x12"),
    )
    found = problems(chain(venues=venues))
    assert found[0].startswith("test: venue a: unknown kind; known are balancer, curve, ")
    assert found[0].endswith("; did you mean uniswap_v3?")
    assert found[1:] == (
        "test: venue b: options.fees[0]: must be greater than 0",
        "test: venue b: options.window: must be greater than or equal to 100",
        "test: venue b: options.fee: is not a known key; did you mean fees?",
        "test: venue c: options.pools: is missing",
        "test: venue d: options.init_code_hash: must be a hash: 0x and 64 hexadecimal digits",
    )


def test_every_problem_of_the_lenders_is_named_with_those_of_the_venues() -> None:
    lenders = (place("a", "aave", 1), place("b", "morpho", 2, fee=1))
    found = problems(chain(venues=(place("c", "balancer", 4),), lenders=lenders))
    assert found[0] == "test: venue c: options.pools: is missing"
    assert "did you mean aave_v3?" in found[1]
    assert found[2] == "test: lender b: options.fee: is not a known key"


def test_a_factory_cannot_make_its_pools_of_two_codes() -> None:
    found = chain(
        venues=(place("a", "uniswap_v3", 1, init_code_hash="0x" + "0a" * 32),),
        lenders=(place("b", "uniswap_v3", 1, init_code_hash="0x" + "0b" * 32),),
    )
    assert problems(found) == ("test: b: init_code_hash differs from another's of the same root",)


ODOS = next(iter(Odos(31_337, address(1)).profile.routers.items()))


def test_a_service_is_asked_for_the_executor_and_its_routers_functions_are_to_be_allowed() -> None:
    chain_id, router = ODOS
    found = chain(venues=(place("odos", "odos", router),), chain_id=chain_id)
    (quoter,) = quoters_of(found, AROUND)
    assert isinstance(quoter, HttpQuoter)
    assert quoter.name == "odos"
    assert selectors_of(found) == {router: frozenset(Odos(chain_id, router).profile.by_selector)}
    (permit,) = (each for each in permits_of(found) if each.target == router)
    assert permit.kinds == {StepKind.SWAP_ROUTER}
    assert (
        quoters_of(chain(venues=(place("odos", "odos", router),), chain_id=chain_id, has_executor=False), AROUND) == ()
    )


def test_another_contract_than_the_services_router_is_refused() -> None:
    chain_id, _ = ODOS
    (found,) = problems(chain(venues=(place("odos", "odos", 3),), chain_id=chain_id))
    assert found.startswith("test: venue odos: root must be odos's router on this chain, 0x")


def test_a_service_that_needs_a_key_takes_the_one_that_the_chain_file_names() -> None:
    chain_id, router = next(iter(OneInch(31_337, address(1)).profile.routers.items()))

    def quoter(key: str | None, **keys: Secret) -> object:
        options = {} if key is None else {"key": key}
        found = chain(venues=(place("oneinch", "oneinch", router, **options),), chain_id=chain_id)
        (made,) = quoters_of(found, Surroundings(AROUND.origin, AROUND.clock, keys))
        return made

    assert isinstance(quoter("mine", mine=Secret("s3cret")), HttpQuoter)
    with pytest.raises(ConfigurationError, match="answers nobody without an API key"):
        quoter(None)
    with pytest.raises(ConfigurationError, match=r"the settings hold no key mine; did you mean mime\?") as refused:
        quoter("mine", mime=Secret("s3cret"))
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_chain_file_can_be_bound(path: Path) -> None:
    found = ChainFile.load(path.stem, [CONFIG])
    assert len(venues_of(found)) + len(quoters_of(found, AROUND)) == len(found.exchange.venues)
    assert len(lenders_of(found)) == len(found.exchange.lenders)
    assert len(permits_of(found)) >= 1
