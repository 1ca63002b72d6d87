"""A field of wells as real OPC UA servers, in a process of their own: what the demo and the load tests read.

field.py    the wells and how their values move; pure
wells.py    a well as the process announces it, one line of JSON each
server.py   serves a field with asyncua (extra ``simulator``); asyncio
process.py  starts and stops that process from a Trio program
"""
