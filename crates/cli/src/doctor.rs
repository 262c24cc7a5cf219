//! `quarry doctor`: what this machine can do for Quarry, what that means, and how to mend it.
//!
//! `facts.rs` reads the machine and judges nothing; every check is a pure function from facts to a finding, so that a
//! test can ask what is said of machines we do not have.

mod backend;
mod facts;
mod finding;
mod kernel;
mod machine;
pub(crate) mod probe;

use crate::exit::Exit;
use crate::output::{Style, printable};
use crate::server::PlaceArgs;
use crate::session::Session;
use clap::Args;
use facts::Facts;
use finding::{Finding, Level};

/// Examines this machine, and explains what is found and how to mend it
///
/// Fails only if something is missing without which `quarry up` cannot work here. Warnings name what will not work
/// well, or not at all, later.
#[derive(Args)]
#[command(after_help = "Example:
  quarry doctor
  quarry doctor --data /var/lib/quarry --db postgres://quarry@db.example.org/quarry --blobs s3://quarry-blobs")]
pub(crate) struct Doctor {
    #[command(flatten)]
    place: PlaceArgs,
}

impl Doctor {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let config = self.place.load(Vec::new())?.config;
        let data = config.server.data.clone();
        let facts = tokio::task::spawn_blocking(move || Facts::gather(&data)).await?;
        let mut findings = examine(&facts);
        findings.push(backend::database(&config).await);
        findings.push(backend::bucket(&config).await);
        let has_failed = findings.iter().any(|finding| finding.level == Level::Failed);
        if session.output.is_json() {
            session.output.json(&serde_json::json!({ "ok": !has_failed, "findings": findings }))?;
        } else {
            for finding in &findings {
                show(session, finding)?;
            }
            session.output.say(&summary(&findings));
        }
        Ok(if has_failed { Exit::Failed } else { Exit::Ok })
    }
}

/// Looks at everything, in the order in which it is told.
fn examine(facts: &Facts) -> Vec<Finding> {
    vec![
        kernel::version(facts),
        machine::memory(facts),
        machine::disk(facts),
        machine::sync(facts),
        machine::open_files(facts),
        machine::clock(facts),
        kernel::user_namespaces(facts),
        kernel::cgroups(facts),
        kernel::overlay(facts),
        kernel::seccomp(facts),
        kernel::landlock(facts),
        kernel::virtual_machines(facts),
        kernel::core_pattern(facts),
        kernel::tracing(facts),
    ]
}

fn show(session: &mut Session, finding: &Finding) -> anyhow::Result<()> {
    let output = &mut session.output;
    let style = match finding.level {
        Level::Ok => Style::Good,
        Level::Note => Style::Strong,
        Level::Warning => Style::Doubtful,
        Level::Failed => Style::Bad,
    };
    let level = output.style(style, &format!("{:<8}", finding.level.as_str()));
    output.line(&format!("{level} {:<17} {}", finding.name, printable(&finding.found)))?;
    for (label, text) in [("", Some(&finding.meaning)), ("mend: ", finding.mend.as_ref())] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            output.line(&format!("{:26} {label}{}", "", printable(text)))?;
        }
    }
    Ok(())
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Failed), count(Level::Warning)) {
        (0, 0) => "everything is in order".to_owned(),
        (0, warnings) => format!("`quarry up` works here; warnings: {warnings}"),
        (failed, warnings) => format!("`quarry up` will not work here; failed: {failed}, warnings: {warnings}"),
    }
}

#[cfg(test)]
mod tests;
