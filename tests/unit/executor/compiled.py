"""Compile the executor as its artifact says; run as a program, write the artifact anew."""

import json
from pathlib import Path
from typing import Any, Final

import vyper  # type: ignore[import-untyped]
from vyper.compiler import compile_code  # type: ignore[import-untyped]

FOLDER: Final = Path(__file__).parents[3] / "keeper" / "executor"
SOURCE: Final = FOLDER / "Executor.vy"
ARTIFACT: Final = FOLDER / "executor.json"


def compiled() -> dict[str, Any]:
    """Return what the artifact has to hold. The settings are the source's own pragmas."""
    out = compile_code(
        SOURCE.read_text(encoding="utf-8"),
        contract_path=SOURCE.name,
        output_formats=["abi", "bytecode", "bytecode_runtime", "settings_dict"],
    )
    return {
        "compiler": {"name": "vyper", "version": vyper.__long_version__, "settings": out["settings_dict"]},
        "abi": out["abi"],
        "creation": out["bytecode"],
        "runtime": out["bytecode_runtime"],
    }


def text() -> str:
    """Return the artifact's file as it has to be, byte for byte."""
    return json.dumps(compiled(), indent=1) + "\n"


if __name__ == "__main__":
    ARTIFACT.write_text(text(), encoding="utf-8")
