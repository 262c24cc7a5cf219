//! Server-sent events, as the HTML standard writes them: bytes in, events out.
//!
//! An event larger than `MAX_EVENT_BYTES` is refused before it is gathered. `retry:` and the event's name are ignored,
//! since a server shall not decide how we wait and sends one sort of event alone.

use bytes::Bytes;

/// Bytes of one event, and so of one line: far more than the largest change.
pub(crate) const MAX_EVENT_BYTES: usize = 1 << 20;

/// An event, or a sign of life that carries nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where the cursor stands after it.
    pub(crate) id: Option<String>,
    /// What it carries; nothing means that only the cursor moves.
    pub(crate) payload: Option<String>,
}

/// What cannot be an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EventError {
    #[error("an event has more than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    #[error("an event is not UTF-8")]
    NotText,
}

/// Gathers events out of whatever pieces the network makes of them.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    event: Event,
    after_return: bool,
}

impl EventReader {
    /// Takes the next piece and appends the events that are complete now.
    pub(crate) fn push(&mut self, piece: &Bytes, events: &mut Vec<Event>) -> Result<(), EventError> {
        let mut rest = &piece[..];
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let is_second_half = rest[end] == b'\n' && end == 0 && self.line.is_empty() && self.after_return;
            self.after_return = rest[end] == b'\r';
            if !is_second_half {
                self.gather(&rest[..end])?;
                self.line_end(events)?;
            }
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            self.after_return = false;
        }
        self.gather(rest)
    }

    fn gather(&mut self, part: &[u8]) -> Result<(), EventError> {
        let held = self.event.payload.as_ref().map_or(0, String::len) + self.line.len();
        if held + part.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLarge);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_end(&mut self, events: &mut Vec<Event>) -> Result<(), EventError> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| EventError::NotText)?;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if event != Event::default() {
                events.push(event);
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field.trim_start_matches('\u{feff}') {
            "id" => self.event.id = Some(value.to_owned()),
            "data" => match &mut self.event.payload {
                Some(payload) => {
                    payload.push('\n');
                    payload.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Event>, EventError> {
        let (mut reader, mut events) = (EventReader::default(), Vec::new());
        for piece in pieces {
            reader.push(&Bytes::copy_from_slice(piece), &mut events)?;
        }
        Ok(events)
    }

    fn event(id: &str, payload: &str) -> Event {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event { id: some(id), payload: some(payload) }
    }

    #[test]
    fn events_are_read_however_they_are_written() {
        let check = |text: &str, expected: &[Event]| {
            assert_eq!(read(&[text.as_bytes()]).expect("is an event"), expected, "{text:?} whole");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(read(&bytes).expect("is an event"), expected, "{text:?} byte by byte");
        };
        check("id: 7\nevent: change\ndata: {}\n\n", &[event("7", "{}")]);
        check("id:7\r\ndata:{}\r\n\r\n", &[event("7", "{}")]);
        check("id: 7\rdata: {}\r\r", &[event("7", "{}")]);
        check("\u{feff}id: 7\n\n", &[event("7", "")]);
        check(": still here\n\n", &[]);
        check("id: 9\n\n", &[event("9", "")]);
        check("data: a\ndata: b\n\nid: 2\ndata: c\n\n", &[event("", "a\nb"), event("2", "c")]);
        check("id: 7\ndata: {}\n", &[]);
        check("retry: 1\nfoo\nid: 1\n\n\n\n", &[event("1", "")]);
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let long = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(read(&[b"data: ", &long]), Err(EventError::TooLarge));
        let half = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT_BYTES / 2], b"\n"].concat();
        assert_eq!(read(&[&half, &half]), Err(EventError::TooLarge));
        assert_eq!(read(&[b"data: \xff\n\n"]), Err(EventError::NotText));
    }
}
