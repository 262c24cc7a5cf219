//! Egress: the user-mode network of one sandbox. It speaks TCP and UDP over the sandbox's wire and connects outwards with
//! the node's own sockets, only to whom the sandbox's rules allow; `docs/egress.md` says what a user sees of it.
//!
//! Invariants: no rule, no peer; nothing listens; the machine itself, its links and metadata services are out of reach
//! whatever the rules say; a name opens only addresses that are public; everything is bounded; one task owns it all.

mod address;
mod bucket;
mod connection;
mod count;
mod flow;
mod message;
mod name;
mod outside;
mod packet;
mod reach;
mod rule;
mod stack;
mod wire;

pub(crate) use address::{Sort, sort};
pub use count::Counts;
pub use outside::Outside;
pub use rule::RuleError;

use count::Counters;
use reach::Reach;
use rule::Rule;
use stack::{Parts, Stack};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use wire::Wire;

/// Why a sandbox has no egress.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// A rule cannot be followed.
    #[error("the rule `{rule}` cannot be followed")]
    Rule {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        #[source]
        source: RuleError,
    },
    /// There are more rules than one sandbox may have.
    #[error("a sandbox may have at most {} rules of egress", model::limits::MAX_EGRESS_RULES)]
    Rules,
    /// The wire cannot be used.
    #[error("the sandbox's wire cannot be used")]
    Wire(#[source] io::Error),
}

/// The network of one sandbox. It ends when this is dropped: connections are reset, the wire is closed.
///
/// The wire keeps the sandbox's network namespace alive, so the end of the sandbox alone ends nothing here: whoever hears
/// of that end drops this.
#[derive(Debug)]
pub struct Egress {
    counters: Arc<Counters>,
    _stop: DropGuard,
}

impl Egress {
    /// Starts the network behind a wire, a TUN device's raw IP packets, in a task of the tracker's.
    pub fn start(wire: OwnedFd, rules: &[String], tracker: &TaskTracker) -> Result<Self, EgressError> {
        Self::start_towards(Outside::default(), wire, rules, tracker)
    }

    /// Starts it with an outside of which something is settled beforehand.
    pub fn start_towards(
        outside: Outside,
        wire: OwnedFd,
        rules: &[String],
        tracker: &TaskTracker,
    ) -> Result<Self, EgressError> {
        let reach = Reach::new(parse(rules)?);
        let wire = Wire::new(wire).map_err(EgressError::Wire)?;
        let seed = getrandom::u64().map_err(|error| EgressError::Wire(io::Error::other(error)))?;
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let stack = Stack::new(Parts { wire, reach, outside, counters: counters.clone(), seed });
        tracker.spawn(stack.run(stop.clone()).in_current_span());
        Ok(Self { counters, _stop: stop.drop_guard() })
    }

    /// Refuses rules that cannot be followed, before a sandbox is made for them.
    pub fn check(rules: &[String]) -> Result<(), EgressError> {
        parse(rules).map(drop)
    }

    /// Returns what went over the wire so far.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

fn parse(rules: &[String]) -> Result<Vec<Rule>, EgressError> {
    if rules.len() > model::limits::MAX_EGRESS_RULES {
        return Err(EgressError::Rules);
    }
    let read = |rule: &String| Rule::parse(rule).map_err(|source| EgressError::Rule { rule: rule.clone(), source });
    rules.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn a_bad_rule_is_named() {
        let rules = ["ok.test".to_owned(), "127.0.0.1:80".to_owned()];
        let error = Egress::check(&rules).unwrap_err();
        assert_eq!(error.to_string(), "the rule `127.0.0.1:80` cannot be followed");
        assert_eq!(error.source().unwrap().to_string(), "no sandbox may reach what it names");
        assert!(Egress::check(&vec!["a.test".to_owned(); model::limits::MAX_EGRESS_RULES + 1]).is_err());
        assert!(Egress::check(&rules[..1]).is_ok());
    }
}
