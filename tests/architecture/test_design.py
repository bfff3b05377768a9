"""Is it still the design? Every rule is run on the program, and on a plant that breaks it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture import design

KEEPER = Path(__file__).parents[2] / "keeper"

Rule = Callable[[Path], Iterator[str]]

SOUND = {
    "__init__.py": '"""A keeper."""\n',
    "daemon.py": "try:\n    pass\nexcept Exception:\n    pass\n",
    "settings.py": "import os\n\nHOME = os.environ['HOME']\n",
    "domain/ports.py": 'class Port:\n    async def read(self) -> int:\n        """Read."""\n        ...\n',
    "domain/value.py": "@dataclass(frozen=True, slots=True)\nclass Value:\n    amount: int\n",
    "engine/ranking.py": "HALF = 1 / 2.0\n",
    "engine/screen.py": "HALF = 1 / 2.0\n",
    "devnet/node.py": "try:\n    pass\nexcept BaseException:\n    stop()\n    raise\n",
    "observe/metrics.py": "SECONDS = 0.5\n",
    "protocols/__init__.py": "",
    "protocols/lender/__init__.py": '"""A dialect."""\n',
    "protocols/lender/contracts.py": "",
    "protocols/lender/reader.py": "async def read(): return await node()\n",
    "protocols/lender/rules.py": 'def health():\n    """Value.\n\n    Source: Pool.sol\n    """\n\n\ndef _part(): ...\n',
    "protocols/lender/calls.py": "LIMIT = 10**18 // 2\n",
    "protocols/broker/__init__.py": '"""A dialect that the executor liquidates."""\n',
    "protocols/broker/contracts.py": "",
    "protocols/broker/reader.py": "",
    "protocols/broker/rules.py": "",
    "protocols/broker/calls.py": "",
    "protocols/broker/programs.py": "def steps(): ...\n",
}

PLANTS: list[tuple[Rule, str, str]] = [
    (design.protocols_have_the_same_four_files, "protocols/lender/extra.py", ""),
    (design.protocols_have_the_same_four_files, "protocols/other/rules.py", ""),
    (design.protocols_have_the_same_four_files, "protocols/lender/__init__.py", '"""A dialect."""\nimport web3\n'),
    (design.exact_code_has_no_floats, "domain/value.py", "HALF = 0.5\n"),
    (design.exact_code_has_no_floats, "engine/plan.py", "def ratio(a): return float(a)\n"),
    (design.exact_code_has_no_floats, "protocols/lender/calls.py", "def ratio(a, b): return a / b\n"),
    (design.exact_code_has_no_floats, "protocols/broker/programs.py", "HALF = 0.5\n"),
    (design.exact_code_has_no_floats, "execution/fees.py", "tip = 3\ntip /= 2\n"),
    (design.the_core_waits_for_nothing_and_asks_nobody, "engine/plan.py", "async def plan(x):\n    await x\n"),
    (design.the_core_waits_for_nothing_and_asks_nobody, "engine/plan.py", "async def plan(x):\n    return x\n"),
    (
        design.the_core_waits_for_nothing_and_asks_nobody,
        "protocols/broker/programs.py",
        "async def steps(x):\n    await x\n",
    ),
    (design.the_core_waits_for_nothing_and_asks_nobody, "domain/value.py", "print('hello')\n"),
    (design.the_core_waits_for_nothing_and_asks_nobody, "engine/screen.py", "NOISE = numpy.random.rand()\n"),
    (design.rules_cite_what_they_mirror, "protocols/lender/rules.py", 'def health():\n    """Value."""\n'),
    (design.code_comes_in_small_pieces, "cli.py", "def long():\n" + "    pass\n" * 60),
    (design.code_comes_in_small_pieces, "cli.py", "\n" * 401),
    (design.only_the_settings_read_the_environment, "cli.py", "import os\nHOME = os.environ\n"),
    (design.only_the_settings_read_the_environment, "cli.py", "from os import getenv\n"),
    (design.only_the_supervisor_catches_everything, "cli.py", "try:\n    pass\nexcept:\n    pass\n"),
    (design.only_the_supervisor_catches_everything, "cli.py", "try:\n    pass\nexcept Exception:\n    raise Other\n"),
    (
        design.only_the_supervisor_catches_everything,
        "cli.py",
        "try:\n    pass\nexcept (OSError, Exception):\n    pass\n",
    ),
    (design.only_the_supervisor_catches_everything, "cli.py", "with contextlib.suppress(BaseException):\n    pass\n"),
    (design.only_the_supervisor_catches_everything, "daemon.py", SOUND["daemon.py"] * 2),
    (design.values_are_frozen, "domain/value.py", "@dataclass(frozen=True)\nclass Value:\n    amount: int\n"),
    (design.no_folder_is_a_drawer, "chain/utils.py", ""),
]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", design.RULES)
def test_the_program_keeps_the_rule(rule: Rule):
    assert list(rule(KEEPER)) == []


@pytest.mark.parametrize("rule", design.RULES)
def test_a_sound_program_keeps_the_rule(rule: Rule, tmp_path: Path):
    assert list(rule(plant(tmp_path, SOUND))) == []


@pytest.mark.parametrize(("rule", "name", "text"), PLANTS)
def test_a_planted_violation_breaks_the_rule(rule: Rule, name: str, text: str, tmp_path: Path):
    assert list(rule(plant(tmp_path, SOUND | {name: text})))


def test_every_rule_has_a_plant_that_breaks_it():
    assert {rule for rule, _, _ in PLANTS} == set(design.RULES)
