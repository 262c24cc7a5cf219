//! The accounts of a machine that catches dumps: of each program how often it crashed, how often that was kept, and why not.
//!
//! Every crash is counted once when it is seen and once when it is clear what became of it, always under the spool's lock,
//! so the sums are exact: what was seen was kept, was dropped for a reason, or is under way. Programs are bounded; the one
//! that has crashed least recently makes way, and its counts go to `others`.

use model::DumpId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Programs that have an account of their own.
const MAX_PROGRAMS: usize = 1_024;
/// Bytes of a program's name.
pub(super) const MAX_PROGRAM_BYTES: usize = 512;
/// Bytes of all accounts as they are written.
pub(super) const MAX_ACCOUNTS_BYTES: u64 = 32 << 20;

/// Why a dump was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Drop {
    /// Its program had crashed often enough in this window.
    Rate,
    /// What is kept and not sent yet leaves no room in the spool.
    Budget,
    /// The file system is nearly full.
    Disk,
    /// The program's own limit says that it wants none.
    Limit,
    /// Nothing came.
    Empty,
    /// What rules leave out of it could not be found.
    Redaction,
    /// It could not be read or written.
    Failed,
    /// Whoever caught it was ended in the middle of it.
    Interrupted,
}

impl Drop {
    /// Returns what is said of it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Rate => "its program has crashed often enough for now",
            Self::Budget => "the spool is full of dumps that have not been sent",
            Self::Disk => "the disk is nearly full",
            Self::Limit => "the program's own limit allows no core",
            Self::Empty => "nothing came",
            Self::Redaction => "what is to be left out of it cannot be found",
            Self::Failed => "it could not be read or written",
            Self::Interrupted => "whoever caught it was ended in the middle of it",
        }
    }
}

/// How often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Account {
    /// It crashed.
    pub(crate) seen: u64,
    /// That was kept.
    pub(crate) kept: u64,
    /// Of what was kept, the end was cut off.
    pub(crate) cut: u64,
    /// It was not kept, and why.
    pub(crate) dropped: BTreeMap<Drop, u64>,
    /// When those were that count for the window, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) recent: Vec<i64>,
    /// When it crashed last.
    pub(super) last: i64,
}

impl Account {
    fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.kept += other.kept;
        self.cut += other.cut;
        for (why, count) in &other.dropped {
            *self.dropped.entry(*why).or_default() += count;
        }
    }

    /// Counts one that was not kept.
    pub(super) fn drop(&mut self, why: Drop) {
        *self.dropped.entry(why).or_default() += 1;
    }

    /// Takes a place in the window, if there is one.
    pub(super) fn admit(&mut self, at: i64, (count, window_ms): (usize, u64)) -> bool {
        let from = at.saturating_sub(i64::try_from(window_ms).unwrap_or(i64::MAX));
        // What lies in the future was counted by a clock that has been put back since.
        self.recent.retain(|then| (from..=at).contains(then));
        let is_free = self.recent.len() < count;
        if is_free {
            self.recent.push(at);
        }
        is_free
    }
}

/// All accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Accounts {
    /// By program.
    pub(crate) programs: BTreeMap<String, Account>,
    /// Of programs that had to make way.
    pub(crate) others: Account,
    /// Dumps that were seen and of which it is not clear yet what becomes, with their programs.
    pub(super) under_way: BTreeMap<DumpId, String>,
}

impl Accounts {
    /// Returns a program's account for another crash of it, which is counted.
    pub(super) fn seen(&mut self, program: &str, at: i64) -> &mut Account {
        let account = self.of(program);
        account.seen += 1;
        account.last = at;
        account
    }

    /// Returns a program's account.
    pub(super) fn of(&mut self, program: &str) -> &mut Account {
        if !self.programs.contains_key(program) && self.programs.len() >= MAX_PROGRAMS {
            let oldest = self.programs.iter().min_by_key(|(_, account)| account.last).map(|(name, _)| name.clone());
            if let Some(gone) = oldest.and_then(|name| self.programs.remove(&name)) {
                self.others.add(&gone);
            }
        }
        self.programs.entry(program.to_owned()).or_default()
    }

    /// Returns the sums.
    pub(crate) fn sum(&self) -> Account {
        let mut sum = Account::default();
        self.programs.values().chain([&self.others]).for_each(|account| sum.add(account));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_on() {
        let mut account = Account::default();
        let mut check = |at: i64, expected: bool| assert_eq!(account.admit(at, (2, 100)), expected, "at {at}");
        check(0, true);
        check(10, true);
        check(50, false);
        check(100, false);
        check(101, true);
        check(105, false);
        check(111, true);
        // The clock was put back: nobody is kept out by what has not happened yet.
        check(3, true);
    }

    #[test]
    fn sums_survive_programs_that_make_way() {
        let mut accounts = Accounts::default();
        let all = MAX_PROGRAMS as u64 + 50;
        for number in 0..all {
            let account = accounts.seen(&format!("/bin/{number}"), i64::try_from(number).expect("is small"));
            if number % 3 == 0 { account.drop(Drop::Rate) } else { account.kept += 1 }
        }
        assert_eq!(accounts.programs.len(), MAX_PROGRAMS);
        let sum = accounts.sum();
        assert_eq!((sum.seen, sum.kept + sum.dropped[&Drop::Rate]), (all, all));
        let text = serde_json::to_string(&accounts).expect("is JSON");
        assert_eq!(serde_json::from_str::<Accounts>(&text).expect("reads back"), accounts);
    }
}
