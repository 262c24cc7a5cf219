//! Statements: texts of SQL that both engines understand, each with a name, all of them in one list for the test that
//! prepares every one on both.
//!
//! The parameters `$1, $2 …` of a text must first appear in ascending order: SQLite takes them for names and numbers
//! them by appearance, and so both engines agree. `::` is not portable (SQLite takes it for part of a name): `cast()`.

/// Which engine a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// SQLite, in a file of our own.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Engine {
    /// Returns the engine's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
        }
    }
}

/// Names statements, and lists them. A name that ends in `_POSTGRES` or `_SQLITE` is for that engine alone.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* const $name: &str = $text;)*

        /// Every statement of this file, by name.
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use statements;

/// Returns every statement that an engine must understand, by name.
pub fn statements_of(engine: Engine) -> impl Iterator<Item = (&'static str, &'static str)> {
    let other = match engine {
        Engine::Sqlite => "_POSTGRES",
        Engine::Postgres => "_SQLITE",
    };
    let all = [
        crate::analyzer::STATEMENTS,
        crate::analyzer::arrival::STATEMENTS,
        crate::analyzer::study::STATEMENTS,
        crate::change::STATEMENTS,
        crate::change::append::STATEMENTS,
        crate::change::retention::STATEMENTS,
        crate::content::STATEMENTS,
        crate::content::loose::STATEMENTS,
        crate::dump::STATEMENTS,
        crate::dump::analysis::STATEMENTS,
        crate::dump::property::STATEMENTS,
        crate::dump::retention::STATEMENTS,
        crate::dump::stack::STATEMENTS,
        crate::execution::STATEMENTS,
        crate::execution::claim::STATEMENTS,
        crate::execution::lane::STATEMENTS,
        crate::execution::retention::STATEMENTS,
        crate::execution::retry::STATEMENTS,
        crate::execution::unserved::STATEMENTS,
        crate::chunk::STATEMENTS,
        crate::image::STATEMENTS,
        crate::image::garbage::STATEMENTS,
        crate::node::STATEMENTS,
        crate::node::session::STATEMENTS,
        crate::pack::STATEMENTS,
        crate::parcel::STATEMENTS,
        crate::registry::STATEMENTS,
        crate::signature::STATEMENTS,
        crate::signature::count::STATEMENTS,
        crate::signature::rules::STATEMENTS,
        crate::signature::settle::STATEMENTS,
        crate::tenant::STATEMENTS,
        crate::token::STATEMENTS,
        crate::user::STATEMENTS,
    ];
    all.into_iter()
        .flatten()
        .copied()
        .chain(crate::transfer::statements())
        .filter(move |(name, _)| !name.ends_with(other))
}
