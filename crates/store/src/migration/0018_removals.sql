-- Content is removed by one server at a time: another's list would go on to name what was removed, and stored anew since.
ALTER TABLE blob_removal ADD COLUMN taken_at bigint;
