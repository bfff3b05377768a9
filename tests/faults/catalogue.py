"""The fault catalogue: what can go wrong, each case with its id, and why a case cannot apply here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CASES: Final[dict[str, tuple[str, ...]]] = {
    "CFG": (
        "a required setting is missing",
        "the name of a setting is mistyped",
        "a value has the wrong type, range or form",
        "a value is in the wrong unit",
        "the key is malformed, or is another account's",
        "a secret is given twice, or its file is open to all, or ends in a line break",
        "an endpoint is on another chain than configured",
        "a configured contract has no code, or another interface",
        "the executor has another owner or other code",
        "an address is zero, has a wrong checksum, or is given twice",
        "two settings contradict each other",
        "an invalid file is loaded while running",
        "two endpoints are of one operator",
        "time zone, locale or encoding of the machine are odd",
    ),
    "RPC": (
        "the connection is refused, or the name does not resolve",
        "the endpoint accepts and hangs, or drips bytes",
        "too many requests, by status, in the JSON, or as a rate error",
        "credentials are refused, or the quota has ended",
        "the server fails with a page of HTML",
        "the answer is no JSON, truncated, or empty",
        "ids are wrong, swapped, or missing in a batch",
        "null for a block or receipt that exists",
        "numbers are negative, huge, no hexadecimal, of a wrong length",
        "the head is some blocks late",
        "the head goes back and forth behind a load balancer",
        "no logs for blocks that the node does not have yet",
        "logs are cut off, silently or with an error",
        "the range of a log query is limited",
        "logs come twice, reordered, or from another block",
        "the node follows another fork at the same height",
        "the chain id changes while running",
        "one node lies about the result of a call",
        "the state of a block is pruned, or its header not found",
        "a method is missing",
        "every endpoint is down for a while, then back",
        "a redirect to another host, a downgrade, a bad certificate",
        "an answer of great size, a compressed bomb, a million logs",
        "the push connection stalls, closes, or sends garbage, copies or gaps",
        "the chain id is cached, the network is odd, a proxy is set",
        "the pending nonce differs between nodes",
    ),
    "CHN": (
        "a reorganisation without a transaction of ours",
        "a reorganisation drops our mined transaction",
        "a reorganisation includes ours elsewhere, with another status",
        "a reorganisation goes deeper than what was kept, or than finality",
        "no new block for minutes or hours",
        "the sequencer is back, in its grace period",
        "the base fee doubles each block, or multiplies at once",
        "no base fee, empty blocks, a huge gas limit",
        "the chain's clock or ours is wrong, or jumps",
        "a hard fork brings unknown fields and transaction types",
        "the fee for a rollup's data multiplies",
    ),
    "ORC": (
        "a price is stale",
        "a price stands at its source's bound",
        "a price is zero, negative, or beyond any type",
        "a feed changes its decimals, or is swapped",
        "a price comes in another unit",
        "a capped ratio falls below the real one",
        "a price rises a million times",
        "reading a price reverts, burns all gas, or returns a megabyte",
        "a price changes in the block of our transaction",
        "the payload of a pull oracle is missing, expired or forged",
        "a health factor flaps around one at each block",
        "a hard-coded price stays while the market falls",
    ),
    "TXL": (
        "a crash after the decision, before the nonce",
        "a crash after the intent is committed, before it is signed",
        "a crash after signing, before the broadcast",
        "a crash after the broadcast, before the ack is stored",
        "a crash after it is mined, before the receipt is stored",
        "the response to a send is lost, the node has the transaction",
        "several nodes answer a send differently",
        "nonce too low, because an older attempt was mined",
        "another wallet uses our nonce",
        "a gap below our nonce",
        "the nodes drop a transaction from their pools",
        "a replacement is underpriced",
        "a fee below the base fee, a tip above the fee, a node's own cap",
        "no funds for gas",
        "mined, but reverted",
        "any revert reason: text, custom, panic, junk, none, huge",
        "the gas estimate was too low",
        "the position is repaid between simulation and block",
        "one stuck transaction holds up all behind it",
        "a private relay never includes, lies, or is down",
        "a private transaction becomes public",
        "a cancellation loses to what it cancels",
        "one node tells of a receipt that does not exist",
        "two opportunities of one account at once",
    ),
    "ECO": (
        "a position whose liquidation always reverts",
        "a hundred thousand positions of dust",
        "a contract returns or reverts with a heap of data, or takes all gas",
        "collateral that arrives as less than was sent, or changes by itself",
        "a token returns nothing, or false, or changes no standing allowance",
        "a token refuses to move nothing, blocks us, or is paused",
        "a token calls back while it moves",
        "a market, a pool or a token is bait",
        "an allowance is not used up",
        "a contract behaves otherwise in a simulation",
        "a stranger calls the executor's entries",
        "a stranger calls the executor's callbacks",
        "a stranger takes a loan in the executor's name, a lender breaks its terms",
        "a pool is fake",
        "our calldata is copied and sent before us",
        "our sale is sandwiched",
        "the borrower repays a little right before us",
        "what is seized cannot be sold",
        "a debt that the collateral does not cover any more",
        "a quote is malicious",
        "a bid is higher than what it wins",
        "the executor holds more than it should",
        "a contract has other code by the time we land",
        "a token's name attacks logs, metrics and pages",
    ),
    "STO": (
        "the disk is full when an intent is committed",
        "the disk is full when a cache or log is written",
        "a page or header is corrupt, or the file empty",
        "killed in a checkpoint, or the power is cut",
        "the volume is read-only, another user's, or a network's",
        "a second instance with the same key on this machine",
        "a second instance elsewhere, and a lease that is lost in a pause",
        "a second instance that shares nothing",
        "a crash in a migration, an older program on a newer schema",
        "an old backup of the journal is restored",
    ),
    "SEC": (
        "canary secrets through everything that goes wrong",
        "every form of a secret in a URL",
        "a secret in locals, renderings, pickles, core dumps",
        "a secret in a page that is served",
        "a secret in the process list or the environment",
        "a keystore with a wrong password, weak, or tampered",
        "a remote signer that signs something else, or answers badly",
        "something else than a liquidation is to be signed",
        "a malicious package",
        "a dependency with a known weakness",
        "text from the chain forges log lines",
        "a contract or server makes us ask another address",
    ),
    "HTP": (
        "the health endpoint while the loop is blocked",
        "readiness tells each reason",
        "many scrapes, slow clients, ten thousand connections",
        "control without authority, by replay, by a web page",
        "fuzzed requests, huge bodies, traversal, odd encodings",
        "the port is in use",
        "an unlimited number of label values",
        "a client that never reads",
        "pause and kill switch survive a restart, without endpoints",
    ),
    "RES": (
        "a soak with random faults",
        "nobody reads the standard output, a storm of log lines",
        "starved of processor and memory",
        "a task dies silently",
        "an endpoint flaps ten thousand times",
        "a backlog after a long pause",
        "a month of growth of the database and the log",
        "a million positions",
        "warnings and resources left open",
    ),
    "SHD": (
        "asked to stop while idle",
        "asked to stop between commit and send",
        "asked to stop while a send waits for its answer",
        "asked to stop with a transaction in the pools",
        "asked to stop twice, then killed",
        "the first process of a container",
        "other signals, and a pause of minutes",
        "a crash at every start",
    ),
}

CASES: Final[dict[str, str]] = {
    f"{group}-{number:02}": case for group, cases in _CASES.items() for number, case in enumerate(cases, 1)
}
"""Every case by its id."""

CANNOT_APPLY: Final[dict[str, str]] = {
    "ORC-06": "it needs a second source for a ratio: the keeper goes by the price that the protocol liquidates by",
    "ORC-10": "no protocol here takes its price from a payload that the liquidator brings",
    "SEC-10": "weaknesses become known after the build, and no test may leave this machine; the locks pin what to scan",
    "CFG-12": "the configuration is read once, at the start: there is no reload and no endpoint that takes one",
}
"""Why a case is not tested."""

_NAMED: Final = re.compile(r"test_([a-z]{3})_([0-9]{2})_")


def group_of(case: str) -> str:
    """Return the group of an id."""
    return case.partition("-")[0]


def groups() -> tuple[str, ...]:
    """Return the groups in their order."""
    return tuple(_CASES)


def case_of(test: str) -> str | None:
    """Return the id that a test function's name begins with, or None."""
    match = _NAMED.match(test)
    return f"{match[1].upper()}-{match[2]}" if match else None


def tests_in(text: str) -> Iterator[str]:
    """Yield the names of the test functions that pytest collects from a module's text."""
    for node in ast.parse(text).body:
        body = node.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test") else [node]
        for each in body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_"):
                yield each.name


def named_cases(folder: Path) -> dict[str, list[str]]:
    """Return the tests of a folder by the id that they name; ids that the catalogue does not have as well."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for test in tests_in(path.read_text(encoding="utf-8")):
            case = case_of(test)
            if case is not None:
                found.setdefault(case, []).append(f"{path.name}::{test}")
    return found
