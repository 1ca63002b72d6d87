"""What is accepted and not committed: a SQLite file for each tenant (docs/reliability.md).

`queue` is what the tenant works with; below it stand `store` (what is committed when), `salvage` (what a damaged file
is worth, as `reader` reads it), `file` (SQL and locks), `rows` (what a row is) and `wal` (frames of a write-ahead log).
"""
