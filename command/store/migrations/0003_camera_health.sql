-- How each stream was: one row a minute with what happened in it, and one at each change of state, reason or faults.
-- The time is part of the key and rows come in its order, so that the table can become a hypertable as it is.

CREATE TABLE camera_health (
    camera_id   text NOT NULL,
    stream      text NOT NULL,
    at          timestamptz NOT NULL,
    changed     boolean NOT NULL,                    -- state, reason or faults are new since the row before
    state       text NOT NULL,
    reason_code text,
    reason_facts jsonb,                              -- with a change only
    faults      text[] NOT NULL DEFAULT '{}',        -- codes
    fps         real,
    bitrate_bps real,
    gop_s       real,
    jitter_ms   real,
    clock_offset_s double precision,
    span_s      real,                                -- the time that the counts below are for; null: a change alone
    live_s      real,
    frames      integer,
    lost_packets integer,
    gaps        integer,
    reconnects  integer,
    dropped_units integer,
    PRIMARY KEY (camera_id, stream, at)
);
CREATE INDEX camera_health_at ON camera_health USING brin (at);
CREATE INDEX camera_health_changes ON camera_health (camera_id, at) WHERE changed;
