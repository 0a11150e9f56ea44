-- Times are microseconds since 1970 in UTC.

-- +goose Up
CREATE TABLE key_logins (
	fingerprint TEXT    NOT NULL PRIMARY KEY,
	issuer      TEXT    NOT NULL,
	subject     TEXT    NOT NULL,
	identity    TEXT    NOT NULL, -- JSON, with the issuer and the subject again
	expires_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX key_logins_identity ON key_logins (issuer, subject);
CREATE INDEX key_logins_expires_at ON key_logins (expires_at);

CREATE TABLE host_keys (
	origin    TEXT    NOT NULL,
	key       TEXT    NOT NULL,
	connector TEXT    NOT NULL,
	pinned_at INTEGER NOT NULL,
	PRIMARY KEY (origin, key)
) STRICT;
