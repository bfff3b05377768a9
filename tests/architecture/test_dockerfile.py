"""Would the container be safe to run? No engine runs in the tests: the file is read, and its build step repeated."""

import fnmatch
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import keeper.devnet.packages

ROOT = Path(__file__).parents[2]

SECRET = re.compile(r"KEY|PASSWORD|PRIVATE|SECRET|TOKEN|CREDENTIAL|MNEMONIC", re.IGNORECASE)
EXACT_TAG = re.compile(r"^[a-z]+:\d+\.\d+\.\d+-[a-z-]+$")
INHERITED = ("ENTRYPOINT", "CMD", "USER", "STOPSIGNAL", "HEALTHCHECK")


class Instruction(NamedTuple):
    """One instruction, its continuation lines joined."""

    word: str
    rest: str


class Stage(NamedTuple):
    """One build stage."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]


def stages(text: str) -> list[Stage]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    instructions = [Instruction(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined]
    starts = [number for number, instruction in enumerate(instructions) if instruction.word == "FROM"]
    assert starts[0] == 0, "an instruction before the first FROM"
    result = []
    for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True):
        base, _, name = instructions[start].rest.partition(" AS ")
        result.append(Stage(base, name, tuple(instructions[start + 1 : end])))
    return result


def effective(all_stages: list[Stage], stage: Stage) -> dict[str, str]:
    """Return what a stage's image is configured with, inherited from earlier stages."""
    parents = {parent.name: parent for parent in all_stages}
    settings = effective(all_stages, parents[stage.base]) if stage.base in parents else {}
    for instruction in stage.instructions:
        if instruction.word in INHERITED:
            settings[instruction.word] = instruction.rest
    return settings


def is_exec_form(rest: str) -> bool:
    try:
        parsed = json.loads(rest)
    except ValueError:
        return False
    return isinstance(parsed, list) and all(isinstance(part, str) for part in parsed)


def is_ignored(source: str, patterns: list[str]) -> bool:
    ignored = False
    for pattern in patterns:
        if fnmatch.fnmatch(source, pattern.removeprefix("!")):
            ignored = not pattern.startswith("!")
    return ignored


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def instruction_complaint(word: str, rest: str) -> str | None:
    """Say what is wrong with one instruction, whatever stands around it."""
    match word:
        case "ENTRYPOINT" | "CMD" if not is_exec_form(rest):
            return f"{word} uses a shell"
        case "HEALTHCHECK" if rest != "NONE" and not is_exec_form(rest.partition("CMD ")[2]):
            return "HEALTHCHECK uses a shell"
        case "ARG" | "ENV" if SECRET.search(rest):
            return f"{word} carries a secret"
        case "ADD":
            return "ADD fetches and unpacks; COPY says what it does"
        case "RUN" if re.search(r"\bpip\b.*\binstall\b", rest) and not re.search("--require-hashes|--no-index", rest):
            return "pip installs what no lock names"
    return None


def copy_complaints(rest: str) -> Iterator[str]:
    for source in rest.split()[:-1] if "--from=" not in rest else ():
        if not (ROOT / source).exists():
            yield f"COPY of {source}, which does not exist"
        elif is_ignored(source, ignore_patterns()):
            yield f"COPY of {source}, which .dockerignore hides"


def image_complaints(image: dict[str, str]) -> Iterator[str]:
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", image.get("USER", "")):
        yield "the user is not a number other than root's"
    if image.get("STOPSIGNAL") != "SIGTERM":
        yield "STOPSIGNAL is not SIGTERM"
    if image.get("ENTRYPOINT") != '["keeper"]' or image.get("CMD") != '["run"]':
        yield "the image does not start `keeper run`"
    if image.get("HEALTHCHECK", "NONE") == "NONE":
        yield "nothing watches its health"


def complaints(text: str) -> Iterator[str]:
    all_stages = stages(text)
    names = {stage.name for stage in all_stages}
    for stage in all_stages:
        if stage.base not in names and not EXACT_TAG.match(stage.base):
            yield f"the base {stage.base} is not pinned"
        for word, rest in stage.instructions:
            if complaint := instruction_complaint(word, rest):
                yield complaint
            if word == "COPY":
                yield from copy_complaints(rest)
    yield from image_complaints(effective(all_stages, all_stages[-1]))


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_gives_no_cause_for_complaint():
    assert list(complaints(dockerfile())) == []


@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        ("python:3.11.14-slim-trixie", "python:3.11-slim"),
        ("python:3.11.14-slim-trixie", "python:latest"),
        ('ENTRYPOINT ["keeper"]', "ENTRYPOINT keeper"),
        ('CMD ["run"]', "CMD run"),
        ('CMD ["python", "-m", "keeper.healthcheck"]', "CMD python -m keeper.healthcheck"),
        ("USER 65532:65532", "USER keeper"),
        ("USER 65532:65532", "USER 0"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL"),
        ("COPY config config", "COPY secrets config"),
        ("COPY config config", "COPY tests config"),
        ("COPY config config", "ADD config config"),
        ("WORKDIR /src", "ARG KEEPER_PRIVATE_KEY"),
        ("WORKDIR /src", 'RUN ["pip", "install", "web3"]'),
    ],
)
def test_a_planted_fault_in_the_dockerfile_is_found(sound: str, broken: str):
    assert sound in dockerfile()
    assert list(complaints(dockerfile().replace(sound, broken)))


def test_the_health_check_names_a_module_that_exists():
    assert re.search(r'"-m", "keeper\.healthcheck"', dockerfile())
    assert (ROOT / "keeper" / "healthcheck.py").is_file()


def test_the_demo_brings_its_packages_along():
    demo = next(stage for stage in stages(dockerfile()) if stage.name == "demo")
    assert effective(stages(dockerfile()), demo)["CMD"] == '["demo"]'
    assert any("--from=packages" in rest for word, rest in demo.instructions if word == "COPY")
    code = re.search(r'"-c", "(.+)"\]', dockerfile())
    assert code is not None
    compile(code[1], "Dockerfile", "exec")
    assert {"default_cache_dir", "ensure_packages"} <= vars(keeper.devnet.packages).keys()


def test_the_wheel_carries_code_chain_files_and_the_local_chain(tmp_path: Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("keeper-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    chain_files = {f"keeper/_config/{path.name}" for path in (ROOT / "config").glob("*.toml")}
    packages = ROOT / "keeper" / "devnet" / "packages"
    shipped = {str(path.relative_to(ROOT)) for path in packages.rglob("*") if path.is_file()}
    assert chain_files | shipped | {"keeper/py.typed", "keeper/cli.py"} <= names
    assert not [name for name in names if not re.match(r"keeper/|keeper-[\d.]+\.dist-info/", name)]
    assert not [name for name in names if "__pycache__" in name]
