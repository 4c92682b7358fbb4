-- The fleet's index: what lies in the registries, and what verification said of it. FLEET.md explains it.
-- Everything in it can be rebuilt by `edgeprov-fleet sync` and `verify`; nothing in it is a proof.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE sources (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,          -- host[:port]/prefix or oci:DIR
  settings TEXT NOT NULL,             -- JSON of remotes.Source
  synced_at TEXT                      -- RFC 3339, our clock
);

-- What was seen under which name. A row is a fact about a registry, not about a kit.
CREATE TABLE seen (
  source INTEGER NOT NULL REFERENCES sources(id),
  repo TEXT NOT NULL,
  reference TEXT NOT NULL,            -- tag, or sha256: digest where there is no tag
  digest TEXT,                        -- NULL when it could not be read
  fault TEXT,                         -- why it is not in `artifacts`
  PRIMARY KEY (source, repo, reference)
) WITHOUT ROWID;

CREATE TABLE models (
  digest TEXT PRIMARY KEY,            -- manifest digest
  source INTEGER NOT NULL REFERENCES sources(id),
  repo TEXT NOT NULL,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  security_version INTEGER NOT NULL,
  trained_on TEXT,                    -- digest of the collection statement that this model names, if any
  created TEXT
) WITHOUT ROWID;

CREATE TABLE model_tags (
  source INTEGER NOT NULL, repo TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (source, repo, tag)
) WITHOUT ROWID;

-- Device records ever seen, newest enrollment last: an old record explains old kits.
CREATE TABLE devices (
  digest TEXT PRIMARY KEY,            -- manifest digest of the record
  device TEXT NOT NULL,               -- URN
  enrollment TEXT NOT NULL,           -- id, hex: several records have the same after a renewal
  replaces TEXT,                      -- enrollment id that ended on the same TPM
  source INTEGER NOT NULL REFERENCES sources(id),
  enrolled_at TEXT NOT NULL,
  assurance TEXT NOT NULL,            -- as the record says, before verification
  ak TEXT NOT NULL,                   -- TPM Name of the attestation key, hex
  counter_base INTEGER NOT NULL,
  manifest BLOB NOT NULL,
  layer BLOB NOT NULL,
  signatures BLOB NOT NULL            -- JSON: [[manifest, blob], ...] in base64
) WITHOUT ROWID;
CREATE INDEX devices_by_device ON devices(device);
CREATE INDEX devices_by_enrollment ON devices(enrollment);

-- Data kits and tombstones, from their own manifests (digest checked). What annotations claim is unproved
-- until `verdicts` has a row.
CREATE TABLE artifacts (
  digest TEXT PRIMARY KEY,
  kind TEXT NOT NULL,                 -- kit | tombstone
  source INTEGER NOT NULL REFERENCES sources(id),
  repo TEXT NOT NULL,
  tag TEXT,
  model TEXT NOT NULL,
  device TEXT NOT NULL,               -- URN
  enrollment TEXT NOT NULL,           -- id, hex
  slot TEXT NOT NULL,
  seq INTEGER NOT NULL,
  prev TEXT,
  records INTEGER NOT NULL,
  labels INTEGER NOT NULL,
  first INTEGER, last INTEGER,        -- record numbers
  recorded_first TEXT, recorded_last TEXT,  -- device clock, RFC 3339
  created TEXT NOT NULL,              -- device clock
  bytes INTEGER NOT NULL,             -- layers and config
  found_at TEXT NOT NULL              -- our clock when sync first saw it: it existed before
) WITHOUT ROWID;
CREATE INDEX artifacts_by_model ON artifacts(model, device, seq, records, labels);  -- covers find and count
CREATE INDEX artifacts_by_device ON artifacts(device, seq);
CREATE INDEX artifacts_by_time ON artifacts(recorded_first, recorded_last);

-- Attested heads that devices left without being asked. The attestation key vouches for each; nothing is judged here.
CREATE TABLE heads (
  digest TEXT PRIMARY KEY,
  source INTEGER NOT NULL REFERENCES sources(id),
  repo TEXT NOT NULL,
  tag TEXT,
  device TEXT NOT NULL,               -- URN
  enrollment TEXT NOT NULL,           -- id, hex
  counter INTEGER NOT NULL,           -- as certified; verified only when the head is used
  created TEXT NOT NULL,              -- device clock
  layer BLOB NOT NULL,                -- the head
  found_at TEXT NOT NULL              -- our clock when sync first saw it: it existed before
) WITHOUT ROWID;
CREATE INDEX heads_by_enrollment ON heads(enrollment, counter, created);

