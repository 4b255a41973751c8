"""Storage, schemas, statistics, tables and figures of experiment records."""
