"""What every path through the executor takes is written down; a change has to be meant."""

from tests.e2e.flash_gas import COMMAND, measured, written

TOLERANCE = 0.002
"""An address or a price with a zero byte more or less, no more than that."""


async def test_every_path_takes_the_gas_that_is_written_down() -> None:
    found, known = await measured(), written()
    assert found.keys() == known.keys(), f"other paths than those written down: write them anew with `{COMMAND}`"
    off = {
        f"{name}, {way}": (known[name].get(way), gas)
        for name, ways in found.items()
        for way, gas in ways.items()
        if abs(gas - known[name].get(way, 0)) > gas * TOLERANCE
    }
    assert not off, f"what was written and what was found differ; if that is meant, write it anew with `{COMMAND}`"
