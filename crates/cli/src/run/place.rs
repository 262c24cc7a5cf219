//! Files of this side that the sandbox shall see: the program, if it is one, and whatever else is named.

use crate::blob;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use client::Client;
use model::NewExecution;
use model::sandbox::FileIn;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where files stand unless somebody says otherwise.
const FOLDER: &str = "/work";
/// Arguments that are told of when they name files that were not sent along.
const MAX_UNSENT: usize = 3;
/// Where programs belong to a system, and work only there.
const SYSTEM: [&str; 7] = ["/bin/", "/sbin/", "/lib/", "/lib64/", "/usr/", "/opt/", "/nix/"];

/// A file that somebody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    source: PathBuf,
    target: String,
    is_usual: bool,
}

/// Reads `SOURCE` or `SOURCE:TARGET`.
pub(super) fn file(text: &str) -> Result<File, String> {
    let (source, target) = match text.rsplit_once(':') {
        Some((source, target)) if !source.is_empty() && !target.is_empty() => (source, Some(target)),
        _ => (text, None),
    };
    let place = match target {
        Some(target) if target.starts_with('/') => target.to_owned(),
        Some(target) => format!("{FOLDER}/{target}"),
        None => format!("{FOLDER}/{}", name(Path::new(source)).ok_or_else(|| format!("`{text}` names no file"))?),
    };
    Ok(File { source: PathBuf::from(source), target: place, is_usual: target.is_none() })
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Returns the program's file, if it is one of this side.
pub(super) fn program(new: &NewExecution) -> anyhow::Result<Option<PathBuf>> {
    let Some(word) = new.command.first().filter(|word| new.image.is_none() && word.contains('/')) else {
        return Ok(None);
    };
    if SYSTEM.iter().any(|folder| word.starts_with(folder)) {
        return Ok(None);
    }
    let path = Path::new(word);
    let refuse = |code, why: &str| Failure::new(Exit::Program(code), "program", format!("`{word}` {why}"));
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // The node may have what this side has not.
        Err(_) if path.is_absolute() => return Ok(None),
        Err(error) => return Err(refuse(127, &format!("cannot be read: {error}")).into()),
    };
    if metadata.is_dir() {
        return Err(refuse(126, "is a folder").into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(refuse(126, "is not executable").hint(format!("`chmod +x {word}`")).into());
    }
    Ok(Some(path.to_owned()))
}

/// Stores the files and adds them to the request; returns what was done, for those who want to know.
pub(super) async fn send(
    (session, client): (&Session, &Client),
    new: &mut NewExecution,
    program: Option<PathBuf>,
    files: Vec<File>,
) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    let is_usual = program.is_some() || files.iter().any(|file| file.is_usual);
    if let Some(path) = program {
        let name = name(&path).ok_or_else(|| {
            Failure::new(Exit::Program(126), "program", format!("`{}` has a name that is no text", path.display()))
        })?;
        let file = File { target: format!("{FOLDER}/{name}"), source: path.clone(), is_usual: true };
        new.command[0].clone_from(&file.target);
        // Who names the program among the files as well means it once.
        if !files.iter().any(|named| named.target == file.target) {
            notes.push(place((session, client), new, &file).await?);
        }
    }
    for file in &files {
        notes.push(place((session, client), new, file).await?);
    }
    if is_usual && new.image.is_none() && new.sandbox.cwd.is_none() {
        new.sandbox.cwd = Some(FOLDER.to_owned());
    }
    Ok(notes)
}

/// Returns the arguments that name files of this side which the sandbox does not see, unless it sees folders of the node.
pub(super) fn unsent(new: &NewExecution) -> Vec<String> {
    let cwd = Path::new(new.sandbox.cwd.as_deref().unwrap_or(FOLDER));
    let is_sent = |word: &str| new.sandbox.files.iter().any(|file| Path::new(&file.target) == cwd.join(word));
    let is_file = |word: &str| Path::new(word).is_file() && !SYSTEM.iter().any(|folder| word.starts_with(folder));
    let words = new.command.iter().skip(1).filter(|_| new.sandbox.mounts.is_empty());
    words.filter(|word| is_file(word) && !is_sent(word)).take(MAX_UNSENT).cloned().collect()
}

async fn place((session, client): (&Session, &Client), new: &mut NewExecution, file: &File) -> anyhow::Result<String> {
    let digest = blob::put_file(session, client, &file.source).await?;
    let executable = std::fs::metadata(&file.source).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    new.sandbox.files.push(FileIn { target: file.target.clone(), digest, executable });
    Ok(format!("`{}` is seen as `{}`", file.source.display(), file.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let found = file(text).ok();
            let found = found.as_ref().map(|file| (file.source.to_str().expect("is text"), file.target.as_str()));
            assert_eq!(found, expected, "{text}");
        };
        check("data.txt", Some(("data.txt", "/work/data.txt")));
        check("../a/data.txt", Some(("../a/data.txt", "/work/data.txt")));
        check("data.txt:/etc/motd", Some(("data.txt", "/etc/motd")));
        check("data.txt:in/x", Some(("data.txt", "/work/in/x")));
        check("a:b:/c", Some(("a:b", "/c")));
        check("..", None);
        check("", None);
    }
}
