"""Every benchmark by its name on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.append import compare_append
from benchmarks.conditional import compare_conditional
from benchmarks.consume import compare_consume
from benchmarks.consume_fold import compare_consume_fold
from benchmarks.end_to_end import compare_end_to_end
from benchmarks.growth import compare_growth
from benchmarks.lanes import compare_lanes
from benchmarks.log_import import compare_import
from benchmarks.log_read import compare_log_read
from benchmarks.measure import Comparisons
from benchmarks.multi_stream import compare_multi_stream
from benchmarks.order_case import compare_orders
from benchmarks.poison import compare_poison
from benchmarks.reader_memory import compare_reader_memory
from benchmarks.relay import compare_relay, compare_relay_avro
from benchmarks.scale import Scale
from benchmarks.servers import Servers
from benchmarks.stream_load import compare_stream_load
from benchmarks.tail import compare_tail


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one name compares."""

    compare: Callable[[Servers, Scale], Comparisons]
    needs_kafka: bool = False


BENCHMARKS: Final = {
    "append": Benchmark(compare_append),
    "multi_stream": Benchmark(compare_multi_stream),
    "conditional": Benchmark(compare_conditional),
    "stream_load": Benchmark(compare_stream_load),
    "log_read": Benchmark(compare_log_read),
    "import": Benchmark(compare_import),
    "tail": Benchmark(compare_tail),
    "growth": Benchmark(compare_growth),
    "reader_memory": Benchmark(compare_reader_memory),
    "relay": Benchmark(compare_relay, needs_kafka=True),
    "relay_avro": Benchmark(compare_relay_avro, needs_kafka=True),
    "consume": Benchmark(compare_consume, needs_kafka=True),
    "consume_fold": Benchmark(compare_consume_fold, needs_kafka=True),
    "end_to_end": Benchmark(compare_end_to_end, needs_kafka=True),
    "lanes": Benchmark(compare_lanes, needs_kafka=True),
    "poison": Benchmark(compare_poison, needs_kafka=True),
    "orders": Benchmark(compare_orders),
}
