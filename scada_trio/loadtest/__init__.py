"""A load test of the whole service: simulated wells, a database, the service as a child process, and a verdict.

load.py       what load is offered; the modes normal, peak and stress
rig.py        starts and stops the three; the service's own process is in child.py
scrape.py     the service's metrics as numbers
sampling.py   one sample a second: metrics, memory, CPU
account.py    what was sent against what is stored, step by step
report.py     figures, targets and verdict; tables.py prints them, picture.py draws the run
run.py        the order of it all

Nothing of the service imports this. psutil and matplotlib come with the extra ``loadtest``.
"""
