-- An analyzer by its name, with the number of the version that is current.
CREATE TABLE analyzer (
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    version bigint NOT NULL,
    memory_bytes bigint NOT NULL,
    wall_ms bigint NOT NULL,
    -- The words of the specification on whose dumps it runs by itself, as JSON.
    arrival {text},
    PRIMARY KEY (tenant, name)
){clustered};

-- A version is one content, which is there once.
CREATE TABLE analyzer_version (
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    version bigint NOT NULL,
    script {text} NOT NULL,
    size bigint NOT NULL,
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant, name, version)
){clustered};
CREATE UNIQUE INDEX analyzer_version_script ON analyzer_version (tenant, name, script);

-- The last study of a dump by a version: of which content, by which execution, and how it ended.
CREATE TABLE study (
    tenant {text} NOT NULL,
    dump {text} NOT NULL,
    analyzer {text} NOT NULL,
    version bigint NOT NULL,
    digest {text} NOT NULL,
    execution {text} NOT NULL,
    state {text} NOT NULL,
    ended_at bigint,
    PRIMARY KEY (tenant, dump, analyzer, version)
){clustered};
CREATE UNIQUE INDEX study_execution ON study (execution);
CREATE INDEX study_analyzer ON study (tenant, analyzer);

-- Dumps that have just been analysed, for analyzers that run by themselves.
CREATE TABLE dump_arrival (
    dump {text} PRIMARY KEY,
    tenant {text} NOT NULL
);
