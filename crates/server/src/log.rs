//! What the server writes about itself.

/// The modules that have a level; the last one is everything foreign.
pub(crate) const MODULES: [&str; 9] =
    ["model", "store", "server", "client", "node", "sandbox", "dump", "cli", "other"];
