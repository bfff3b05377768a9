"""Measure what every path through the executor takes; run as a program, write the snapshot anew."""

import asyncio
import json
from pathlib import Path
from typing import Final

from keeper.devnet.abi import call_data
from keeper.devnet.chain import MAX_UINT
from keeper.devnet.market import APPROVE
from tests.e2e.flash_desk import BLOCK_S, Desk, mint, opened
from tests.e2e.flash_funding import ETHER
from tests.e2e.flash_paths import PATHS, Direct

SNAPSHOT: Final = Path(__file__).with_name("gas_snapshot.json")
COMMAND: Final = "python -m tests.e2e.flash_gas"
_LIQUIDATOR: Final = "0x" + "d1" * 20
_WEI: Final = 1_000 * ETHER

Gas = dict[str, dict[str, int]]


async def measured() -> Gas:
    """Run every path, and beside it the bare liquidation by an account that has the money, on the same state."""
    found: Gas = {}
    async with opened() as desk:
        for name, scene in PATHS.items():
            before = await desk.chain.snapshot()
            path = await scene(desk)
            found[name] = {}
            if path.direct is not None:
                start = await desk.chain.snapshot()
                found[name]["direct"] = await _bare(desk, path.direct)
                await desk.chain.revert(start)
            found[name]["executor"] = (await desk.run(path.steps, path.outputs)).gas
            await desk.chain.revert(before)
    return found


async def _bare(desk: Desk, call: Direct) -> int:
    """Send the liquidation itself from an account that has allowed it long ago."""
    chain = desk.chain
    await mint(chain, call.token, _LIQUIDATOR, 10**30)
    await chain.set_balance(_LIQUIDATOR, _WEI)
    async with chain.impersonate(_LIQUIDATOR):
        await chain.send(call.token, APPROVE, call.spender, MAX_UINT, sender=_LIQUIDATOR)
        await chain.increase_time(BLOCK_S)
        request = {
            "from": _LIQUIDATOR,
            "to": call.to,
            "data": call_data(call.signature, *call.args),
            "value": hex(call.wei),
            "gas": hex(5_000_000),
        }
        receipt = await chain.receipt(await chain.rpc("eth_sendTransaction", request))
    assert receipt["status"] == "0x1", await desk.why(receipt)
    return int(receipt["gasUsed"], 16)


def written() -> Gas:
    """Return the snapshot as it was last written."""
    found: Gas = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(asyncio.run(measured()), indent=2) + "\n", encoding="utf-8")