-- Signature manifests known without asking the registry (folders list them; registries are asked by digest).
CREATE TABLE signatures (
  subject TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (subject, digest)
) WITHOUT ROWID;

-- Which numbered signature tags a repository lists beside a tag (FORMAT.md section 26).
CREATE TABLE signature_tags (
  source INTEGER NOT NULL, repo TEXT NOT NULL,
  tag TEXT NOT NULL,                  -- of the artifact
  numbers INTEGER NOT NULL,           -- bit n: <tag>.s<n> is listed
  PRIMARY KEY (source, repo, tag)
) WITHOUT ROWID;

CREATE TABLE verdicts (
  digest TEXT NOT NULL,               -- of a training set: its statement
  policy TEXT NOT NULL,               -- SHA-256 of the trust folder
  depth INTEGER NOT NULL,             -- 1 evidence, 2 and every blob's digest, 3 and every record's leaf
  verified INTEGER NOT NULL,
  step INTEGER,                       -- 1..10 that refused; 0: the content, not the evidence
  error TEXT, detail TEXT, code INTEGER,
  record TEXT,                        -- device record that explains the kit
  assurance TEXT,
  reset_count INTEGER, restart_count INTEGER, clock_ms INTEGER, safe INTEGER,
  signed_before TEXT,
  opened_clock_ms INTEGER,            -- TPM clock when the first segment was opened
  boot_sets TEXT,                     -- names of the policy's boot_pcrs that its quotes match, with ', ' between
  judged_at TEXT NOT NULL,
  PRIMARY KEY (digest, policy)
) WITHOUT ROWID;
CREATE INDEX verdicts_by_time ON verdicts(judged_at, policy);  -- which trust folder judged last

-- Training sets that `collect` wrote: the middle of the lineage model -> kits -> training set -> next model.
CREATE TABLE collections (
  statement TEXT PRIMARY KEY,         -- SHA-256 of the in-toto statement
  folder TEXT NOT NULL,               -- on this machine; empty: learned from a registry
  models TEXT NOT NULL,               -- JSON list of digests
  kits INTEGER NOT NULL, rows INTEGER NOT NULL, labelled INTEGER NOT NULL,
  created TEXT NOT NULL
) WITHOUT ROWID;

-- What `collect` wrote where, so that a later run believes a file for its digest, and not for what it says.
CREATE TABLE data_files (
  folder TEXT NOT NULL,               -- folder or URL of the data set
  path TEXT NOT NULL,                 -- within it
  key TEXT NOT NULL,                  -- SHA-256 of all that the file depends on
  model TEXT NOT NULL,
  device TEXT NOT NULL,               -- URN
  digest TEXT NOT NULL,               -- of the file, as it was written
  bytes INTEGER NOT NULL, rows INTEGER NOT NULL, labelled INTEGER NOT NULL, duplicates INTEGER NOT NULL,
  label_type TEXT NOT NULL,           -- of the file's own labels
  PRIMARY KEY (folder, path)
) WITHOUT ROWID;

-- Which kits went into a training set: from the list that hangs on the model trained on it.
CREATE TABLE collection_kits (
  statement TEXT NOT NULL,            -- of collections
  kit TEXT NOT NULL,                  -- manifest digest
  PRIMARY KEY (statement, kit)
) WITHOUT ROWID;

-- Who vouches for a training set: the signatures over its statement that hang on models, as sync found them.
CREATE TABLE collection_signatures (
  statement TEXT PRIMARY KEY,         -- of collections
  bundles TEXT NOT NULL               -- JSON: sigstore bundles in base64; [] when nobody signed it
) WITHOUT ROWID;

-- Facts of a verified kit or tombstone about its device's series, written with its verdict.
CREATE TABLE series_facts (
  digest TEXT PRIMARY KEY,
  facts TEXT NOT NULL                 -- JSON: segments that it seals, numbers and records that it names, open segments
) WITHOUT ROWID;

-- What audits read in kits themselves. The bytes behind a digest never change, so each is opened once.
CREATE TABLE opened (
  digest TEXT NOT NULL,               -- of a verified kit
  question TEXT NOT NULL,             -- labels, or inside FROM TO
  answer TEXT NOT NULL,               -- JSON: numbers that have a label, as inclusive ranges; or what lies in the period
  PRIMARY KEY (digest, question)
) WITHOUT ROWID;
