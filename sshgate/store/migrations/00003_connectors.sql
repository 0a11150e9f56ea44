-- Times are microseconds since 1970 in UTC; NULL is never.

-- +goose Up
CREATE TABLE connector_certificates (
	serial       TEXT    NOT NULL PRIMARY KEY, -- hexadecimal, lower case
	connector    TEXT    NOT NULL,
	hostnames    TEXT    NOT NULL,             -- JSON, a list
	issued_at    INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	revoked_at   INTEGER,
	last_seen_at INTEGER
) STRICT;

CREATE INDEX connector_certificates_connector ON connector_certificates (connector);
