"""A field of wells as real OPC UA servers, in a process of their own: what the demo and the load tests read.

field.py         the wells and how their values move; pure
encoding.py      monitored items as bytes, many at once; pure
record.py        what was made, for whoever counts what arrived
subscription.py  queue, sequence numbers, what is kept for Republish
device.py        one well's sessions and subscriptions
services.py      OPC UA's services, with python-opcua's codec
looking.py       those by which a client looks around, and nodes.py what it sees
channel.py       one client's socket: frames, secure channel without security, Publish
server.py        the endpoints, and the loop that moves all values
wells.py         a well as the process announces it, one line of JSON each
process.py       starts and stops that process from a Trio program
"""
