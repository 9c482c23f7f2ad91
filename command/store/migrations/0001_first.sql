-- The first schema. Keys are chosen for hypertables: (started_at, id) with started_at fixed for an event's life.

CREATE TABLE cameras (
    camera_id   text PRIMARY KEY,
    name        text NOT NULL,
    village     text NOT NULL,
    lon         double precision NOT NULL,          -- WGS 84
    lat         double precision NOT NULL,
    heading_deg double precision,
    zones       jsonb NOT NULL DEFAULT '[]',
    removed_at  timestamptz                          -- no longer in streams.yaml; kept because events name it
);

CREATE TABLE grids (
    grid_id     text NOT NULL,
    valid_from  timestamptz NOT NULL,                -- old events keep the grid that was in force
    valid_to    timestamptz,
    name        text NOT NULL,
    village     text NOT NULL,
    geometry    jsonb NOT NULL,                      -- GeoJSON Polygon
    PRIMARY KEY (grid_id, valid_from)
);
CREATE UNIQUE INDEX grids_in_force ON grids (grid_id) WHERE valid_to IS NULL;

CREATE TABLE people (
    person_id   text PRIMARY KEY,                    -- phone-like id of grids.geojson
    name        text NOT NULL,
    removed_at  timestamptz
);

CREATE TABLE grid_roles (
    grid_id     text NOT NULL,
    role        text NOT NULL CHECK (role IN ('patroller', 'leader', 'supervisor', 'police_officer', 'volunteer')),
    person_id   text NOT NULL REFERENCES people,
    PRIMARY KEY (grid_id, role)
);
CREATE INDEX grid_roles_person ON grid_roles (person_id);

CREATE TABLE events (
    id          uuid NOT NULL,
    started_at  timestamptz NOT NULL,
    epoch       bigint NOT NULL,                     -- last writer wins by (epoch, number)
    number      bigint NOT NULL,
    revision    integer NOT NULL DEFAULT 1,          -- statements that were applied; 1 means just opened
    state       text NOT NULL CHECK (state IN ('opened', 'updated', 'closed')),
    code        text NOT NULL,
    camera_id   text,
    rule_id     text,
    zone_id     text,
    priority    smallint NOT NULL,
    updated_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    emitted_at  timestamptz,
    stored_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    score       real,
    object_class text,
    box         jsonb,
    lon         double precision,
    lat         double precision,
    place_from  text NOT NULL,
    grid_id     text,
    grid_match  text CHECK (grid_match IN ('inside', 'nearest', 'none')),
    village     text,                                -- the grid's, else the camera's
    evidence    jsonb NOT NULL DEFAULT '[]',
    attributes  jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (started_at, id)
);
CREATE INDEX events_camera ON events (camera_id, started_at DESC, id DESC);
CREATE INDEX events_grid ON events (grid_id, started_at DESC, id DESC);
CREATE INDEX events_village ON events (village, started_at DESC, id DESC);
CREATE INDEX events_code ON events (code, started_at DESC, id DESC);
CREATE INDEX events_going_on ON events (started_at DESC, id DESC) WHERE state <> 'closed';
CREATE INDEX events_id ON events (id);

CREATE TABLE cases (
    case_id     uuid PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,   -- what people say on the telephone
    revision    bigint NOT NULL DEFAULT 1,
    state       text NOT NULL,
    code        text NOT NULL,
    grid_id     text,
    village     text,
    camera_id   text,
    zone_id     text,
    lon         double precision,
    lat         double precision,
    opened_at   timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    closed_at   timestamptz
);
CREATE INDEX cases_same_cause ON cases (camera_id, zone_id, code, opened_at DESC);
CREATE INDEX cases_opened ON cases (opened_at DESC, case_id DESC);

-- A case's own copy of each event it rests on: dropping old events never empties a case.
CREATE TABLE case_events (
    case_id     uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    event_id    uuid NOT NULL,
    started_at  timestamptz NOT NULL,
    event       jsonb NOT NULL,
    PRIMARY KEY (event_id)
);
CREATE INDEX case_events_case ON case_events (case_id);

CREATE TABLE case_steps (
    step_id     uuid PRIMARY KEY,
    case_id     uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    revision    bigint NOT NULL,                     -- the case's revision that this step made
    at          timestamptz NOT NULL,
    person_id   text,                                -- null: the system itself
    step        text NOT NULL,
    from_state  text,
    to_state    text NOT NULL,
    note        text,
    detail      jsonb NOT NULL DEFAULT '{}',
    UNIQUE (case_id, revision)
);

CREATE TABLE tasks (
    task_id     uuid PRIMARY KEY,
    case_id     uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    revision    bigint NOT NULL DEFAULT 1,
    state       text NOT NULL,
    is_lead     boolean NOT NULL DEFAULT true,
    person_id   text NOT NULL REFERENCES people,
    grid_id     text,
    offered_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    due_at      timestamptz
);
CREATE UNIQUE INDEX tasks_one_lead ON tasks (case_id) WHERE is_lead AND state NOT IN ('done', 'refused', 'recalled', 'expired');
CREATE INDEX tasks_person ON tasks (person_id, offered_at DESC, task_id DESC);
CREATE INDEX tasks_offered ON tasks (offered_at DESC, task_id DESC);
CREATE INDEX tasks_case ON tasks (case_id);

CREATE TABLE task_steps (
    step_id     uuid PRIMARY KEY,                    -- the answer's own id where a device sent it
    task_id     uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    revision    bigint,                              -- null: kept as a note, not applied
    at          timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    person_id   text,
    step        text NOT NULL,
    from_state  text,
    to_state    text,
    applied     boolean NOT NULL,
    why         text,                                -- code of the reason when not applied
    note        text,
    lon         double precision,
    lat         double precision,
    accuracy_m  real
);
CREATE INDEX task_steps_task ON task_steps (task_id, received_at);

-- What a person's device must hear. A row stays open until the device itself has confirmed (`received`).
CREATE TABLE outbox (
    outbox_id   uuid PRIMARY KEY,
    person_id   text NOT NULL,
    task_id     uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    revision    bigint NOT NULL,                     -- the task's revision that the message tells
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz,
    attempts    integer NOT NULL DEFAULT 0,
    confirmed_at timestamptz,
    UNIQUE (task_id, revision)
);
CREATE INDEX outbox_open ON outbox (person_id, created_at) WHERE confirmed_at IS NULL;

-- A spooled row that the database refused, with the reason; it never blocks the rest.
CREATE TABLE dead_letters (
    dead_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    spool       text NOT NULL,
    seq         bigint NOT NULL,
    kind        text NOT NULL,
    body        text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (spool, seq)
);
