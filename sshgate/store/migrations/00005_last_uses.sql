-- Times are microseconds since 1970 in UTC.

-- +goose Up
-- Where people's sessions went, to show those targets first.
CREATE TABLE last_uses (
	issuer  TEXT    NOT NULL,
	subject TEXT    NOT NULL,
	origin  TEXT    NOT NULL,
	login   TEXT    NOT NULL,
	used_at INTEGER NOT NULL,
	PRIMARY KEY (issuer, subject, origin, login)
) STRICT;

CREATE INDEX last_uses_used_at ON last_uses (used_at);
