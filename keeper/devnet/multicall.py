"""Multicall3 at the address that it has on every chain."""

import re
from pathlib import Path
from typing import Final

from keeper.devnet.chain import ADMIN, DevChain
from keeper.devnet.packages import Packages
from keeper.errors import Fatal

MULTICALL3: Final = "0xcA11bde05977b3631167028862bE2a173976CA11"
_SOURCE: Final = Path("viem/_cjs/constants/contracts.js")
_CREATION_CODE: Final = re.compile(r"multicall3Bytecode = '(0x[0-9a-f]+)'")


async def deploy_multicall3(chain: DevChain, packages: Packages) -> str:
    """Put Multicall3 at its canonical address and return that.

    The creation code is run by the node and its result put in place: the same ABI as the canonical deployment, not
    the same bytes (it was compiled with other settings).
    """
    found = _CREATION_CODE.search((packages.core / _SOURCE).read_text())
    if found is None:
        raise Fatal("the viem package no longer carries Multicall3's creation code")
    code = await chain.rpc("eth_call", {"from": ADMIN, "data": found.group(1)}, "latest")
    await chain.rpc("anvil_setCode", MULTICALL3, code)
    return MULTICALL3
