//! Taking a core in: from the kernel's pipe or socket into the spool, in one pass, for so long and no longer.
//!
//! Whoever reads must end: at the deadline, at the longest that a dump may be, or when the spool grants no more room, the
//! stream simply ends for the splitter, and what came until then is kept as a dump that is cut. So the program that crashed
//! is held as long as the deadline says and what is packed by then takes to be written.

use super::account::Drop;
use super::crash::{Crash, Found, look};
use super::settings::Settings;
use super::spool::{About, Coming, Layout, Spool};
use dump::parcel::{Split, SplitError, split_stream_by};
use model::DumpId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that may be on their way between what was read and what is written.
const UNDER_WAY_BYTES: u64 = 32 << 20;
/// Bytes of room that are wished for beyond what is needed now.
const WISHED_BYTES: u64 = 16 << 20;

/// What came of a crash.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is in the spool.
    Kept(Box<About>),
    /// It is not, and counted as such.
    Dropped(Drop),
}

/// Why a stream was ended before its end.
const CUTS: [Option<&str>; 4] = [None, Some("deadline"), Some("size"), Some("budget")];
const DEADLINE: u8 = 1;
const SIZE: u8 = 2;
const BUDGET: u8 = 3;

/// A dump that may come.
pub(crate) struct Admitted {
    coming: Coming,
    found: Found,
}

impl Admitted {
    /// Gives it up before anything came.
    pub(crate) fn fail(&self, spool: &Spool) -> anyhow::Result<()> {
        spool.give_up(&self.coming, Drop::Failed)
    }
}

/// Looks at a crash, counts it, and says whether its core is wanted.
pub(crate) fn admit(
    (settings, spool): (&Settings, &Spool),
    crash: &Crash,
    until: Instant,
) -> anyhow::Result<Result<Admitted, Drop>> {
    let found = look(crash, settings, client::id::now());
    let id = client::id::fresh(DumpId::new);
    if settings.obey_core_limit && crash.core_limit == Some(0) {
        spool.refuse(&found, Drop::Limit, until)?;
        return Ok(Err(Drop::Limit));
    }
    Ok(spool.begin(&found, id, until)?.map(|coming| Admitted { coming, found }))
}

/// Takes a core in that may come.
pub(crate) fn take(
    (settings, spool): (&Settings, &Spool),
    admitted: Admitted,
    source: impl Read + AsFd + Send,
    until: Instant,
) -> anyhow::Result<Taken> {
    let Admitted { coming, found } = admitted;
    let (written, cut) = (AtomicU64::new(0), AtomicU8::new(0));
    let reader = Timely {
        source,
        until,
        left: settings.dump_bytes_max,
        read: 0,
        granted: 0,
        written: &written,
        cut: &cut,
        room: (spool, &coming),
    };
    let mut layout = Layout::default();
    let split = split_stream_by(reader, settings.left_out.as_deref(), &mut |packed| {
        let (place, is_new) = layout.place(&packed.frame);
        if is_new {
            coming.frames.write_all_at(&packed.bytes, place)?;
            written.store(layout.end(), Ordering::Release);
        }
        Ok(())
    });
    let why = match &split {
        Ok(split) if split.manifest.size > 0 => None,
        Ok(_) if cut.load(Ordering::Acquire) == BUDGET => Some(Drop::Budget),
        Ok(_) => Some(Drop::Empty),
        Err(SplitError::Redaction(_)) => Some(Drop::Redaction),
        Err(_) => Some(Drop::Failed),
    };
    if let Some(why) = why {
        spool.give_up(&coming, why)?;
        if why != Drop::Redaction {
            split?;
        }
        return Ok(Taken::Dropped(why));
    }
    let split = split?;
    let about = about(coming.id, found, &split, CUTS[usize::from(cut.load(Ordering::Acquire))]);
    spool.keep(&coming, &about, &split.manifest, layout.end())?;
    Ok(Taken::Kept(Box::new(about)))
}

fn about(id: DumpId, found: Found, split: &Split, cut: Option<&str>) -> About {
    let mut process = found.process;
    if let (Some(cut), Some(process)) = (cut, process.as_object_mut()) {
        process.insert("cut".to_owned(), cut.into());
    }
    About {
        id,
        program: found.program,
        hash: split.hash(),
        kind: split.head.kind(),
        is_truncated: split.is_truncated() || cut.is_some(),
        cut: cut.map(str::to_owned),
        name: found.name,
        size: split.manifest.size,
        facts: found.facts,
        properties: BTreeMap::from([("process".to_owned(), process)]),
        redaction: split.redaction.clone(),
    }
}

/// A stream that ends in time.
struct Timely<'s, R> {
    source: R,
    until: Instant,
    /// Bytes that may still come.
    left: u64,
    read: u64,
    granted: u64,
    written: &'s AtomicU64,
    cut: &'s AtomicU8,
    room: (&'s Spool, &'s Coming),
}

impl<R: Read + AsFd> Timely<'_, R> {
    fn end(&self, why: u8) -> io::Result<usize> {
        self.cut.store(why, Ordering::Release);
        Ok(0)
    }

    /// Makes sure that whatever becomes of the next bytes has room.
    fn has_room(&mut self, bytes: u64) -> io::Result<bool> {
        let read = self.read + bytes;
        // What cannot be packed grows a little.
        let most = read + read / 32 + (256 << 10);
        let needed = most.min(self.written.load(Ordering::Acquire) + UNDER_WAY_BYTES);
        if needed <= self.granted {
            return Ok(true);
        }
        let (spool, coming) = self.room;
        match spool.grant(coming, needed, needed + WISHED_BYTES, self.until)? {
            Some(granted) => self.granted = granted,
            None => return Ok(false),
        }
        Ok(true)
    }
}

impl<R: Read + AsFd> Read for Timely<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cut.load(Ordering::Acquire) != 0 {
            return Ok(0);
        }
        loop {
            let Some(left) = self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return self.end(DEADLINE);
            };
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.source, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.left == 0 {
            // Whether anything more would come tells whether it is cut.
            return if self.source.read(&mut [0])? == 0 { Ok(0) } else { self.end(SIZE) };
        }
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        if !self.has_room(most as u64)? {
            return self.end(BUDGET);
        }
        let read = self.source.read(&mut into[..most])?;
        self.read += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
