"""`make bench`: every figure, with the machine it was measured on."""

from __future__ import annotations

import argparse
import asyncio
import statistics

from benchmarks import latency, machine, retention, throughput, unary


def main() -> None:
    """Runs the chosen benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="sqlite postgres unary latency retention; all by default"
    )
    parser.add_argument("--jobs", type=int, default=50_000, help="jobs of a throughput round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = options.names or ["sqlite", "postgres", "unary", "latency", "retention"]
    print(f"machine: {machine.describe()}")
    for name in names:
        print(asyncio.run(_run(name, options.jobs, options.rounds)), flush=True)
    print(f"machine: {machine.describe()}")


async def _run(name: str, jobs: int, rounds: int) -> str:
    match name:
        case "sqlite":
            return _rates("SQLite", await throughput.on_sqlite(jobs, rounds))
        case "postgres":
            return _rates("Postgres", await throughput.on_postgres(jobs, rounds))
        case "unary":
            empty, submit, own = await unary.measure(5_000)
            return (
                f"unary Submit: {submit:,.0f}/s; empty handler: {empty:,.0f}/s;"
                f" ratio {submit / empty:.2f}; with an input of its own each: {own:,.0f}/s"
            )
        case "latency":
            p50, p99 = await latency.measure(200)
            return f"idle Submit to running: p50 {p50:.1f} ms, p99 {p99:.1f} ms (200 jobs)"
        case "retention":
            return str(await retention.compare(200_000, jobs, rounds))
    raise SystemExit(
        f"no benchmark {name!r}; there are sqlite, postgres, unary, latency, retention"
    )


def _rates(store: str, rates: list[throughput.Rate]) -> str:
    ended = [rate.succeeded for rate in rates]
    accepted = statistics.median(rate.accepted for rate in rates)
    return (
        f"echo jobs to SUCCEEDED on {store}: median {statistics.median(ended):,.0f}/s"
        f" ({min(ended):,.0f} to {max(ended):,.0f} in {len(ended)} rounds);"
        f" accepted {accepted:,.0f}/s"
    )


main()
