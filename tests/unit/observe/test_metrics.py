"""The numbers have the documented names, and no input multiplies the series."""

from prometheus_client.parser import text_string_to_metric_families

from keeper.observe.events import Event
from keeper.observe.metrics import MAX_SERIES, MAX_VALUES, Metrics
from keeper.observe.witness import Witness
from tests.unit.observe.clock import StoppedClock

NAMES = """
head_block head_age_seconds loop_lag_seconds rpc_requests rpc_calls rpc_latency_seconds rpc_node_state reorgs positions
positions_liquidatable decisions tx tx_inclusion_blocks nonce_mined nonce_next nonce_gap inflight
gas_spent_wei profit_usd balance_wei parity_checks quarantined scan_seconds log_dropped build_info
invariant_violations prices_quarantined tasks
"""


def make(clock: StoppedClock | None = None) -> Metrics:
    return Metrics(clock=clock or StoppedClock(), version="1.2.3", chain="ethereum", mode="observe")


def samples(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    text = metrics.exposition("")[0].decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def test_every_documented_metric_is_there() -> None:
    families = {family.name for family in text_string_to_metric_families(make().exposition("")[0].decode())}
    assert {f"keeper_{name}" for name in NAMES.split()} <= families
    assert not {name for name in families if name.startswith("python_")}


def test_two_sets_of_metrics_do_not_know_of_each_other() -> None:
    one, other = make(), make()
    one.reorgs.inc()
    assert samples(one)["keeper_reorgs_total"] == {(): 1}
    assert samples(other)["keeper_reorgs_total"] == {(): 0}


def test_the_heads_age_is_taken_when_asked() -> None:
    clock = StoppedClock()
    metrics = make(clock)
    assert str(samples(metrics)["keeper_head_age_seconds"][()]) == "nan"
    metrics.head(7, int(clock.unix) - 3)
    clock.forward(4)
    assert samples(metrics)["keeper_head_age_seconds"] == {(): 7}
    assert samples(metrics)["keeper_head_block"] == {(): 7}


def test_a_hundred_thousand_markets_make_a_bounded_number_of_series() -> None:
    metrics = make()
    for number in range(100_000):
        metrics.positions.at(market=f"market-{number}").set(number)
    series = samples(metrics)["keeper_positions"]
    assert len(series) == MAX_VALUES + 1
    assert series["other",] == 99_999


def test_the_combinations_of_labels_are_bounded_too() -> None:
    metrics = make()
    for number in range(100_000):
        labels = {"node": f"n{number % 60}", "method": f"m{number % 59}", "result": f"r{number % 61}"}
        metrics.rpc_requests.at(**labels).inc()
    series = samples(metrics)["keeper_rpc_requests_total"]
    assert len(series) <= MAX_SERIES + 1
    assert sum(series.values()) == 100_000


def test_a_hostile_label_is_other() -> None:
    metrics = make()
    for market in ('a"} 1\nkeeper_forged 1', "\ud800", "\x1b[31m", "x" * 65, "naïve"):
        metrics.positions.at(market=market).set(1)
    assert samples(metrics)["keeper_positions"] == {("other",): 1}
    assert "keeper_forged" not in samples(metrics)


def test_a_node_is_in_one_state() -> None:
    metrics = make()
    metrics.node_state("rpc-1", "alive")
    metrics.node_state("rpc-1", "unreachable")
    metrics.node_state("rpc-2", "alive")
    assert samples(metrics)["keeper_rpc_node_state"] == {
        ("rpc-1", "alive"): 0,
        ("rpc-1", "unreachable"): 1,
        ("rpc-2", "alive"): 1,
    }


def test_the_exposition_speaks_the_dialect_that_is_asked_for() -> None:
    assert (
        make().exposition("application/openmetrics-text; version=1.0.0")[1].startswith("application/openmetrics-text")
    )
    assert make().exposition("*/*")[1].startswith("text/plain")


def test_the_witness_counts_what_the_parts_tell() -> None:
    metrics = make()
    witness = Witness(metrics)
    witness.request(node="rpc-1", method="eth_call", result="ok", seconds=0.02, requests=3)
    witness.event(Event.RPC_NODE_STATE, node="rpc-1", state="alive")
    witness.event("chain.reorg", depth=2)
    witness.transaction("mined")
    witness.lane(mined_nonce=4, next_nonce=6, in_flight=2, gap=0)
    witness.gas_spent(10**15)
    witness.inclusion(2)
    seen = samples(metrics)
    assert seen["keeper_rpc_requests_total"] == {("eth_call", "rpc-1", "ok"): 1}
    assert seen["keeper_rpc_calls_total"] == {("rpc-1",): 3}
    assert seen["keeper_rpc_latency_seconds_count"] == {("eth_call", "rpc-1"): 1}
    assert seen["keeper_rpc_node_state"] == {("rpc-1", "alive"): 1}
    assert seen["keeper_reorgs_total"] == {(): 1}
    assert seen["keeper_tx_total"] == {("mined",): 1}
    assert [seen[f"keeper_{name}"][()] for name in ("nonce_mined", "nonce_next", "inflight", "nonce_gap")] == [
        4,
        6,
        2,
        0,
    ]
    assert seen["keeper_gas_spent_wei_total"] == {(): 10**15}
    assert seen["keeper_tx_inclusion_blocks_count"] == {(): 1}
