"""Is what is deployed what the source says?"""

import json
from typing import Final

import pytest
from eth_utils.crypto import keccak

from keeper.domain.units import ZERO_ADDRESS, Address
from keeper.errors import Invalid
from keeper.executor import artifact
from tests.unit.executor import compiled
from tests.unit.executor.stage import Stage, env

MAX_CODE: Final = 24_576  # EIP-170
OWNER: Final = Address(b"\x11" * 20)


def test_the_artifact_is_what_the_pinned_compiler_makes_of_the_source():
    assert compiled.ARTIFACT.read_text(encoding="utf-8") == compiled.text()


def test_the_settings_are_said_in_the_artifact():
    compiler = json.loads(compiled.ARTIFACT.read_text(encoding="utf-8"))["compiler"]
    assert compiler["version"].startswith("0.4.3+commit.")
    assert compiler["settings"]["evm_version"] == "cancun"
    assert compiler["settings"]["experimental_codegen"] is False
    assert artifact.load().compiler == f"vyper {compiler['version']}"


def test_the_code_is_small_enough_for_any_chain():
    assert len(artifact.load().runtime) <= MAX_CODE


def test_the_code_on_chain_is_the_runtime_and_has_its_hash(stage: Stage):
    code = bytes(env.get_code("0x" + stage.executor.hex()))
    assert code == artifact.load().runtime
    assert keccak(code) == artifact.load().code_hash


def test_nothing_delegates_what_it_does():
    source = compiled.SOURCE.read_text(encoding="utf-8")
    assert "raw_call" in source
    assert "delegate" not in source


@pytest.mark.parametrize(
    ("owner", "callers"), [(ZERO_ADDRESS, []), (OWNER, [ZERO_ADDRESS]), (OWNER, [OWNER] * (artifact.MAX_CALLERS + 1))]
)
def test_what_the_constructor_would_refuse_is_refused_before(owner: Address, callers: list[Address]):
    with pytest.raises(Invalid):
        artifact.load().creation_data(owner, callers)
