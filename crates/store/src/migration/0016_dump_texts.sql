-- What a specification may ask of a dump leads to it by an index, whatever is asked: a file's name, a size, who brought it,
-- how bad it is, and the texts that may be longer than an index takes, by their beginnings. Patterns that begin with a star
-- go through such an index instead of all dumps.
CREATE INDEX dump_name ON dump (tenant, name, time, id);
CREATE INDEX dump_size ON dump (tenant, size, time, id);
CREATE INDEX dump_by ON dump (tenant, created_by, time, id);
CREATE INDEX dump_psargs ON dump (tenant, substr(psargs, 1, 256), time, id) WHERE substr(psargs, 1, 256) IS NOT NULL;
CREATE INDEX dump_signature_text ON dump (tenant, substr(signature_text, 1, 256), time, id)
    WHERE substr(signature_text, 1, 256) IS NOT NULL;
CREATE INDEX dump_cause ON dump (tenant, substr(cause, 1, 256), time, id) WHERE substr(cause, 1, 256) IS NOT NULL;
CREATE INDEX dump_truncated ON dump (tenant, time, id) WHERE is_truncated = 1;

-- What has no signature is looked for as well, and which signatures the dumps of a command have.
DROP INDEX dump_signature;
CREATE INDEX dump_signature ON dump (tenant, signature, time, id, cmd);
