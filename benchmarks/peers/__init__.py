"""What a user would pick or write instead of this service, measured beside it: same wells, same server, same table.

    python -m benchmarks.peers [--quick] [--subject NAME]

field.py      the wells: the simulator's own, with a rate that can be changed while clients are connected
subjects.py   how each pipeline is installed and started; install.py makes its environment under ``.bench/``
harness.py    database, wells and one pipeline, each a process of its own; CPU and memory of it
account.py    what was sent against what is stored, with the time of each commit
runs.py       the measured runs: fixed load and outage, ceiling, memory
bare.py       what COPY does alone
report.py     the tables; writes them into docs/performance.md

The pipelines are small programs, each as the documentation of its libraries has it, and import nothing of the service.
All of them batch by the same rule, and write a batch again that the database did not take.
"""
