-- depends: tenant-0002-losses-quarantine
-- What the service's own hourly maintenance did last, one row; TimescaleDB keeps the like for its jobs.

CREATE TABLE IF NOT EXISTS scada_maintenance (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    last_run_at timestamptz NOT NULL,
    last_success_at timestamptz,
    runs bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    last_error text
);
