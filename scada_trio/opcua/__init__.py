"""OPC UA: the only package that imports python-opcua."""

from scada_trio.opcua.library import import_client

import_client()
