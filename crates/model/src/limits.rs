//! Limits: every size, count and time that comes from outside ends at a named `MAX_`.

use std::time::Duration;

/// Bytes of one JSON request body.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Bytes of one blob.
pub const MAX_BLOB_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Bytes that a row may hold of one value; more belongs into a blob.
pub const MAX_ROW_BYTES: usize = 16 * 1024;

/// Characters of a name of a tenant, user or token.
pub const MAX_NAME_CHARS: usize = 64;
/// Characters of an image's name.
pub const MAX_IMAGE_CHARS: usize = 512;
/// Characters of a lane's name.
pub const MAX_LANE_CHARS: usize = 128;
/// Words of one command; all of them together share [`MAX_ROW_BYTES`] with the rest of a request.
pub const MAX_COMMAND_WORDS: usize = 4_096;
/// Words that go before the command of an image.
pub const MAX_ENTRYPOINT_WORDS: usize = 256;
/// Variables of one execution's environment.
pub const MAX_ENV_VARIABLES: usize = 256;
/// Characters of an environment variable's name.
pub const MAX_ENV_NAME_CHARS: usize = 128;

/// Memory that one execution may ask for.
pub const MAX_MEMORY_BYTES: u64 = 1 << 40;
/// Thousandths of a core that one execution may ask for.
pub const MAX_CPU_MILLI: u32 = 1_024_000;
/// Processes that one execution may ask for.
pub const MAX_PIDS: u32 = 1 << 20;
/// Time that one execution may ask for: thirty days.
pub const MAX_WALL_MS: u64 = 30 * 24 * 3600 * 1000;
/// Log that one execution may ask to keep.
pub const MAX_LOG_BYTES: u64 = 1 << 30;
/// Nodes that one execution may lose before it is put aside.
pub const MAX_LOSSES: u32 = 3;
/// Executions that one claim may take.
pub const MAX_CLAIM: u32 = 1_000;

/// Time that one execution may ask for to tidy up: ten minutes.
pub const MAX_GRACE_MS: u64 = 600_000;
/// Bytes of a path inside a sandbox.
pub const MAX_PATH_BYTES: usize = 4096;
/// Mounts of one sandbox.
pub const MAX_MOUNTS: usize = 32;
/// Blobs that one sandbox sees as files.
pub const MAX_FILES: usize = 64;
/// Rules of whom one sandbox may reach.
pub const MAX_EGRESS_RULES: usize = 64;
/// Labels of one node, or asked for by one execution.
pub const MAX_LABELS: usize = 32;
/// Characters of a label's name, and of its value.
pub const MAX_LABEL_CHARS: usize = 128;

/// Characters of a cause: why a node takes nothing, or why something never began.
pub const MAX_CAUSE_CHARS: usize = 512;
/// Bytes that a chunk may hold itself.
pub const MAX_CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of a blob that a chunk may name.
pub const MAX_CHUNK_BLOB_BYTES: u64 = 4 << 20;
/// Bytes of input that a user may send to one execution while it runs.
pub const MAX_INPUT_BYTES: u64 = 4 << 30;
/// Executions that one node may hold.
pub const MAX_HELD: usize = 4_096;
/// Executions that one node may offer to run at once.
pub const MAX_SLOTS: u32 = 4_096;
/// Runtimes, and mounts, that one node may offer.
pub const MAX_RUNTIMES: usize = 64;
/// Chunks of one sync.
pub const MAX_SYNC_CHUNKS: usize = 1_024;
/// Executions of which one sync tells what they have used.
pub const MAX_SYNC_USED: usize = 256;
/// Bytes of one sync's body.
pub const MAX_SYNC_BYTES: usize = 4 << 20;
/// Bytes of a shape's text: an index of PostgreSQL takes no more than a third of a page.
pub const MAX_SHAPE_BYTES: usize = 2_048;
/// Bytes of output and error beyond an execution's limit that are still taken, for the mark that says so.
pub const MAX_MARK_BYTES: u64 = 64 << 10;
/// Layers of one image.
pub const MAX_LAYERS: usize = 128;

/// Entries of one page.
pub const MAX_PAGE: u32 = 1_000;
/// Entries of a page when nobody says how many.
pub const DEFAULT_PAGE: u32 = 100;
/// How long a request for changes may be held open.
pub const MAX_HOLD: Duration = Duration::from_secs(30);

/// How long a token may live: ten years.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Scopes that one token may name.
pub const MAX_TOKEN_SCOPES: usize = 32;
/// How long a log level may stay changed before it must be asked for again: a week.
pub const MAX_LEVEL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Characters of a bearer credential, ours or a foreign JWT.
pub const MAX_CREDENTIAL_CHARS: usize = 16 * 1024;
