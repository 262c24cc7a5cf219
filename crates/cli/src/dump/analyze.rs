//! `quarry dump analyze`: an analyzer set to work on all dumps that are meant, what it writes shown in their order.
//!
//! Each dump is an execution of its own, so that many are studied at once on many nodes. They are begun ahead of what is
//! shown, up to a bound; whoever breaks this off leaves no more than that behind, and taking it up again finds it.

use super::selection::{find, meant, refuse, split};
use crate::execution::outcome_text;
use crate::execution::transcript::{self, Next, Transcript, Until};
use crate::exit::{Exit, Failure};
use crate::output::Style;
use crate::progress;
use crate::session::Session;
use clap::Args;
use client::Client;
use indicatif::ProgressBar;
use model::analyzer::{MAX_STUDIES, NewStudies, NewStudy, Study, StudyState, check_name};
use model::chunk::Content;
use model::dump::query::Earnest;
use model::{Chunk, DumpId, Execution, ExecutionId, Outcome};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Instant;

/// Studies that are begun ahead of the one that is shown.
const MAX_AHEAD: usize = 4 * MAX_STUDIES;

/// Has an analyzer study dumps
///
/// What it writes is shown in the order of the dumps. Dumps that its current version has studied before are left out.
/// The exit code is 0 if it ended well on all of them, 1 if not, and 2 if there is no such analyzer or no such dump.
#[derive(Args)]
#[command(after_help = "Example:
  quarry dump analyze 004a8bf33b2cd204 OS-2359-diagnose
  quarry dump analyze --dry-run type=core cmd=svc.startd fmri
  quarry dump analyze --again cmd=svc.startd mtime=7d fmri")]
pub(crate) struct Analyze {
    /// Which dumps, and the analyzer's name; with the name alone, all dumps
    #[arg(required = true, value_name = "SPECIFICATION|ANALYZER")]
    words: Vec<String>,
    /// Also study what this version has studied before
    #[arg(long)]
    again: bool,
    /// Only tell which dumps would be studied
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print which execution studies which dump, and leave them to themselves
    #[arg(long, short, conflicts_with = "dry_run")]
    detach: bool,
}

/// A dump, and how its study stands.
struct Task {
    hash: String,
    study: Study,
}

/// What is told of a study as JSON.
#[derive(Serialize)]
struct Told<'t> {
    hash: &'t str,
    #[serde(flatten)]
    study: Study,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'t Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// The executions that are waited for, as Thoth tells of its jobs.
#[derive(Clone, Copy, Default)]
struct Jobs {
    first: Option<ExecutionId>,
    count: usize,
}

impl Jobs {
    /// Returns those of some studies that stand so.
    fn of(tasks: &[Task], state: StudyState) -> Self {
        let mut jobs = Self::default();
        let ids = tasks.iter().filter(|task| task.study.state == state).filter_map(|task| task.study.execution);
        ids.for_each(|id| jobs.add(Self { first: Some(id), count: 1 }));
        jobs
    }

    fn add(&mut self, others: Self) {
        self.first = self.first.or(others.first);
        self.count += others.count;
    }

    /// Returns words for them; none if there are none.
    fn words(self) -> Option<String> {
        let more = if self.count > 1 { format!(" and {} more", self.count - 1) } else { String::new() };
        self.first.map(|id| format!("job {id}{more}"))
    }
}

/// How many there were of each sort.
#[derive(Default)]
struct Count {
    studied: u64,
    failed: u64,
    before: u64,
    absent: u64,
}

