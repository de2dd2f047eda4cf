from benchmarks.measure import Comparisons
from benchmarks.servers import Servers
async def compare_relay(servers: Servers) -> Comparisons:
    return
    yield
