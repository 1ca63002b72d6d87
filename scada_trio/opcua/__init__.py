"""OPC UA: the only package that imports python-opcua."""
