"""The contract that liquidates without capital: its source, what it compiles to, how it is called and what it says.

`Executor.vy` is the source, for auditors; `executor.json` is what the pinned compiler makes of it, and what is
deployed. `tests/unit/executor` compiles the source again and compares; its `compiled.py` writes the artifact anew.
"""
