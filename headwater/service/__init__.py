"""The object that users decorate: it puts the rooms together.

Who is authoritative: the log in PostgreSQL. A service is a name, the handlers and projections registered on it, and, while it is open, the
workers that serve them: a relay for its log, a consumer for its handlers, a runner for its projections.

States: defined (decorators only, at import) → open → closed, and open again. `async with service` opens the store and starts the workers;
`service.connect()` opens only the store, for a process that appends and reads while another runs the workers. What can be waited out (a server
away, a lost lease) the workers wait out themselves. A worker that ends or stalls all the same is told of as an error and started anew; only an
error that a new start cannot mend (wrong use, a refused definition) ends the block, with that error.
"""

from headwater.service.asyncapi import asyncapi_document
from headwater.service.events import ServiceEvents
from headwater.service.foreign import Values
from headwater.service.parts import Parts
from headwater.service.service import Service

__all__ = ["Parts", "Service", "ServiceEvents", "Values", "asyncapi_document"]
