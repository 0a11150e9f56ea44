-- Times are microseconds since 1970 in UTC; NULL is never.

-- +goose Up
-- How a certificate came to be; empty where that was not noted.
ALTER TABLE connector_certificates ADD COLUMN via              TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN approver_issuer  TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN approver_subject TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN approver         TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN join_token       TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN machine          TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN address          TEXT NOT NULL DEFAULT '';
ALTER TABLE connector_certificates ADD COLUMN renews           TEXT NOT NULL DEFAULT ''; -- a serial

CREATE TABLE join_tokens (
	id           TEXT    NOT NULL PRIMARY KEY,
	hash         BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32), -- SHA-256
	connector    TEXT    NOT NULL,        -- empty: left to those who join
	hostnames    TEXT    NOT NULL,        -- JSON, a list
	uses         INTEGER NOT NULL,
	uses_left    INTEGER NOT NULL CHECK (uses_left >= 0),
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	revoked_at   INTEGER,
	last_used_at INTEGER
) STRICT;

-- Which connector an origin belongs to: the first that published it.
CREATE TABLE origin_owners (
	origin     TEXT    NOT NULL PRIMARY KEY,
	connector  TEXT    NOT NULL,
	claimed_at INTEGER NOT NULL
) STRICT;
