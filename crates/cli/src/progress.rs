//! What shows on a terminal that something lasts which is no transfer: that it goes on, or how many of its steps are done.

use crate::session::Session;
use indicatif::{ProgressBar, ProgressStyle};
use std::borrow::Cow;
use std::time::Duration;

/// How often a sign of life is given.
const BEAT: Duration = Duration::from_millis(200);

/// Returns what shows that something is being done; whoever is done clears it, before anything else is written.
pub(crate) fn doing(session: &Session, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    beating(session, ProgressBar::no_length(), "{spinner} {msg}, {elapsed}", what)
}

/// The same, where of so many steps so many are done.
pub(crate) fn counted(session: &Session, (done, of): (u64, u64), what: impl Into<Cow<'static, str>>) -> ProgressBar {
    beating(session, ProgressBar::new(of).with_position(done), "{spinner} {bar:30} {pos} of {len} {msg}", what)
}

fn beating(session: &Session, bar: ProgressBar, template: &str, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    if !session.output.shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = bar.with_style(style).with_message(what);
    bar.enable_steady_tick(BEAT);
    bar
}
