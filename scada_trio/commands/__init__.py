"""What each command of ``scada-trio`` does; `scada_trio.cli` gives them their names and options."""
