"""The tables of a run's database, and which form of them this is."""

from heal.store.columns import DDL, TABLES

OLD_SCHEMA, SCHEMA = 1, 2
"""What `heal.store.migrate` reads, and what is read and written now."""

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    problem TEXT NOT NULL, stage TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (problem, stage, key)
);
CREATE TABLE IF NOT EXISTS live (
    stage TEXT NOT NULL, tag TEXT NOT NULL, key TEXT NOT NULL, problem TEXT NOT NULL,
    PRIMARY KEY (stage, tag, problem, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    stage TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (stage, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    one INTEGER PRIMARY KEY CHECK (one = 1), spent INTEGER NOT NULL, lost INTEGER NOT NULL,
    received INTEGER NOT NULL, replaced INTEGER NOT NULL
);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0, 0);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
"""Bodies stand in a table with row numbers, on pages of SQLite's own size (4,096). By measurement
(benchmarks/bench_store.py): on larger pages, or in the tree of a key, long bodies leave more of the
pages they overflow to unused; traces of mixed lengths take 8 % more on pages of 8,192."""
NAMES = ("records", "live", "claims", "totals", "meta", *TABLES.values())
MAKE = f"BEGIN IMMEDIATE; {_TABLES} {DDL} INSERT INTO meta VALUES ('schema', '{SCHEMA}'); COMMIT;"
"""A killed process leaves all of it or nothing."""
