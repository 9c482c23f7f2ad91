-- Recordings: one row a segment that lies whole on a disk, and one a piece of time without footage.

CREATE TABLE segments (
    camera_id   text NOT NULL,
    stream      text NOT NULL CHECK (stream IN ('main', 'sub')),
    started_at  timestamptz NOT NULL,                -- the first frame; microseconds, the same as in the file's name
    ended_at    timestamptz NOT NULL,
    bytes       bigint NOT NULL,
    codec       text NOT NULL,
    width       integer NOT NULL,
    height      integer NOT NULL,
    frames      integer NOT NULL,
    gaps        integer NOT NULL,                    -- places inside where packets were lost
    sha256      bytea NOT NULL,                      -- of the whole file
    folder      text NOT NULL,                       -- the recording folder
    path        text NOT NULL,                       -- within it
    PRIMARY KEY (camera_id, stream, started_at)
);
CREATE INDEX segments_time ON segments USING brin (started_at);

CREATE TABLE recording_gaps (
    camera_id   text NOT NULL,
    stream      text NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL,
    reason      text NOT NULL,                       -- stream, disk_slow, disk_full, disk_error
    dropped_units integer NOT NULL,
    PRIMARY KEY (camera_id, stream, started_at)
);
