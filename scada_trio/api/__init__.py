"""The gRPC API: grpclib on the asyncio loop of trio-asyncio."""
