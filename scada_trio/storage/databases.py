"""Databases of a server: making one. Blocks, for a worker thread; starts nothing."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from psycopg import errors, sql
from pydantic import SecretStr

from scada_trio.errors import ConfigurationRefused
from scada_trio.storage.connect import connect, parse_url, translated


def with_database(url: SecretStr, name: str) -> SecretStr:
    """The same URL for another database of the same server; raises `DatabaseMisconfigured` where it is malformed."""
    rest = dict(parse_url(url).parameters)
    rest.pop("dbname", None)
    authority = ""
    if not rest.get("host", "").startswith("/") and "," not in rest.get("host", ""):
        user, password = (quote(rest.pop(key, ""), safe="") for key in ("user", "password"))
        host, port = rest.pop("host", ""), rest.pop("port", "")
        login = user + (f":{password}" if password else "")
        authority = (
            (f"{login}@" if login else "") + (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        )
    query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
    return SecretStr(f"postgresql://{authority}/{quote(name, safe='')}{query}")


def create_database(url: SecretStr, name: str, *, connect_timeout_s: float = 10.0) -> SecretStr:
    """Make an empty UTF-8 database beside the one of ``url`` and return its URL.

    Raises `ConfigurationRefused` where that name is taken, `DatabaseMisconfigured` where the login may not make one.
    """
    connection = connect(
        url, application_name="scada-trio", connect_timeout_s=connect_timeout_s, statement_timeout_s=60.0
    )
    try:
        with translated():
            try:
                connection.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8'").format(sql.Identifier(name)))
            except errors.DuplicateDatabase as error:
                raise ConfigurationRefused(f"a database named {name!r} exists already") from error
    finally:
        connection.close()
    return with_database(url, name)
