//! What shows on a terminal that something lasts: how a transfer goes, how many steps are done, or only that it goes on.

use crate::session::Session;
use client::blob::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::time::Duration;

/// How often a sign of life is given.
const BEAT: Duration = Duration::from_millis(200);

/// Returns a bar that shows how a transfer goes, where somebody looks.
pub(crate) fn bar(session: &Session, size: Option<u64>) -> ProgressBar {
    match size {
        Some(size) => {
            shown(session, ProgressBar::new(size), "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
        }
        None => shown(session, ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}"),
    }
}

/// Returns what moves the bar.
pub(crate) fn progress(bar: &ProgressBar) -> Progress {
    let bar = bar.clone();
    Arc::new(move |bytes| bar.set_position(bytes))
}

/// Returns what shows that something is being done; whoever is done clears it, before anything else is written.
pub(crate) fn doing(session: &Session, what: &'static str) -> ProgressBar {
    let bar = shown(session, ProgressBar::no_length(), "{spinner} {msg}, {elapsed}").with_message(what);
    bar.enable_steady_tick(BEAT);
    bar
}

/// The same, where of so many dumps so many are done.
pub(crate) fn counted(session: &Session, (done, of): (u64, u64)) -> ProgressBar {
    let bar = ProgressBar::new(of).with_position(done);
    let bar = shown(session, bar, "{spinner} {bar:30} {pos} of {len} dumps");
    bar.enable_steady_tick(BEAT);
    bar
}

/// Returns what shows how many dumps were looked at, where nobody knows how many they will be.
pub(crate) fn counting(session: &Session, what: &'static str) -> ProgressBar {
    shown(session, ProgressBar::no_length(), "{spinner} {msg}; dumps: {pos}, {elapsed}").with_message(what)
}

/// Returns what shows how far a database has been moved: whoever moves it says of which table how many rows.
pub(crate) fn moving(session: &Session) -> ProgressBar {
    shown(session, ProgressBar::no_length(), "{spinner} {msg} {pos}")
}

fn shown(session: &Session, bar: ProgressBar, template: &str) -> ProgressBar {
    match session.output.shows_progress() {
        true => bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed")),
        false => ProgressBar::hidden(),
    }
}
