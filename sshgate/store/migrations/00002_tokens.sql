-- Times are microseconds since 1970 in UTC; NULL is never. Hashes are SHA-256.
-- The secrets themselves are nowhere.

-- +goose Up
CREATE TABLE service_tokens (
	id             TEXT    NOT NULL PRIMARY KEY,
	name           TEXT    NOT NULL,
	secret_hash    BLOB,
	previous_hash  BLOB, -- of the secret before the last rotation
	previous_until INTEGER,
	key            TEXT,
	fingerprint    TEXT,
	created_at     INTEGER NOT NULL,
	expires_at     INTEGER NOT NULL,
	revoked_at     INTEGER,
	last_used_at   INTEGER,
	CHECK (secret_hash IS NOT NULL OR fingerprint IS NOT NULL),
	CHECK ((key IS NULL) = (fingerprint IS NULL)),
	CHECK (secret_hash IS NULL OR length(secret_hash) = 32)
) STRICT;

-- A name or a key may be used again once its token is revoked.
CREATE UNIQUE INDEX service_tokens_name ON service_tokens (name) WHERE revoked_at IS NULL;
CREATE UNIQUE INDEX service_tokens_live_key ON service_tokens (fingerprint) WHERE revoked_at IS NULL;
CREATE INDEX service_tokens_fingerprint ON service_tokens (fingerprint);

CREATE TABLE access_tokens (
	hash       BLOB    NOT NULL PRIMARY KEY,
	issuer     TEXT    NOT NULL,
	subject    TEXT    NOT NULL,
	identity   TEXT    NOT NULL, -- JSON, with the issuer and the subject again
	created_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	CHECK (length(hash) = 32)
) STRICT;

CREATE INDEX access_tokens_identity ON access_tokens (issuer, subject);
CREATE INDEX access_tokens_expires_at ON access_tokens (expires_at);
