-- What was decided of a signature last, by whom and when, as JSON.
ALTER TABLE signature ADD COLUMN decided {text};