impl Analyze {
    /// Runs the command.
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<Exit> {
        let Some((name, words)) = self.words.split_last() else { return Err(refuse("no analyzer is named")) };
        check_name(name)?;
        if let (_, [more, ..]) = split(words) {
            return Err(refuse(format!("`{more}` is no part of a specification")));
        }
        let client = session.client()?;
        let version = client.analyzer_get(name).await?.version;
        let meant = meant(&client, words).await?;
        let mut dumps = Vec::new();
        let gather = |found: Vec<model::Dump>| {
            dumps.extend(found.into_iter().map(|dump| (dump.id, dump.hash)));
            Ok(())
        };
        find(&client, &meant, gather).await?;
        if dumps.is_empty() {
            let failure = Failure::new(Exit::NotFound, "dump_not_found", "no dump is meant");
            return Err(failure.hint("`quarry dump ls` with the same specification shows which are").into());
        }
        let begin = Begin {
            client: &client,
            name,
            version,
            again: self.again,
            earnest: if self.dry_run { Earnest::Dry } else { Earnest::Real },
        };
        let (mut count, mut jobs, since) = (Count::default(), Jobs::default(), Instant::now());
        let is_shown = !self.dry_run && !self.detach;
        let (of, mut left) = (dumps.len() as u64, dumps.into_iter());
        let mut tasks = VecDeque::new();
        loop {
            while tasks.len() <= MAX_AHEAD - MAX_STUDIES && left.len() > 0 {
                let begun = begin.some(left.by_ref().take(MAX_STUDIES).collect()).await?;
                if is_shown {
                    jobs.add(wait_for(session, &begun));
                }
                tasks.extend(begun);
            }
            let Some(task) = tasks.pop_front() else { break };
            if is_shown {
                show(session, &task, &mut count, of).await?;
            } else {
                self.name_one(session, &task, &mut count)?;
            }
        }
        if let Some(words) = jobs.words() {
            let took = since.elapsed().as_secs();
            let took = format!("{}h{}m{}s", took / 3600, took / 60 % 60, took % 60);
            session.output.say(&format!("{words} completed in {took}"));
        }
        self.sum_up(session, (name, version), &count);
        // Where some were dropped by rule, the others are what is meant.
        let is_nothing = count.absent > 0 && count.studied + count.before == 0;
        Ok(if count.failed > 0 || is_nothing { Exit::Failed } else { Exit::Ok })
    }

    fn name_one(&self, session: &mut Session, task: &Task, count: &mut Count) -> anyhow::Result<()> {
        if !count.begun(&task.study) {
            return Ok(());
        }
        count.studied += 1;
        let Task { hash, study } = task;
        if session.output.is_json() {
            session.output.json_line(&Told { hash, study: *study, outcome: None, output: None })?;
        } else if let Some(execution) = study.execution.filter(|_| self.detach) {
            session.output.line(&format!("{hash} {execution}"))?;
        } else {
            session.output.line(hash)?;
        }
        Ok(())
    }

    fn sum_up(&self, session: &Session, (name, version): (&str, u32), count: &Count) {
        let dumps = |count: u64| format!("{count} dump{}", if count == 1 { "" } else { "s" });
        let done = match (self.dry_run, self.detach) {
            (true, _) => "would study",
            (_, true) => "is studying",
            _ => "studied",
        };
        let mut words = format!("version {version} of '{name}' {done} {}", dumps(count.studied));
        if count.failed > 0 {
            words.push_str(&format!("; it did not end well on {}", dumps(count.failed)));
        }
        if count.before > 0 {
            words.push_str(&format!("; it had studied {} before (--again)", dumps(count.before)));
        }
        if count.absent > 0 {
            words.push_str(&format!("; of {} there is no content", dumps(count.absent)));
        }
        session.output.say(&words);
    }
}

impl Count {
    /// Returns how many dumps are done with.
    const fn all(&self) -> u64 {
        self.studied + self.before + self.absent
    }

    /// Counts a study that there is nothing to see of; tells whether it is one that there is.
    fn begun(&mut self, study: &Study) -> bool {
        match study.state {
            StudyState::Begun | StudyState::Running => return true,
            StudyState::Done => self.before += 1,
            StudyState::Absent => self.absent += 1,
        }
        false
    }
}

/// How studies are begun.
struct Begin<'a> {
    client: &'a Client,
    name: &'a str,
    version: u32,
    again: bool,
    earnest: Earnest,
}

