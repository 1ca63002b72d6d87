"""PostgreSQL: the sole importer of psycopg. Blocking calls run in worker threads, Trio tasks wait for them."""
