"""The chaos suite: real processes, seeded faults, and arithmetic over what devices handed over and what is stored.

    devices (processes that log what they made and handed over)
        │ proxy                                     proxy
        └──────► service (a process, restarted) ──────► PostgreSQL (killed, frozen, full)

    site.py      the processes and how they are wired      faults.py, service_faults.py    what is done to them
    ledger.py    the arithmetic                            run.py       rounds: a fault, then recovery
    plans.py     which faults, in which order              report.py    the table
    __main__.py  ``python -m tests.chaos --minutes 60 --seed 7``

docs/reliability.md says what it proves.
"""