impl Begin<'_> {
    async fn some(&self, dumps: Vec<(DumpId, String)>) -> anyhow::Result<Vec<Task>> {
        let id = || client::id::fresh(ExecutionId::new);
        let studies = dumps.iter().map(|(dump, _)| NewStudy { dump: *dump, id: id() }).collect();
        let (version, again, earnest) = (Some(self.version), self.again, self.earnest);
        let begun = self.client.studies_begin(self.name, &NewStudies { version, studies, again, earnest }).await?;
        let hashes = dumps.into_iter().map(|(_, hash)| hash);
        Ok(hashes.zip(begun.studies).map(|(hash, study)| Task { hash, study }).collect())
    }
}

/// Says which studies have been begun, and returns those that are waited for.
fn wait_for(session: &Session, begun: &[Task]) -> Jobs {
    let mut jobs = Jobs::of(begun, StudyState::Begun);
    if let Some(words) = jobs.words() {
        session.output.say(&format!("created {words}"));
    }
    jobs.add(Jobs::of(begun, StudyState::Running));
    if let Some(words) = jobs.words() {
        session.output.say(&format!("waiting for completion of {words}"));
    }
    jobs
}

/// Shows what a study writes, to its end, and how it ended.
async fn show(session: &mut Session, task: &Task, count: &mut Count, of: u64) -> anyhow::Result<()> {
    let Task { hash, study } = task;
    let is_json = session.output.is_json();
    let has_begun = count.begun(study);
    let Some(id) = study.execution.filter(|_| has_begun) else {
        if is_json {
            session.output.json_line(&Told { hash, study: *study, outcome: None, output: None })?;
        }
        return Ok(());
    };
    let client = session.patient_client()?;
    let (execution, output) = follow(session, &client, id, (count.all(), of)).await?;
    count.studied += 1;
    let is_well = matches!(execution.outcome, Some(Outcome::Exited { code: 0 }));
    count.failed += u64::from(!is_well);
    if is_json {
        session.output.json_line(&Told { hash, study: *study, outcome: execution.outcome.as_ref(), output })?;
    } else if let Some(outcome) = execution.outcome.as_ref().filter(|_| !is_well) {
        session.output.flush()?;
        let label = session.output.err_style(Style::Bad, "error:");
        session.output.complain(&label, &format!("{hash}: {}", outcome_text(outcome)));
    }
    Ok(())
}

/// Passes on what an execution writes until it has ended; where JSON is wanted, it is gathered.
async fn follow(
    session: &Session,
    client: &Client,
    id: ExecutionId,
    far: (u64, u64),
) -> anyhow::Result<(Box<Execution>, Option<String>)> {
    let mut transcript = Transcript::new(client, id, None);
    let mut gathered = session.output.is_json().then(Vec::new);
    // What has no end of line yet must not be drawn over.
    let mut is_at_start = true;
    loop {
        let bar = is_at_start.then(|| progress::counted(session, far));
        let next = transcript.next(Until::End).await;
        bar.inspect(ProgressBar::finish_and_clear);
        match next? {
            Next::Chunks(chunks) => {
                for chunk in &chunks {
                    match &mut gathered {
                        Some(gathered) => gathered.extend(content(client, chunk).await?),
                        None => {
                            transcript::write(session, client, chunk, chunk.stream).await?;
                            is_at_start =
                                matches!(&chunk.content, Content::Inline { bytes } if bytes.0.ends_with(b"\n"));
                        }
                    }
                }
            }
            Next::Again(_) => gathered.iter_mut().for_each(Vec::clear),
            Next::Nothing(execution) => {
                let execution = match execution.filter(|execution| execution.state.is_final()) {
                    Some(execution) => execution,
                    None => Box::new(client.execution_get(id).await?),
                };
                return Ok((execution, gathered.map(|text| String::from_utf8_lossy(&text).into_owned())));
            }
        }
    }
}

async fn content(client: &Client, chunk: &Chunk) -> anyhow::Result<Vec<u8>> {
    match &chunk.content {
        Content::Inline { bytes } => Ok(bytes.0.clone()),
        Content::Blob { digest, .. } => {
            let (mut bytes, mut reader) = (Vec::new(), client.blob_get(*digest, None).await?);
            while let Some(piece) = reader.next().await? {
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        }
    }
}
