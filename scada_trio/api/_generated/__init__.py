"""Code that scripts/generate_proto.py makes from proto/scada.proto."""
