"""PostgreSQL 18 and Apache Kafka 4.4 on this machine, for development, demos and tests: no Docker, no JDK, no root, no server to install.

The operating system is authoritative: what runs is what it says runs, and nothing here remembers more than process ids, ports and folders.

A server's life: *new* → `start()` → *running*, where `pause()` and `resume()` freeze and thaw it → `kill()` → *dead* → `start()` → *running*
→ `stop()` → *stopped*. `start()` returns once the server does its work, not merely once its port is open. `kill()` is a crash: the files stay,
and `start()` recovers from them on the same port. `stop()` is safe twice; it removes the files, unless the caller gave the folder.

A server ends with the process that started it, however that ends. Each server folder has a watchdog, a small shell that reads a pipe whose
other end only the starting process holds; when the pipe closes it ends the servers and removes the folder. Servers run in sessions of their
own, so Ctrl-C reaches the starting process alone, which can drain its work first.

What can fail: the extra is not installed or a folder is unfit (`ConfigurationError`); PostgreSQL does not come up (`StorageUnavailable`);
Kafka's files cannot be fetched or it does not come up (`BrokerUnavailable`). The message carries the end of the server's log. When another
process takes a port between choosing and binding, the start is tried again with another. Installing needs the network once, for Kafka's jars;
it is safe to interrupt, and to run from several processes at once.

The servers listen on loopback without passwords: whoever can run programs on this machine can reach them. They are not for production.
All new servers are copies of one prepared folder, so PostgreSQL's `system_identifier` is the same in all of them and identifies nothing.
"""

from headwater.embedded.kafka import EmbeddedKafka
from headwater.embedded.kafka_node import KafkaNode
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.postgres_files import bin_directory
from headwater.embedded.servers import EmbeddedServers, start_embedded
from headwater.embedded.shared import SHARED_SERVERS, SharedServers
from headwater.embedded.up import run_up

__all__ = [
    "SHARED_SERVERS",
    "EmbeddedKafka",
    "EmbeddedPostgres",
    "EmbeddedServers",
    "KafkaNode",
    "SharedServers",
    "bin_directory",
    "run_up",
    "start_embedded",
]
