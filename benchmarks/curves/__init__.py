"""How the cost of the service grows: one quantity after the other, from little to much, in tables and pictures.

    sweeps.py     which points: load, settings, and the quantity that grows
    point.py      measures one: wells, database and service of `scada_trio.loadtest`, every value counted
    delay.py      a proxy that makes the way to the database longer
    callers.py    applications that query while readings come
    sizing.py     what a reading, a message, a connection and a tag cost by those curves, and what more would take
    picture.py    a sweep as SVG
    documents.py  puts table and picture where a document has their markers

`python -m benchmarks.curves --help` says how to run it.
"""
