"""A field of wells as real OPC UA servers, in processes of their own."""
