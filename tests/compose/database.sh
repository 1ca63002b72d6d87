#!/bin/sh
# What the image of TimescaleDB does with the variables that compose.yaml gives it, with Debian's PostgreSQL.
set -eu
programs=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres)")
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
  chown postgres: "$data"
  chmod 700 "$data"
  password=$(mktemp)
  printf '%s' "$POSTGRES_PASSWORD" > "$password"
  chown postgres: "$password"
  as_postgres "$programs/initdb" --pgdata "$data" --username "$POSTGRES_USER" --pwfile "$password" --auth scram-sha-256 \
    --encoding UTF8 --locale C.UTF-8
  rm "$password"
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  echo "CREATE DATABASE \"$POSTGRES_DB\"" | as_postgres "$programs/postgres" --single -D "$data" postgres
fi
exec setpriv --reuid postgres --regid postgres --init-groups "$programs/postgres" -D "$data" -c "listen_addresses=*"
