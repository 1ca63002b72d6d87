"""OPC UA: the only package that imports python-opcua."""

from scada_trio.opcua.library import import_client

import_client()

from scada_trio.opcua.bounds import bound_decoder  # noqa: E402 -- it imports the library, which must come as above

bound_decoder()
